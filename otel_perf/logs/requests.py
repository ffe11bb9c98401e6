"""One wide record for each request that is served and each message that is handled: the event ``perf.request``.

A request is a local root of kind SERVER or CONSUMER. Its numbers are collected while it runs, from the spans of its
trace that end in this process meanwhile and from its log lines; the record is emitted when its span reaches the
exporters, with what was found of bottlenecks on it, also for one that failed, and for one that is recorded but not
sampled. Of a request whose span the sampler drops nobody knows: it has no record.

What the process as a whole shows (memory growth, cache look-ups) is a request's own only if no other ran at the same
time: ``perf.request.overlapping`` says how many did.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.trace import SpanKind, StatusCode

from otel_perf.core import cleaning, lookups, resident
from otel_perf.core.events import WAITED_FOR
from otel_perf.core.threads import get_ident
from otel_perf.logs.request_record import LEVELS, RequestRecords, attributes_of, described

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from otel_perf.core.guard import Guard
    from otel_perf.core.lookups import Lookups

OPEN: Final = 10_000  # requests that may be open; of more, the oldest are let go of without a record
WAITING: Final = 256  # records that wait for the thread that emits them; more are emitted where they end
EVERY: Final = 1.0  # seconds between emissions
PARENTS: Final = 256  # spans of a request that client calls are nested in
SHARED: Final = 1_024  # spans of a trace with several requests in this process, whose request is known

_SERVER, _CONSUMER, _CLIENT = SpanKind.SERVER, SpanKind.CONSUMER, SpanKind.CLIENT
_ERROR: Final = StatusCode.ERROR
_TRACE_ID, _SPAN_ID, _IS_REMOTE = range(3)  # a SpanContext is a tuple
_LEVEL_OF: Final = {"DEBUG": 0, "INFO": 1, "WARN": 2, "ERROR": 3, "FATAL": 4}


class Request:
    """What is collected while a request runs.

    Threads may add at the same time: an addition to an attribute has no call in it, within which CPython would change
    threads.
    """

    __slots__ = (
        "begun", "cpu", "db_calls", "db_time", "error", "grown", "http_calls", "http_time", "lines", "looked_up",
        "nested", "other_calls", "other_time", "others", "overlapping", "resident", "span", "span_id", "spans", "start",
        "thread", "trace_id", "used",
    )  # fmt: skip

    def __init__(self, trace_id: int, span_id: int, start: int) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.start = start  # ns since the epoch
        self.spans = 0
        self.db_calls = self.http_calls = self.other_calls = 0
        self.db_time = self.http_time = self.other_time = 0  # ns, of all calls together
        self.lines = [0] * len(LEVELS)  # by level
        self.nested: dict[int, list[int]] | None = None  # by the span that they were made in: see _called
        self.others: Shared | None = None  # there are other requests with its trace id
        self.thread = 0  # in which it began, without an event loop
        self.cpu = 0  # of that thread then (ns)
        self.used = -1  # CPU time, if it stayed in one thread that did nothing else (ns)
        self.resident = 0  # of the process at the start (bytes)
        self.grown = 0
        self.begun = 0  # which one it is
        self.overlapping = 0  # others that were open when it began; in the end, that ran meanwhile
        self.looked_up: Lookups | None = None  # at the start; in the end, meanwhile; None if that is not known
        self.span: Any = None  # its own, once it has ended
        self.error: tuple[str, str] | None = None  # type and message of what is on its way through its span


class Shared:
    """Several requests of one trace in this process: whose a span is, is told by its parent."""

    __slots__ = ("first", "open", "owners")

    def __init__(self, first: Request) -> None:
        self.first = first
        self.open: dict[int, Request] = {}  # by span id, without the first
        self.owners: dict[int, Request] = {}  # by span id


class Requests:
    """A span processor. About 4 µs a request in its own path, and 0.4 µs a child. Thread-safe."""

    def __init__(self, guard: Callable[[], Guard], *, records: bool = True) -> None:
        self.on = False
        self.records = RequestRecords(guard)
        self.lines = [0] * len(LEVELS)  # of the process, by level
        self.dropped = 0  # that were open for too long
        self.wanted = records
        self._guard = guard
        self._open: dict[int, Request] = {}  # by trace id
        self.ended: dict[int, Request] = {}  # by span id, until their span comes to the exporters
        self._shared: set[int] = set()  # trace ids of several requests
        self._waiting: deque[tuple[Request, Any]] = deque()
        self._begun = self._over = 0
        self._task: Callable[[], None] | None = None

    # --- the SDK's side ----------------------------------------------------------------------------

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        """Begin a request, if the span is one."""
        parent = span._parent
        if parent is not None and not parent[_IS_REMOTE]:
            if self._shared:
                self._adopt(span._context, parent[_SPAN_ID])
            return
        kind = span._kind
        if (kind is _SERVER or (kind is _CONSUMER and WAITED_FOR not in (span._attributes or ()))) and self.on:
            try:
                self._begin(span._context, span._start_time)
            except Exception as error:
                self._guard().handle(error)

    def _on_ending(self, span: Any) -> None:
        """Nothing."""

    def on_end(self, span: Any) -> None:
        """Add a span to its request, or end the request."""
        context = span._context
        request = self._open.get(context[_TRACE_ID])
        if request is None:
            return
        span_id = context[_SPAN_ID]
        try:
            if request.others is not None:
                request = _owner(request.others, span_id)
            if request.span_id == span_id:
                self._end(request, span)
                return
            if span._start_time < request.start:
                return  # it has outlived an earlier request of the same trace
            request.spans += 1
            if span._kind is _CLIENT:
                _called(request, span, span_id)
        except Exception as error:
            self._guard().handle(error)

    def shutdown(self) -> None:
        """Nothing: see the sink."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing: see the sink."""
        return True

    def line(self, record: Any) -> None:
        """Count a log line. 0.3 µs."""
        place = _LEVEL_OF.get(record.severity_text)
        if place is None:  # a level of the app's own
            place = _place(record.severity_number)
        self.lines[place] += 1
        request = self._open.get(record.trace_id)
        if request is None:
            return
        if request.others is not None:
            request = _owner(request.others, record.span_id, ending=False)
        request.lines[place] += 1

    def _adopt(self, context: Any, parent_id: int) -> None:
        """A span begins: in a trace with several requests it is of its parent's, or of the first."""
        request = self._open.get(context[_TRACE_ID])
        shared = None if request is None else request.others
        if shared is not None and len(shared.owners) < SHARED:
            owner = shared.owners.get(parent_id)
            if owner is not None:
                shared.owners[context[_SPAN_ID]] = owner

    # --- a request ---------------------------------------------------------------------------------

    def _begin(self, context: Any, start: int) -> None:
        request = Request(context[_TRACE_ID], context[_SPAN_ID], start)
        opened = self._open
        request.overlapping = self._begun - self._over
        self._begun += 1
        request.begun = self._begun
        if len(opened) >= OPEN:
            self._let_go()
        if not _in_loop():
            request.thread, request.cpu = get_ident(), time.thread_time_ns()
        request.resident = resident.recent()
        request.looked_up = lookups.read_if_due()
        first = opened.setdefault(request.trace_id, request)
        if first is not request:
            shared = first.others
            if shared is None:
                shared = first.others = Shared(first)
                self._shared.add(request.trace_id)
            shared.open[request.span_id] = shared.owners[request.span_id] = request

    def _end(self, request: Request, span: Any) -> None:
        self._over += 1
        self._close(request)
        if request.thread and request.thread == get_ident() and not _in_loop():
            request.used = time.thread_time_ns() - request.cpu
        request.grown = resident.recent() - request.resident
        request.overlapping += self._begun - request.begun
        before = request.looked_up
        if before is not None:
            after = lookups.read()
            hits, misses = max(0, after.hits - before.hits), max(0, after.misses - before.misses)
            request.looked_up = lookups.Lookups(hits, misses)
        if span._status.status_code is _ERROR:
            request.error = described(sys.exc_info()[1])
        if len(self.ended) >= OPEN:  # whoever was to bring them has gone
            self.ended.clear()
        request.span = span
        self.ended[request.span_id] = request

    def _close(self, request: Request) -> None:
        shared = request.others
        if shared is None:
            first = self._open.get(request.trace_id)
            if first is request:
                self._open.pop(request.trace_id, None)
            elif first is not None and first.others is not None:
                first.others.open.pop(request.span_id, None)
                first.others.owners.pop(request.span_id, None)
            return
        shared.owners.pop(request.span_id, None)
        while shared.open:  # another one stands for the trace now; what is left of this one's spans stays its own
            _, heir = shared.open.popitem()
            heir.others = shared
            self._open[request.trace_id] = heir
            return
        self._open.pop(request.trace_id, None)
        self._shared.discard(request.trace_id)

    def _let_go(self) -> None:
        """Forget the oldest: its span is likely never to end."""
        for trace_id in self._open:
            self._open.pop(trace_id, None)
            self._shared.discard(trace_id)
            self._over += 1
            self.dropped += 1
            return

    # --- records -----------------------------------------------------------------------------------

    def finished(self, span: Any) -> None:
        """A span has come to the exporters: if it is a request's, its record can be made."""
        request = self.ended.pop(span._context[_SPAN_ID], None)
        if request is None or not self.on:
            return
        if not self.records.count(request, span) or not self.wanted:
            return
        if cleaning.changed and len(self._waiting) < WAITING:
            self._waiting.append((request, span))
            if self._task is None:
                self._task = cleaning.register("otel_perf.logs: request records", self._emit_some, EVERY)
        else:
            self.records.emit(request, span)

    def _emit_some(self) -> Iterator[None]:
        """Emit what waits, in slices."""
        while self._emit_next():
            yield

    def emit_all(self) -> None:
        """Emit what waits, now."""
        while self._emit_next():
            pass

    def _emit_next(self) -> bool:
        try:
            request, span = self._waiting.popleft()
        except IndexError:
            return False
        self.records.emit(request, span)
        return True

    # --- life --------------------------------------------------------------------------------------

    def install(self, undo: ExitStack) -> None:
        """Make records from now on, until the undo."""
        from otel_perf.core.forks import on_fork

        self.on = True
        undo.callback(self._stop)
        undo.callback(on_fork(child=self.after_fork_in_child))

    def _stop(self) -> None:
        self._open, self._shared = {}, set()
        for request in list(self.ended.values()):  # what is found of bottlenecks on them is not waited for
            self.finished(request.span)
        self.emit_all()
        self.on, self.ended = False, {}
        task, self._task = self._task, None
        if task is not None:
            task()

    def after_fork_in_child(self) -> None:
        """What is open, and what waits, is the parent's."""
        self._open, self.ended, self._waiting, self._shared = {}, {}, deque(), set()
        self._begun = self._over = 0
        self.lines = [0] * len(LEVELS)
        self.records.after_fork_in_child()


