"""Puts log records into the index: a row each with its words, their templates, findings, errors and marks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_perf.analysis.bottlenecks import ANYWHERE
from otel_perf.analysis.errors import ERROR_SEVERITY
from otel_perf.analysis.errors import place_of as spot_of
from otel_perf.analysis.index_errors import Errors
from otel_perf.analysis.index_names import MOST
from otel_perf.analysis.index_tables import LOGGED, elsewhere, has_words, signed
from otel_perf.analysis.numbers import number_of
from otel_perf.analysis.otlp import attributes_of, value_of
from otel_perf.analysis.templates import Templates
from otel_perf.core.events import (
    BOTTLENECK,
    BUSINESS_SCOPE,
    FEATURE_CHANGED,
    FOLDED,
    REPEATED,
    REQUEST,
    SUMMARY,
    UNCAUGHT_ERROR,
)

if TYPE_CHECKING:
    import sqlite3

    from otel_perf.analysis.index_names import Names, Resource, Trace

LONGEST: Final = 400  # characters of a line; the whole one is in the store
ROWS: Final = 16_000  # that are in memory, also of one batch
LIMIT: Final = 10_000  # templates that are read when the work goes on
MARKS: Final = frozenset(
    {
        "perf.memory.pressure", "perf.memory.leak_suspected", "perf.gc.tuned", "perf.health.changed",
        "feature_flag.evaluation", "perf.singleton.closed", FEATURE_CHANGED.name,
    }
)  # fmt: skip
_OURS: Final = "perf."
_NO_LINES: Final = frozenset({REQUEST.name, SUMMARY.name})  # never errors, whatever their severity


class _Whose(NamedTuple):
    """The process and the logger of records."""

    resource: Resource
    logger: str
    scope: int  # the logger's number


class _Template:
    """A template of lines: its number once it has one, and what is to be added."""

    __slots__ = ("count", "first", "last", "number")

    def __init__(self) -> None:
        self.number = self.count = self.last = 0
        self.first = 1 << 62


class Lines:
    """Gathers rows; :meth:`flush` writes them. For one thread."""

    def __init__(self, connection: sqlite3.Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._has_words = has_words(connection)
        self._rows: list[list[Any]] = []
        self._moved: list[tuple[int, int, int]] = []  # where rows are as well, from now on
        self._findings: list[tuple[Any, ...]] = []
        self._errors = Errors(connection)
        self._marks: list[tuple[Any, ...]] = []
        self._templates: Templates[tuple[int, int, str], _Template] = Templates(_Template, (0, 0, ""))
        self._next_template = 1
        rows = connection.execute(
            "SELECT service, scope, severity, words, id FROM template ORDER BY count DESC LIMIT ?", (LIMIT,)
        )
        for service, scope, severity, words, number in rows.fetchall():
            self._templates.of((service, scope, severity), words).number = number
            self._next_template = max(self._next_template, number + 1)

    def add(self, place: int, body: bytes) -> int:
        """Take a batch; how many records it has. About 12 µs a record, 10 more for a text that is new."""
        request = ExportLogsServiceRequest.FromString(body)
        names, pos = self._names, 0
        low, high = names.bounds
        names.know(
            record.trace_id
            for r in request.resource_logs for s in r.scope_logs for record in s.log_records if record.trace_id
        )  # fmt: skip
        for of_resource in request.resource_logs:
            resource = names.resource(of_resource.resource)
            first, last = MOST, 0
            for of_scope in of_resource.scope_logs:
                logger = of_scope.scope.name
                whose = _Whose(resource, logger, names.text(logger))
                for record in of_scope.log_records:
                    time = min(record.time_unix_nano or record.observed_time_unix_nano, MOST)
                    self._add(record, whose, time, place, pos)
                    pos += 1
                    if low <= time <= high:
                        first, last = min(first, time), max(last, time)
            if last:
                names.saw(resource, first, last)
        return pos

    def _add(self, record: Any, whose: _Whose, time: int, place: int, pos: int) -> None:
        event, trace = record.event_name, None
        if record.body.HasField("string_value"):
            text = record.body.string_value
        else:
            value = value_of(record.body)
            text = "" if value is None else repr(value)
        own = event.startswith(_OURS) or event in MARKS
        known = (
            int(own), time, whose.resource.service, whose.scope, self._names.text(event) if event else 0,
            signed(record.span_id), (text or event)[:LONGEST],
        )  # fmt: skip
        if self._names.store and self._is_here(known, place, pos):
            return
        if any(record.trace_id):
            trace = self._names.trace(record.trace_id)
            trace.logs += 1
        if (event or record.severity_number >= ERROR_SEVERITY) and not (
            event in _NO_LINES or whose.logger == BUSINESS_SCOPE
        ):
            self._add_special(record, whose, time, trace, text)
        template = None if own else self._template(record, whose, text or event, time)
        row = [
            self._names.next_log, time, int(own), record.severity_number, whose.resource.service, whose.scope,
            known[4], _number(trace), known[5], template, place, pos, known[6],
        ]  # fmt: skip
        self._rows.append(row)
        self._names.next_log += 1
        if len(self._rows) >= ROWS:
            self.flush()

    def _is_here(self, line: tuple[int, int, int, int, int, int, str], place: int, pos: int) -> bool:
        """Whether another store had this very line; its row is of this copy then. Records have no ids."""
        found = self._connection.execute(
            "SELECT id FROM log WHERE own = ? AND time = ? AND service = ? AND scope = ? AND event = ? AND sid = ?"
            " AND body = ? AND place NOT BETWEEN ? AND ?",
            (*line, *elsewhere(place)),
        ).fetchone()
        if found is None:
            return False
        self._moved.append((place, pos, found[0]))
        self._names.twice += 1
        return True

    def _template(self, record: Any, whose: _Whose, text: str, time: int) -> _Template:
        count = 1
        for pair in record.attributes:
            if pair.key == FOLDED:
                count, text = max(0, min(pair.value.int_value, 10**9)), text.rpartition(REPEATED)[0]
        group = whose.resource.service, whose.scope, record.severity_text or "UNSPECIFIED"
        found = self._templates.of(group, text)
        found.count += count
        found.first, found.last = min(found.first, time), max(found.last, time)
        if not found.number:
            found.number = self._next_template
            self._next_template += 1
        return found

    def _add_special(self, record: Any, whose: _Whose, time: int, trace: Trace | None, text: str) -> None:
        event, said, service = record.event_name, attributes_of(record.attributes), whose.resource.service
        if event == BOTTLENECK.name:
            self._add_finding(said, service, time, trace, signed(record.span_id), text)
            return
        if event in MARKS:
            self._marks.append((time, event, service, text[:500]))
        raised = said.get("exception.type")
        if event == UNCAUGHT_ERROR.name:
            kind, source = raised, f"uncaught in {said.get('perf.error.source', '')}"
            text = said.get("exception.message", "")
        elif record.severity_number >= ERROR_SEVERITY:
            kind, source = raised or record.severity_text, f"log {whose.logger}"
            text = said.get("exception.message") or text
        else:
            return
        spot = spot_of(said.get("exception.stacktrace")) or source
        self._errors.add(LOGGED, time, service, kind, spot, text, _number(trace), raised=raised)

    def _add_finding(
        self, said: dict[str, Any], service: int, time: int, trace: Trace | None, sid: int, text: str
    ) -> None:
        def of(name: str) -> str:
            return str(said.get(f"{BOTTLENECK.name}.{name}", ""))

        path, culprit = str(said.get("code.file.path", "")), of("culprit")
        line = int(number_of(said.get("code.line.number")))
        spot = f"{path}:{line}" if path and culprit not in ANYWHERE else culprit
        cost = max(0.0, number_of(said.get(f"{BOTTLENECK.name}.cost")))
        count = int(number_of(said.get(f"{BOTTLENECK.name}.count"))) or 1
        self._findings.append(
            (time, service, of("kind"), spot, culprit, str(said.get("code.function.name", "")), path, line,
             cost, count, (text or of("evidence"))[:1000], _number(trace), sid)
        )  # fmt: skip
        if trace is not None:
            trace.findings += 1
            trace.cost += cost

    def flush(self) -> None:
        """Write the rows."""
        many = self._connection.executemany
        many(
            "INSERT INTO template VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
            " words = excluded.words, count = count + excluded.count, first = min(first, excluded.first),"
            " last = max(last, excluded.last)",
            self._template_rows(),
        )
        rows = [(*row[:9], 0 if row[9] is None else row[9].number, *row[10:]) for row in self._rows]
        many("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        many("UPDATE log SET place = ?, pos = ? WHERE id = ?", self._moved)
        if self._has_words:
            many("INSERT INTO log_words(rowid, body) VALUES (?, ?)", [(row[0], row[12]) for row in rows])
        many(
            "INSERT INTO finding(time, service, kind, spot, culprit, function, path, line, cost, count, evidence,"
            " trace, sid) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self._findings,
        )
        self._errors.flush()
        many("INSERT INTO mark(time, kind, service, text) VALUES (?, ?, ?, ?)", self._marks)
        self._rows, self._moved, self._findings, self._marks = [], [], [], []

    def _template_rows(self) -> list[tuple[Any, ...]]:
        rows = []
        for found in self._templates.all:
            value = found.value
            if value.count:
                rows.append((value.number, *found.group, str(found), value.count, value.first, value.last))
                value.count, value.first, value.last = 0, 1 << 62, 0
        return rows


def _number(trace: Trace | None) -> int:
    return 0 if trace is None else trace.number
