"""The span processor between the SDK and the exporters: keeps the tree of open spans, and lets go of it at once.

What it does for each span has to be cheap: two dictionary operations and two small tuples. Only a local root of
at least :data:`HOLD` is looked at further, in another thread; its spans of at least that length wait for the result.
"""

from __future__ import annotations

import time
from contextlib import suppress
from math import inf
from time import process_time_ns, thread_time_ns, time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_perf.bottlenecks import loops
from otel_perf.bottlenecks.place import here
from otel_perf.bottlenecks.root import CLIENT, ENDLESS, SPANS, Root
from otel_perf.bottlenecks.run_queue import account
from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from otel_perf.bottlenecks.baseline import Baselines
    from otel_perf.bottlenecks.root import Open
    from otel_perf.core.guard import Guard

HOLD: Final = 50_000_000  # ns: shorter local roots are not looked at, shorter spans not held back
OPEN: Final = 10_000  # spans that may be open; more are handed on without being recorded
SWEEP: Final = 1.0  # seconds between looks for spans that never end, once there are so many
KEPT: Final = 50_000  # ended spans of local roots that are open or wait to be looked at, in the whole process
LAST_LOOK: Final = 2.0  # seconds for what still waits when the program ends
CHUNK: Final = 64  # of those that are counted at once
SITE_AFTER: Final = 5_000_000  # ns since the root's start, before which no line is looked up for repeated calls
SITE_LONG: Final = 30_000_000  # ns: a client span from which on its line is looked up when it ends
NEW: Final = 1_000_000  # ns: a span with an older start was made after the fact, and its CPU time is not known
TRACE_ID, SPAN_ID, IS_REMOTE = range(3)  # a SpanContext is a tuple
_SILENT: Final = (SpanProcessor.on_start, BatchSpanProcessor.on_start)
_TRACE_BITS: Final = 2**56  # of a trace id are random, by W3C Trace Context 2