class LineCounter:
    """A log-record processor that counts lines for :class:`Requests`. 0.4 µs a line."""

    lines_only = True  # events need not come here

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    def on_emit(self, log_record: Any) -> None:
        """Count ``log_record``, if it is a line and no event."""
        record = log_record.log_record
        if not record.event_name and self._requests.on:
            self._requests.line(record)

    def enabled(self, **_: Any) -> bool:
        """It asks for no record to be made."""
        return False

    def shutdown(self) -> None:
        """Nothing."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing to flush."""
        return True


def _place(severity: Any) -> int:
    """The place among :data:`LEVELS` of a severity of OpenTelemetry's, of which each has four; info for none.

    What logging has below DEBUG, OpenTelemetry calls unspecified.
    """
    number = getattr(severity, "value", 9)
    return min(max((number - 5) // 4, 0), len(LEVELS) - 1)


def _owner(shared: Shared, span_id: int, *, ending: bool = True) -> Request:
    """Whose a span is."""
    owner = shared.owners.get(span_id)
    if owner is None:
        return shared.first
    if ending and owner.span_id != span_id:
        shared.owners.pop(span_id, None)
    return owner


def _called(request: Request, span: Any, span_id: int) -> None:
    """Count a client call. One of a driver within one of an ORM is the same call: only the outer one counts."""
    duration = max(0, span._end_time - span._start_time)
    get = attributes_of(span).get
    nested = request.nested
    if nested is None:
        nested = request.nested = {}
    inner = nested.pop(span_id, None)
    if inner is not None:
        request.db_calls -= inner[0]
        request.db_time -= inner[1]
        request.http_calls -= inner[2]
        request.http_time -= inner[3]
        request.other_calls -= inner[4]
        request.other_time -= inner[5]
    if get("db.system") or get("db.system.name") or get("db.statement") or get("db.query.text"):
        request.db_calls += 1
        request.db_time += duration
        place = 0
    elif get("http.request.method") or get("http.method"):
        request.http_calls += 1
        request.http_time += duration
        place = 2
    else:
        request.other_calls += 1
        request.other_time += duration
        place = 4
    parent = span._parent
    if parent is None or parent[_SPAN_ID] == request.span_id:
        return
    parent_id = parent[_SPAN_ID]
    counts = nested.get(parent_id)
    if counts is None:
        if len(nested) >= PARENTS:
            return
        counts = nested[parent_id] = [0] * 6
    counts[place] += 1
    counts[place + 1] += duration


def _in_loop() -> bool:
    """Whether an event loop runs in this thread, or greenlets may: then its CPU time is not one request's. 0.1 µs."""
    modules = sys.modules
    found = modules.get("asyncio.events")
    running = getattr(found, "_get_running_loop", None)
    return (running is not None and running() is not None) or "gevent" in modules or "eventlet" in modules
