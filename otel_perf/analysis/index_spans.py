"""Puts spans into the index: a row each, their traces, and counts of each operation by the minute and the hour."""

from __future__ import annotations

from collections import OrderedDict
from math import log2
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf.analysis.errors import place_of as spot_of
from otel_perf.analysis.errors import short
from otel_perf.analysis.index_tables import ERROR, PER_DOUBLING, SIGNAL, WIDTHS, signed
from otel_perf.analysis.intervals import covered
from otel_perf.analysis.otlp import ERROR_STATUS, attributes_of

if TYPE_CHECKING:
    import sqlite3

    from otel_perf.analysis.index_names import Names, Resource, Trace

PARENTS: Final = 20_000  # spans whose children ended and who did not yet
CHILDREN: Final = 512  # of one span that are looked at for its own time
LATEST: Final = 1 << 62  # ns: the sum of a time and a duration is still a number of SQLite's
LONGEST: Final = 1 << 50  # ns, 13 days: so many of them can be added up
_SIGNALS: Final = ("perf.signal.name", "perf.signal.names")
_PRODUCER: Final = 4
_SLOT: Final = tuple(width * 1_000_000_000 for width in WIDTHS)


def bucket_of(took: int) -> int:
    """The bucket of a duration in ns."""
    return int(PER_DOUBLING * log2(took)) if took > 0 else 0


class Spans:
    """Gathers rows; :meth:`flush` writes them. For one thread."""

    def __init__(self, connection: sqlite3.Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._rows: list[tuple[int, ...]] = []
        self._errors: list[tuple[Any, ...]] = []
        self._slots: dict[tuple[int, int, int], list[int]] = {}
        self._hist: dict[tuple[int, int, int, int], int] = {}
        # Children are in the same batch as their parent, or in one before.
        self._children: OrderedDict[int, list[tuple[int, int]]] = OrderedDict()

    def add(self, place: int, body: bytes) -> int:
        """Take a batch; how many spans it has. About 8 µs a span."""
        request = ExportTraceServiceRequest.FromString(body)
        names, pos = self._names, 0
        names.know(span.trace_id for r in request.resource_spans for s in r.scope_spans for span in s.spans)
        for of_resource in request.resource_spans:  # first: a child may be of a resource that comes after its parent's
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    if span.parent_span_id:
                        self._add_child(span)
        for of_resource in request.resource_spans:
            resource = names.resource(of_resource.resource)
            first, last = 1 << 62, 0
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    start, end = span.start_time_unix_nano, span.end_time_unix_nano
                    self._add(span, resource, place, pos)
                    first, last, pos = min(first, start), max(last, end), pos + 1
            if last:
                names.saw(resource, first, last)
        return pos

    def _add(self, span: Any, resource: Resource, place: int, pos: int) -> None:
        start = min(span.start_time_unix_nano, LATEST)
        took = min(LONGEST, max(0, span.end_time_unix_nano - start))
        sid, parent = signed(span.span_id), signed(span.parent_span_id)
        kind = span.kind
        operation = self._names.operation(resource.service, span.name, kind)
        failed = span.status.code == ERROR_STATUS
        flags = ERROR if failed else 0
        if kind >= _PRODUCER and any(pair.key in _SIGNALS for pair in span.attributes):
            flags |= SIGNAL
        trace = self._names.trace(span.trace_id)
        _extend(trace, start, start + took, operation, root=not parent)
        trace.errors += failed
        if failed or span.events:
            self._add_error(span, resource, trace.number, start + took)
        self._rows.append((self._names.next_span, trace.number, sid, parent, operation, start, took, flags, place, pos))
        self._names.next_span += 1
        own = took - covered(self._children.pop(sid, ()), start, start + took)
        if not (flags & SIGNAL and not parent):  # a wait that nobody's work encloses is nobody's time
            self._count(operation, start, took, own, trace.number, failed=failed)

    def _add_child(self, span: Any) -> None:
        parent = signed(span.parent_span_id)
        children = self._children.get(parent)
        if children is None:
            children = self._children[parent] = []
            if len(self._children) > PARENTS:
                self._children.popitem(last=False)
        if len(children) < CHILDREN:
            children.append((span.start_time_unix_nano, span.end_time_unix_nano))

    def _count(self, operation: int, start: int, took: int, own: int, trace: int, *, failed: bool) -> None:
        bucket = bucket_of(took)
        for width, ns in zip(WIDTHS, _SLOT, strict=True):
            key = width, start // ns, operation
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = [0, 0, 0, 0, -1, 0]
            slot[0] += 1
            slot[1] += failed
            slot[2] += took
            slot[3] += own
            if took > slot[4]:
                slot[4], slot[5] = took, trace
            hist = (*key, bucket)
            self._hist[hist] = self._hist.get(hist, 0) + 1

    def _add_error(self, span: Any, resource: Resource, trace: int, time: int) -> None:
        exceptions = [event for event in span.events if event.name == "exception"]
        for event in exceptions:
            said = attributes_of(event.attributes)
            spot = spot_of(said.get("exception.stacktrace")) or f"span {span.name}"
            kind = short(said.get("exception.type")) or "error"
            message = str(said.get("exception.message") or "")[:500]
            self._errors.append((time, resource.service, kind, spot, message, trace))
        if span.status.code == ERROR_STATUS and not exceptions and not span.parent_span_id:
            kind = next((pair.value.string_value for pair in span.attributes if pair.key == "error.type"), "error")
            self._errors.append(
                (time, resource.service, kind, f"span {span.name}", span.status.message[:500], trace)
            )  # fmt: skip

    def flush(self) -> None:
        """Write the rows."""
        many = self._connection.executemany
        many("INSERT INTO span VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._rows)
        many(
            "INSERT OR IGNORE INTO error(time, service, type, spot, message, trace) VALUES (?, ?, ?, ?, ?, ?)",
            self._errors,
        )
        many(
            "INSERT INTO op_slot VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " count = count + excluded.count, errors = errors + excluded.errors, total = total + excluded.total,"
            " self = self + excluded.self,"
            " longest_trace = iif(excluded.longest > longest, excluded.longest_trace, longest_trace),"
            " longest = max(longest, excluded.longest)",
            [(*key, *slot) for key, slot in self._slots.items()],
        )
        many(
            "INSERT INTO op_hist VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count",
            [(*key, count) for key, count in self._hist.items()],
        )
        self._rows, self._errors = [], []
        self._slots, self._hist = {}, {}


def _extend(trace: Trace, start: int, end: int, operation: int, *, root: bool) -> None:
    """The trace has one more span. Its root is the span without a parent, else the earliest."""
    trace.spans += 1
    if trace.start is None:
        trace.start, trace.finish, trace.root, trace.rooted = start, end, operation, int(root)
        return
    if root or (not trace.rooted and start < trace.start):
        trace.root = operation
        trace.rooted = max(trace.rooted, int(root))
    trace.start, trace.finish = min(trace.start, start), max(trace.finish, end)