class BottleneckProcessor(SpanProcessor):
    """Thread-safe without a lock of its own: what threads share changes by single steps of dictionaries and deques."""

    def __init__(self, guard: Callable[[], Guard], baselines: Baselines) -> None:
        self.on = False
        self.finished: Callable[[Root], None] | None = None  # a root that may have findings
        self.begun: Callable[[Root], None] | None = None
        self.flush: Callable[[float], None] | None = None
        self.share = 1.0
        self.open: dict[int, Open] = {}  # by span id
        self.roots: dict[int, Root] = {}  # by id()
        self._chunks: list[None] = []  # of kept spans
        self.noted = 0  # when something happened last for which spans are looked at that are short (ns)
        self.skipped = 0  # spans that were not recorded
        self.holding: Callable[[], None] | None = None  # a span is held back
        self._sweep_after = 0.0
        self._baselines = baselines
        self._guard = guard
        self._sinks: tuple[SpanProcessor, ...] = ()
        self._starting: tuple[SpanProcessor, ...] = ()

    @property
    def kept(self) -> int:
        """Ended spans that are kept, by whole chunks."""
        return len(self._chunks) * CHUNK

    def feed(self, sink: SpanProcessor) -> None:
        """Hand finished spans on to ``sink`` from now on."""
        self._sinks = (*self._sinks, sink)
        if type(sink).on_start not in _SILENT:
            self._starting = (*self._starting, sink)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Record that ``span`` is open."""
        for sink in self._starting:
            sink.on_start(span, parent_context)
        if not self.on:
            return
        try:
            live: Any = span  # not its properties, nor those of its context, which would take a third of the time
            context, parent, opened = live._context, live._parent, self.open
            if len(opened) >= OPEN and not self._has_swept():
                self._skip(parent)
                return
            above = None if parent is None or parent[IS_REMOTE] else opened.get(parent[SPAN_ID])
            if above is None or above[0].trace_id != context[TRACE_ID]:
                self._begin(live)
                return
            root = above[0]
            loop = loops.running()
            task = None
            if loop is not None:
                task = loops.task(loop)
                if root.loop is None:
                    self._enter(root, loop)
            opened[context[SPAN_ID]] = (root, live, get_ident(), task)
            if live._kind is CLIENT and live._start_time - root.start >= SITE_AFTER:
                self._look_up(root, live)
        except Exception as error:
            self._guard().handle(error)

    def _begin(self, span: Any) -> None:
        """Record a local root."""
        trace_id, span_id = span._context.trace_id, span._context.span_id
        share, start = self.share, span._start_time
        if share < 1.0 and trace_id % _TRACE_BITS < (1.0 - share) * _TRACE_BITS:
            return
        loop, thread = loops.running(), get_ident()
        root = Root(trace_id, span_id, span._kind, start, thread, loop)
        greenlets = loops.greenlets()  # they share one thread, which then says nothing of either
        if loop is None and not greenlets and time_ns() - start < NEW:
            root.queue, root.process, root.started_cpu = account(), process_time_ns(), thread_time_ns()
        self.roots[id(root)] = root
        self.open[span_id] = (root, span, thread, None if loop is None else loops.task(loop))
        if self.begun is not None and not greenlets:
            self.begun(root)

    def _enter(self, root: Root, loop: Any) -> None:
        """Code that began outside of an event loop runs one."""
        root.loop = loop
        if self.begun is not None:
            self.begun(root)

    def _has_swept(self) -> bool:
        """Make room: drop spans that have been left open by local roots that ended. Whether there is any now."""
        now = time.monotonic()
        if now >= self._sweep_after:
            self._sweep_after = now + SWEEP
            endless = time_ns() - ENDLESS
            for span_id, (root, _, _, _) in list(self.open.items()):
                if root.open and root.start < endless:
                    root.open = False
                    self.roots.pop(id(root), None)
                    self.release(root)
                if not root.open:
                    self.open.pop(span_id, None)
        return len(self.open) < OPEN

    def _skip(self, parent: Any) -> None:
        self.skipped += 1
        above = None if parent is None else self.open.get(parent[SPAN_ID])
        if above is not None and above[0].counted is None:
            above[0].counted = {}  # it is not complete

    def _look_up(self, root: Root, span: Any) -> None:
        """Find the line of a call that is made again and again: some of the first ones, then fewer and fewer."""
        seen = root.seen
        if seen is None:
            seen = root.seen = {}
        number = seen[span._name] = seen.get(span._name, 0) + 1
        if number > 2 and (number < 7 or not number & (number - 1)):
            root.place(span._context.span_id, here(2))

    def on_end(self, span: ReadableSpan) -> None:  # noqa: C901 - each method more would be felt
        """Hand ``span`` on, or hold it back until its local root has ended."""
        ended: Any = span
        span_id = ended._context[SPAN_ID]
        known = self.open.pop(span_id, None)
        if known is not None:
            try:
                root, _, thread, task = known
                start = ended._start_time
                duration = ended._end_time - start
                if root.span_id == span_id:
                    if self._end_root(root, ended, duration, 0 if task is None else id(task)):
                        return
                else:
                    if ended._kind is CLIENT:
                        self._baselines.client(ended, duration)
                        if duration >= SITE_LONG and thread == get_ident():
                            self._locate(root, span_id)
                    spans = root.ended
                    size = len(spans)
                    if not root.open:
                        pass  # it outlived its root
                    elif size < SPANS and (size % CHUNK or self._may_keep(root)):
                        spans.append((ended, thread, 0 if task is None else id(task)))
                        if duration >= HOLD or self.noted > start:
                            self._hold(root, span)
                            return
                    else:
                        root.count(span)
            except Exception as error:
                self._guard().handle(error)
        for sink in self._sinks:
            sink.on_end(span)

    def _may_keep(self, root: Root) -> bool:
        """Whether there is room for another :data:`CHUNK` of spans in the process; ``root`` has it then."""
        if self.kept >= KEPT:
            return False
        self._chunks.append(None)
        root.chunks = vars(root).setdefault("chunks", [])
        root.chunks.append(None)
        if root.done:  # meanwhile
            self._make_room(root)
        return True

    def _make_room(self, root: Root) -> None:
        # What a root has is taken from it step by step, so that no other thread, nor a signal handler, takes it again.
        chunks = root.chunks
        with suppress(IndexError):
            while chunks:
                chunks.pop()
                self._chunks.pop()

    def _locate(self, root: Root, span_id: int) -> None:
        if root.sites is None or span_id not in root.sites:
            root.place(span_id, here(2))

    def _end_root(self, root: Root, span: ReadableSpan, duration: int, task: int) -> bool:
        """Whether the local root is held back, to be looked at."""
        root.open = False
        if self.roots.pop(id(root), None) is None:  # forgotten meanwhile
            return False
        root.regressed = self._baselines.root(span.name, duration)
        short = duration < HOLD and self.noted <= root.start and root.regressed is None
        # A call that nobody's request made says all there is in its own span.
        if self.finished is None or short or root.kind is CLIENT:
            self.release(root)
            return False
        if root.started_cpu >= 0 and root.thread == get_ident():
            root.cpu, root.queue = thread_time_ns() - root.started_cpu, account().since(root.queue)
            root.process = process_time_ns() - root.process
        root.ended.append((span, root.thread, task))
        root.hold(span)
        try:
            self.finished(root)
        except Exception as error:
            self.release(root)
            self._guard().handle(error)
        return True

    def _hold(self, root: Root, span: ReadableSpan) -> None:
        root.hold(span)
        if root.done:  # meanwhile
            self.release(root)
        elif self.holding is not None:
            try:
                self.holding()
            except Exception as error:
                self._guard().handle(error)

    def release(self, root: Root) -> None:
        """Hand on all that a local root holds, and let go of it."""
        root.done = True
        for span in root.unhold(inf):
            self.hand_on(span)
        root.close()
        if root.chunks:
            self._make_room(root)

    def hand_on(self, span: ReadableSpan) -> None:
        """Give ``span`` to the exporters' processors."""
        for sink in self._sinks:
            sink.on_end(span)

    def forget(self) -> None:
        """Hand on what is held and drop what is open, when the feature is turned off."""
        roots, self.open, self.roots = self.roots, {}, {}
        for root in list(roots.values()):
            root.open = False
            self.release(root)

    def after_fork_in_child(self) -> None:
        """What is open is the parent's."""
        self.open, self.roots, self._chunks = {}, {}, []

    def shutdown(self) -> None:
        """Hand on what is held, then shut the exporters' processors down."""
        self.hand_on_all(LAST_LOOK)
        for sink in self._sinks:
            sink.shutdown()

    def hand_on_all(self, timeout: float) -> None:
        """Hand on what is held, looked at or not."""
        if self.flush is not None:
            self.flush(timeout)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Hand on what is held, then flush the exporters' processors."""
        deadline = time.monotonic() + timeout_millis / 1000
        self.hand_on_all(timeout_millis / 1000 / 4)  # the rest is for the sinks
        done = True
        for sink in self._sinks:
            left = max(0, int((deadline - time.monotonic()) * 1000))
            done = sink.force_flush(left) and done
        return done
