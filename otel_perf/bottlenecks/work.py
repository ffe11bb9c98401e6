"""Work that a span hands to a pool: how long it waited there, in which thread it ran, and what CPU it took.

Without this the time of a handler that a framework runs in a thread would look like waiting.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures.thread import _WorkItem
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace

from otel_perf.bottlenecks import loops
from otel_perf.bottlenecks.place import here
from otel_perf.bottlenecks.root import Work
from otel_perf.bottlenecks.run_queue import account
from otel_perf.core import executors
from otel_perf.core.patches import put
from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.bottlenecks.processor import BottleneckProcessor
    from otel_perf.core.guard import Guard

WORKS: Final = 512  # that are remembered of one local root


class Workshop:
    """The work that is under way. Thread-safe."""

    def __init__(self, processor: BottleneckProcessor, guard: Callable[[], Guard]) -> None:
        self.running: dict[int, Work] = {}  # by thread
        self._busy: set[int] = set()  # threads of a ThreadPoolExecutor that run something
        self._processor = processor
        self._guard = guard
        self._complete = False

    def install(self, undo: ExitStack) -> None:
        """Look at every ``submit`` to a ThreadPoolExecutor; at AnyIO's threads when they are first used."""
        self._watch_items(undo)
        executors.watch(self._submitted, undo)
        self._undo = undo

    def begun(self) -> None:
        """A local root was started: look at AnyIO's threads too, once that is there."""
        if not self._complete and "anyio.to_thread" in sys.modules:
            self._complete = True
            self._watch_anyio(sys.modules["anyio.to_thread"])

    def _watch_anyio(self, module: Any) -> None:
        """Starlette runs plain functions in them."""
        original = module.run_sync

        async def run_sync(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            try:
                limiter = kwargs.get("limiter") or module.current_default_thread_limiter()
                func = self._wrapped(func, "AnyIO's worker threads", full=limiter.available_tokens <= 0)
            except Exception as error:
                self._guard().handle(error)
            return await original(func, *args, **kwargs)

        def restore() -> None:
            if module.run_sync is run_sync:
                module.run_sync = original

        run_sync.__wrapped__ = original  # type: ignore[attr-defined]
        module.run_sync = run_sync
        self._undo.callback(restore)

    def _submitted(self, executor: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            threads = executor._max_workers
            return self._wrapped(function, f"a ThreadPoolExecutor of {threads}", full=self._full(executor, threads))
        except Exception as error:
            self._guard().handle(error)
            return function

    def _full(self, executor: Any, most: int) -> bool:
        """Whether what is submitted now has to wait for a thread."""
        waiting: int = executor._work_queue.qsize()
        threads = tuple(executor._threads)
        if len(threads) < most or len(self._busy) + waiting < most:  # those of all pools are no fewer than its own
            return False
        return sum(thread.ident in self._busy for thread in threads) + waiting >= most

    def _watch_items(self, undo: ExitStack) -> None:
        """The executor's own count of idle threads is too high in CPython 3.11 as soon as work has waited once."""
        original, busy = vars(_WorkItem)["run"], self._busy

        @wraps(original)
        def run(*args: Any, **kwargs: Any) -> None:
            thread = get_ident()
            if thread in busy:  # work that runs other work itself
                original(*args, **kwargs)
                return
            busy.add(thread)
            try:
                original(*args, **kwargs)
            finally:
                busy.discard(thread)

        put(_WorkItem, "run", run, undo)

    def _wrapped(self, function: Callable[..., Any], pool: str, *, full: bool) -> Callable[..., Any]:
        span: Any = trace.get_current_span()
        enclosing = getattr(span, "enclosing", None)  # a lazy span stays lazy for this
        context = (span if enclosing is None else enclosing()).get_span_context()
        known = self._processor.open.get(context.span_id)
        if known is None or known[0].trace_id != context.trace_id or loops.greenlets():
            return function
        root = known[0]
        if root.works is None:
            root.works = []
        if len(root.works) >= WORKS:
            return function
        work = Work(root, context.span_id, pool, time.time_ns(), get_ident())
        if full:
            work.full, work.site = True, here(2)
        root.works.append(work)
        return partial(self._run, work, function)

    def _run(self, work: Work, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        thread = work.thread = get_ident()
        outer = self.running.get(thread)
        self.running[thread] = work
        work.started = time.time_ns()
        queue, process, cpu = account(), time.process_time_ns(), time.thread_time_ns()
        try:
            return function(*args, **kwargs)
        finally:
            work.cpu, work.process = time.thread_time_ns() - cpu, time.process_time_ns() - process
            work.queue = account().since(queue)
            work.ended = time.time_ns()
            if outer is None:
                self.running.pop(thread, None)
            else:
                self.running[thread] = outer
