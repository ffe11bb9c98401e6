"""The span processor between the SDK and the exporters: keeps the tree of open spans, and lets go of it at once.

What it does for each span has to be cheap: about two dictionary operations and one small object. Only a local root of
at least :data:`HOLD` is looked at further, in another thread; its spans of at least that length wait for the result.
"""

from __future__ import annotations

import time
from asyncio import _get_running_loop, current_task
from time import thread_time_ns, time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_perf.bottlenecks.place import here
from otel_perf.bottlenecks.record import CHILDREN, CLIENT, Record, Root
from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span
    from opentelemetry.trace import SpanContext, SpanKind

    from otel_perf.bottlenecks.baseline import Baselines
    from otel_perf.core.guard import Guard

HOLD: Final = 50_000_000  # ns: shorter local roots are not looked at, shorter spans not held back
OPEN: Final = 10_000  # spans that may be open; more are handed on without being recorded
KEPT: Final = 50_000  # records of ended spans of roots that are open, in the whole process
SITE_AFTER: Final = 5_000_000  # ns since the root's start, before which no line is looked up for repeated calls
SITE_LONG: Final = 30_000_000  # ns: a client span from which on its line is looked up when it ends
NEW: Final = 1_000_000  # ns: a span with an older start was made after the fact, and its CPU time is not known
_SILENT: Final = (SpanProcessor.on_start, BatchSpanProcessor.on_start)
_TRACE_BITS: Final = 2**56  # of a trace id are random, by W3C Trace Context 2


class BottleneckProcessor(SpanProcessor):
    """Thread-safe without a lock of its own: each step is one operation of a dictionary or a list."""

    def __init__(self, guard: Callable[[], Guard], baselines: Baselines) -> None:
        self.on = False
        self.finished: Callable[[Root], None] | None = None  # a root that may have findings
        self.begun: Callable[[Root], None] | None = None
        self.flush: Callable[[float], None] | None = None
        self.share = 1.0
        self.open: dict[int, Record] = {}  # by span id
        self.roots: dict[int, Root] = {}  # by id()
        self.kept = 0  # records of ended spans; may drift by a few between threads
        self.collected = 0  # when the last long garbage collection ended (ns)
        self.skipped = 0  # spans that were not recorded
        self._baselines = baselines
        self._guard = guard
        self._sinks: tuple[SpanProcessor, ...] = ()
        self._starting: tuple[SpanProcessor, ...] = ()

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
            live: Any = span  # not its properties, which would take a fifth of the time
            context, parent, kind, start = live._context, live._parent, live._kind, live._start_time
            opened = self.open
            if len(opened) >= OPEN:
                self.skipped += 1
                return
            above = None if parent is None or parent.is_remote else opened.get(parent.span_id)
            if above is None or above.root.trace_id != context.trace_id:
                self._begin(context, kind, start)
                return
            root = above.root
            record = Record(root, kind, start, get_ident())
            record.parent = above
            loop = _get_running_loop()
            if loop is not None:
                record.task = current_task(loop)
            if kind is CLIENT and start - root.top.start >= SITE_AFTER:
                self._look_up(root, record, live._name)
            opened[context.span_id] = record
        except Exception as error:
            self._guard().handle(error)

    def _begin(self, context: SpanContext, kind: SpanKind, start: int) -> None:
        """Record a local root."""
        share, trace_id = self.share, context.trace_id
        if share < 1.0 and trace_id % _TRACE_BITS < (1.0 - share) * _TRACE_BITS:
            return
        loop = _get_running_loop()
        root = Root(trace_id, loop)
        record = root.top = Record(root, kind, start, get_ident())
        if loop is not None:
            record.task = current_task(loop)
        elif time_ns() - start < NEW:
            root.started_cpu = thread_time_ns()
        self.roots[id(root)] = root
        self.open[context.span_id] = record
        if self.begun is not None:
            self.begun(root)

    def _look_up(self, root: Root, record: Record, name: str) -> None:
        """Find the line of a call that is made again and again: some of the first ones, then fewer and fewer."""
        seen = root.seen
        if seen is None:
            seen = root.seen = {}
        number = seen[name] = seen.get(name, 0) + 1
        if number > 2 and (number < 7 or not number & (number - 1)):
            record.site = here(2)

    def on_end(self, span: ReadableSpan) -> None:
        """Hand ``span`` on, or hold it back until its local root has ended."""
        ended: Any = span
        record = self.open.pop(ended._context.span_id, None)
        if record is not None:
            try:
                if self._end(record, span):
                    return
            except Exception as error:
                self._guard().handle(error)
        for sink in self._sinks:
            sink.on_end(span)

    def _end(self, record: Record, span: ReadableSpan) -> bool:
        """Whether the span is held back."""
        root, start = record.root, record.start
        record.span = span
        record.end = end = span._end_time or start
        duration = end - start
        if record.task is not None:
            record.task = True  # the task itself may go
        parent = record.parent
        if parent is None:
            return self._end_root(root, record, duration)
        if record.kind is CLIENT:
            self._baselines.client(span, duration)
            if duration >= SITE_LONG and record.site is None and record.thread == get_ident():
                record.site = here(2)
        if not root.open or self.kept >= KEPT:
            return False
        children = parent.children
        if children is None:
            parent.children = [record]
        elif len(children) < CHILDREN:
            children.append(record)
        else:
            parent.count_only(record)
            return False
        self.kept += 1
        if duration >= HOLD or self.collected > start:
            root.hold(record)
            return True
        return False

    def _end_root(self, root: Root, record: Record, duration: int) -> bool:
        root.open = False
        if self.roots.pop(id(root), None) is None:  # forgotten meanwhile
            return False
        if record.children is not None:
            self.kept = max(0, self.kept - _size(record))
        root.regressed = self._baselines.root(record, duration)
        short = duration < HOLD and self.collected <= record.start and root.regressed is None
        # A call that nobody's request made says all there is in its own span.
        if self.finished is None or short or record.kind is CLIENT:
            for waiting in root.held or ():  # outlived its root's start: a clock was set
                self.hand_on(waiting.span)
            return False
        if root.started_cpu >= 0 and record.thread == get_ident():
            root.cpu = thread_time_ns() - root.started_cpu
        root.hold(record)
        self.finished(root)
        return True

    def hand_on(self, span: ReadableSpan | None) -> None:
        """Give ``span`` to the exporters' processors."""
        if span is not None:
            for sink in self._sinks:
                sink.on_end(span)

    def forget(self) -> None:
        """Hand on what is held and drop what is open, when the feature is turned off."""
        roots, self.open, self.roots, self.kept = self.roots, {}, {}, 0
        for root in list(roots.values()):
            root.open = False
            held = root.held
            while held:
                self.hand_on(held.popleft().span)

    def after_fork_in_child(self) -> None:
        """What is open is the parent's."""
        self.open, self.roots, self.kept = {}, {}, 0

    def shutdown(self) -> None:
        """Hand on what is held, then shut the exporters' processors down."""
        if self.flush is not None:
            self.flush(1.0)
        for sink in self._sinks:
            sink.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Hand on what is held, then flush the exporters' processors."""
        deadline = time.monotonic() + timeout_millis / 1000
        if self.flush is not None:
            self.flush(timeout_millis / 1000)
        done = True
        for sink in self._sinks:
            left = max(0, int((deadline - time.monotonic()) * 1000))
            done = sink.force_flush(left) and done
        return done


def _size(record: Record) -> int:
    """How many records hang below ``record``."""
    total, ahead = 0, [record]
    while ahead:
        children = ahead.pop().children
        if children:
            total += len(children)
            ahead.extend(children)
    return total
