"""Puts spans into the index: a row each, their traces, and counts of each operation by the minute, hour and in all."""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf.analysis.errors import place_of as spot_of
from otel_perf.analysis.index_errors import Errors
from otel_perf.analysis.index_tables import ERROR, FAILED, PER_DOUBLING, RAISED, SIGNAL, WAIT, WIDTHS, elsewhere, signed
from otel_perf.analysis.intervals import covered
from otel_perf.analysis.otlp import ERROR_STATUS, attributes_of, value_of

if TYPE_CHECKING:
    import sqlite3

    from otel_perf.analysis.index_names import Names, Resource, Trace

WAITING: Final = 200_000  # children, in memory, whose parents did not come yet
CHILDREN: Final = 10_000  # of one span that are read back for its own time
ROWS: Final = 16_000  # that are in memory, also of one batch
LATEST: Final = 1 << 62  # ns: the sum of a time and a duration is still a number of SQLite's
LONGEST: Final = 1 << 50  # ns, 13 days: so many of them can be added up
_SIGNALS: Final = ("perf.signal.name", "perf.signal.names")
_PRODUCER, _CONSUMER = 4, 5
_SLOT: Final = tuple(width * 1_000_000_000 for width in WIDTHS)


def bucket_of(took: int) -> int:
    """The bucket of a duration in ns."""
    return int(PER_DOUBLING * log2(took)) if took > 0 else 0


