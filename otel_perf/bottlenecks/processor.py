"""The span processor between the SDK and the exporters: keeps the tree of open spans, and lets go of it at once.

What it does for nearly every span is in :mod:`~otel_perf.bottlenecks.recorder`. Only a local root of at least
:data:`~otel_perf.bottlenecks.recorder.HOLD` is looked at further, in another thread; its spans of at least that length
wait for the result.
"""

from __future__ import annotations

import time
from math import inf
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_perf.bottlenecks import loops
from otel_perf.bottlenecks.place import here
from otel_perf.bottlenecks.recorder import CLIENT, HOLD, IS_REMOTE, NEW, OPEN, SITE_AFTER, SPAN_ID, TRACE_ID, Recorder
from otel_perf.bottlenecks.root import ENDLESS, Root
from otel_perf.bottlenecks.run_queue import clocks, recent_clocks
from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from otel_perf.bottlenecks.baseline import Baselines
    from otel_perf.core.guard import Guard

SWEEP: Final = 1.0  # seconds between looks for spans that never end, once there are so many
KEPT: Final = 50_000  # ended spans of local roots that are open or wait to be looked at, in the whole process
LAST_LOOK: Final = 2.0  # seconds for what still waits when the program ends
_SILENT: Final = (SpanProcessor.on_start, BatchSpanProcessor.on_start)
_TRACE_BITS: Final = 2**56  # of a trace id are random, by W3C Trace Context 2


class BottleneckProcessor(Recorder, SpanProcessor):
    """Thread-safe without a lock of its own: what threads share changes by single steps of dictionaries and deques."""

    def __init__(self, guard: Callable[[], Guard], baselines: Baselines) -> None:
        super().__init__(Root, baselines.roots, baselines.clients, KEPT)
        self.finished: Callable[[Root], None] | None = None  # a root that may have findings
        self.flush: Callable[[float], None] | None = None
        self.skipped = 0  # spans that were not recorded
        self.holding: Callable[[], None] | None = None  # a span is held back
        self._sweep_after = 0.0
        self._baselines = baselines
        self._guard = guard

    def feed(self, sink: SpanProcessor) -> None:
        """Hand finished spans on to ``sink`` from now on."""
        self._sinks = (*self._sinks, sink)
        if type(sink).on_start not in _SILENT:
            self._starting = (*self._starting, sink)

    def _started(self, span: Span, parent_context: Context | None) -> None:
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
                    self._entered(root, loop)
            opened[context[SPAN_ID]] = (root, live, get_ident(), task)
            if live._kind is CLIENT and live._start_time - root.start >= SITE_AFTER:
                self._looked_up(root, live)
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
        if loop is None and not greenlets and (now := time_ns()) - start < NEW:
            root.clocks = recent_clocks(now)
        self.roots[id(root)] = root
        self.open[span_id] = (root, span, thread, None if loop is None else loops.task(loop))
        if self.begun is not None and not greenlets:
            self.begun(root)

    def _entered(self, root: Root, loop: Any) -> None:
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

    def _looked_up(self, root: Root, span: Any) -> None:
        """Find the line of a call that is made again and again: some of the first ones, then fewer and fewer."""
        seen = root.seen
        if seen is None:
            seen = root.seen = {}
        number = seen[span._name] = seen.get(span._name, 0) + 1
        if number > 2 and (number < 7 or not number & (number - 1)):
            root.place(span._context.span_id, here(2))

    def _failed(self, error: Exception) -> None:
        self._guard().handle(error)

    def _called(self, span: ReadableSpan, duration: int) -> None:
        self._baselines.client(span, duration)

    def _located(self, root: Root, span_id: int, thread: int) -> None:
        if thread == get_ident() and (root.sites is None or span_id not in root.sites):
            root.place(span_id, here(2))

    def _ended_root(self, root: Root, span: Any, duration: int, task: int) -> bool:
        """Whether the local root is held back, to be looked at."""
        root.open = False
        if self.roots.pop(id(root), None) is None:  # forgotten meanwhile
            return False
        root.regressed = self._baselines.root(span._name, duration)
        short = duration < HOLD and self.noted <= root.start and root.regressed is None
        # A call that nobody's request made says all there is in its own span.
        if self.finished is None or short or root.kind is CLIENT:
            self.release(root)
            return False
        before = root.clocks
        if before is not None and root.thread == get_ident():
            after = clocks()
            root.cpu, root.queue = min(after.thread - before.thread, duration), after.queue.since(before.queue)
            root.process = after.process - before.process
        root.ended.append((span, root.thread, task))
        root.hold(span)
        try:
            self.finished(root)
        except Exception as error:
            self.release(root)
            self._guard().handle(error)
        return True

    def _held(self, root: Root, span: ReadableSpan) -> None:
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
        self.make_room(root)

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
        self.open, self.roots, self.kept = {}, {}, 0

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
