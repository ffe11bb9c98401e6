"""What the app says of itself in a store: its business events, its requests' records, and the summaries."""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel

from otel_perf.analysis.numbers import number_of, quantile
from otel_perf.analysis.otlp import instance_of, service_of
from otel_perf.core.events import BUSINESS_SCOPE, REQUEST, SUMMARY

if TYPE_CHECKING:
    from otel_perf.analysis.otlp import LogEntry

INVALID: Final = "perf.event.invalid"
_REQUEST: Final = f"{REQUEST.name}."


class BusinessEvent(BaseModel):
    """The business events of one name in one service: how many, how many are not what was registered, the last one."""

    service: str
    name: str
    count: int
    invalid: int
    reason: str
    traces: int
    first_ns: int
    last_ns: int


class RequestRow(BaseModel):
    """The wide records of one name in one service. Times in seconds; calls and lines are of all together."""

    service: str
    name: str
    count: int
    failed: int
    p50: float
    p99: float
    longest: float
    longest_trace: str
    db_calls: int
    db_time: float
    http_calls: int
    http_time: float
    cpu_time: float
    lines: int
    findings: int


class SummaryRow(BaseModel):
    """The last summary of one process."""

    service: str
    instance: str
    time_ns: int
    period: float
    text: str


class Events:
    """Gathers the rows while log records pass by."""

    def __init__(self) -> None:
        self._business: dict[tuple[str, str], BusinessEvent] = {}
        self._traces: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._requests: dict[tuple[str, str], _Requests] = {}
        self._summaries: dict[tuple[str, str], SummaryRow] = {}

    def add(self, entry: LogEntry) -> bool:
        """Take ``entry``; whether it is one of these, and no line."""
        if entry.event_name == REQUEST.name:
            self._add_request(entry)
        elif entry.event_name == SUMMARY.name:
            self._add_summary(entry)
        elif entry.scope == BUSINESS_SCOPE:
            self._add_business(entry)
        else:
            return False
        return True

    def _add_business(self, entry: LogEntry) -> None:
        key = service_of(entry.resource), entry.event_name
        known = self._business.get(key)
        if known is None:
            known = self._business[key] = BusinessEvent(
                service=key[0], name=key[1], count=0, invalid=0, reason="", traces=0,
                first_ns=entry.time, last_ns=entry.time,
            )  # fmt: skip
        known.count += 1
        reason = entry.attributes.get(INVALID)
        if reason is not None:
            known.invalid += 1
            known.reason = str(reason)
        if entry.trace_id.strip("0"):
            self._traces[key].add(entry.trace_id)
        known.first_ns, known.last_ns = min(known.first_ns, entry.time), max(known.last_ns, entry.time)

    def _add_request(self, entry: LogEntry) -> None:
        attributes = entry.attributes
        method, route = attributes.get("http.request.method"), attributes.get("http.route")
        name = f"{method} {route}" if method and route else str(attributes.get(f"{_REQUEST}name", ""))
        key = service_of(entry.resource), name
        if key not in self._requests:
            self._requests[key] = _Requests()
        self._requests[key].add(entry)

    def _add_summary(self, entry: LogEntry) -> None:
        key = service_of(entry.resource), instance_of(entry.resource)
        known = self._summaries.get(key)
        if known is None or entry.time >= known.time_ns:
            period = number_of(entry.attributes.get("perf.summary.period"))
            self._summaries[key] = SummaryRow(
                service=key[0], instance=key[1], time_ns=entry.time, period=period, text=entry.body
            )

    def business(self) -> list[BusinessEvent]:
        """The most frequent first."""
        for key, row in self._business.items():
            row.traces = len(self._traces[key])
        return sorted(self._business.values(), key=lambda row: (-row.count, row.name))

    def requests(self) -> list[RequestRow]:
        """Those that took the most time together first."""
        rows = sorted(self._requests.items(), key=lambda pair: -pair[1].total)
        return [found.row(service, name) for (service, name), found in rows]

    def summaries(self) -> list[SummaryRow]:
        """The latest first."""
        return sorted(self._summaries.values(), key=lambda row: -row.time_ns)


class _Requests:
    def __init__(self) -> None:
        self.total = 0.0
        self._durations: array[float] = array("d")
        self._failed = self._findings = self._lines = 0
        self._sums: dict[str, float] = defaultdict(float)
        self._longest: tuple[float, str] = (-1.0, "")

    def add(self, entry: LogEntry) -> None:
        attributes = entry.attributes
        duration = number_of(attributes.get(f"{_REQUEST}duration"))
        self.total += duration
        self._durations.append(duration)
        self._longest = max(self._longest, (duration, entry.trace_id))
        self._failed += entry.severity_text == "ERROR"
        kinds = attributes.get("perf.bottleneck.kinds")
        self._findings += len(kinds) if isinstance(kinds, list) else 0
        for name in ("db.calls", "db.time", "http.calls", "http.time", "cpu_time"):
            self._sums[name] += number_of(attributes.get(_REQUEST + name))
        self._lines += sum(int(number_of(value)) for _, value in _lines(attributes))

    def row(self, service: str, name: str) -> RequestRow:
        ordered, sums = sorted(self._durations), self._sums
        return RequestRow(
            service=service, name=name, count=len(ordered), failed=self._failed, p50=quantile(ordered, 0.50),
            p99=quantile(ordered, 0.99), longest=self._longest[0], longest_trace=self._longest[1],
            db_calls=int(sums["db.calls"]), db_time=sums["db.time"], http_calls=int(sums["http.calls"]),
            http_time=sums["http.time"], cpu_time=sums["cpu_time"], lines=self._lines, findings=self._findings,
        )  # fmt: skip


def _lines(attributes: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in attributes.items() if name.startswith(f"{_REQUEST}logs.")]