class Spans:
    """Gathers rows; :meth:`flush` writes them. For one thread.

    A span's own time needs its children, most of which come before it: they wait in memory. What does not come in that
    order (a child's batch after its parent's, another store, work that goes on after an end) is read back from the
    table: children of traces that memory does not have whole, and parents that were counted before their child came.
    """

    def __init__(self, connection: sqlite3.Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._rows: list[tuple[int, ...]] = []
        self._moved: list[tuple[int, int, int]] = []  # where rows are as well, from now on
        self._errors = Errors(connection)
        self._slots: dict[tuple[int, int, int], list[int]] = {}
        self._hist: dict[tuple[int, int, int, int], int] = {}
        self._children: dict[tuple[int, int], list[tuple[int, int]]] = {}  # of these rows, by trace and parent
        self._waiting: dict[tuple[int, int], list[tuple[int, int]]] = {}  # of rows that were written
        self._waits = 0
        self._whole = names.next_trace  # from this trace on, all children that wait are in memory
        self._unwritten = names.next_trace  # and from this one on, no span is in the table

    def add(self, place: int, body: bytes) -> int:
        """Take a batch; how many spans it has. About 8 µs a span."""
        request = ExportTraceServiceRequest.FromString(body)
        names, pos = self._names, 0
        low, high = names.bounds
        names.know(span.trace_id for r in request.resource_spans for s in r.scope_spans for span in s.spans)
        for of_resource in request.resource_spans:
            resource = names.resource(of_resource.resource)
            first, last = 1 << 62, 0
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    start, end = span.start_time_unix_nano, span.end_time_unix_nano
                    self._add(span, resource, place, pos)
                    pos += 1
                    if low <= start and end <= high:
                        first, last = min(first, start), max(last, end)
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
            flags |= SIGNAL if parent or kind != _CONSUMER else SIGNAL | WAIT
        trace = self._names.trace(span.trace_id)
        if self._names.store and sid and self._is_here((trace.number, sid, operation, start), place, pos):
            return
        _extend(trace, start, start + took, operation, root=not parent)
        trace.errors += failed
        if failed or span.events:
            self._add_error(span, resource, trace.number, start + took)
        self._rows.append((self._names.next_span, trace.number, sid, parent, operation, start, took, flags, place, pos))
        self._names.next_span += 1
        if parent:
            children = self._children.get((trace.number, parent))
            if children is None:
                children = self._children[trace.number, parent] = []
            children.append((start, start + took))
        if len(self._rows) >= ROWS:
            self.flush()

    def _is_here(self, span: tuple[int, int, int, int], place: int, pos: int) -> bool:
        """Whether another store had this very span; its row is of this copy then."""
        if span[0] >= self._unwritten:
            return False
        found = self._connection.execute(
            "SELECT id FROM span WHERE trace = ? AND sid = ? AND op = ? AND start = ? AND place NOT BETWEEN ? AND ?",
            (*span, *elsewhere(place)),
        ).fetchone()
        if found is None:
            return False
        self._moved.append((place, pos, found[0]))
        self._names.twice += 1
        return True

    def _resolve(self) -> None:
        """Count the rows, each with its own time; correct parents that were counted without these children."""
        found = set()
        for _, trace, sid, _, operation, start, took, flags, _, _ in self._rows:
            key = trace, sid
            children = self._children.get(key)
            if children is not None:
                found.add(key)
            if trace < self._unwritten:
                before = self._waiting.pop(key, None) if trace >= self._whole else self._stored(key)
                if before:
                    children = before + (children or [])
            if not flags & WAIT:
                own = took - covered(children, start, start + took) if children else took
                self._count(operation, start, took, own, trace, failed=bool(flags & ERROR))
        for key, children in self._children.items():
            if key in found:
                continue
            if (key[0] >= self._unwritten or not self._correct(key, children)) and key[0] >= self._whole:
                self._waiting[key] = self._waiting.get(key, []) + children
                self._waits += len(children)
        self._children = {}
        self._unwritten = self._names.next_trace
        if self._waits > WAITING:  # many traces have parents that are not here
            self._waiting, self._waits, self._whole = {}, 0, self._unwritten

    def _stored(self, key: tuple[int, int]) -> list[tuple[int, int]]:
        """The children of a span that are in the table."""
        return self._connection.execute(
            "SELECT start, start + took FROM span WHERE trace = ? AND parent = ? AND parent <> 0 LIMIT ?",
            (*key, CHILDREN),
        ).fetchall()

    def _correct(self, key: tuple[int, int], children: list[tuple[int, int]]) -> bool:
        """Take what ``children`` cover from their parent's own time; whether the parent is in the table."""
        parents = self._connection.execute(
            "SELECT op, start, took, flags FROM span WHERE trace = ? AND sid = ?", key
        ).fetchall()
        for operation, start, took, flags in parents:
            end = start + took
            if flags & WAIT or not covered(children, start, end):
                continue
            before = self._stored(key)
            more = covered(before + children, start, end) - covered(before, start, end)
            for width, ns in zip(WIDTHS, _SLOT, strict=True):
                self._slot((width, start // ns, operation))[3] -= more
        return bool(parents)

    def _slot(self, key: tuple[int, int, int]) -> list[int]:
        """Number, errors, total, own time, the longest and its trace: what is to be added."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = [0, 0, 0, 0, -1, 0]
        return slot

    def _count(self, operation: int, start: int, took: int, own: int, trace: int, *, failed: bool) -> None:
        bucket = bucket_of(took)
        for width, ns in zip(WIDTHS, _SLOT, strict=True):
            key = width, start // ns, operation
            slot = self._slot(key)
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
            kind = said.get("exception.type")
            spot = spot_of(said.get("exception.stacktrace")) or f"span {span.name}"
            message = said.get("exception.message")
            self._errors.add(RAISED, time, resource.service, kind, spot, message, trace, raised=kind)
        if span.status.code == ERROR_STATUS and not exceptions:
            kind = next((value_of(pair.value) for pair in span.attributes if pair.key == "error.type"), "")
            self._errors.add(FAILED, time, resource.service, kind, f"span {span.name}", span.status.message, trace)

    def flush(self) -> None:
        """Write the rows."""
        self._resolve()
        many = self._connection.executemany
        many("INSERT INTO span VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self._rows)
        many("UPDATE span SET place = ?, pos = ? WHERE id = ?", self._moved)
        self._errors.flush()
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
        self._rows, self._moved, self._slots, self._hist = [], [], {}, {}


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
