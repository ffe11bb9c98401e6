"""The log lines of a store, by template; and what was dropped before they could be stored.

The lines are grouped here and not taken from the metric ``perf.log.patterns``. The groups then add up to the records
that are here, with the first, the last and an example of each; they are of all processes, also of one that was killed
before it could tell its last counts, and of lines that did not come through our own patch. The metric has a hundred
series a process and no examples. What was folded is added from the lines that say it; what was dropped is nowhere but
in the metric ``perf.log.dropped``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from otel_perf.analysis.otlp import instance_of, service_of
from otel_perf.analysis.templates import Templates
from otel_perf.core.events import FOLDED, REPEATED

if TYPE_CHECKING:
    from otel_perf.analysis.otlp import LogEntry, Point

DROPPED: Final = "perf.log.dropped"
EXAMPLE: Final = 300  # characters
_OURS: Final = "perf."  # events that we make, which are told elsewhere


class LogPattern(BaseModel):
    """Log lines of one template, logger and severity; of ``count`` so many were ``folded`` into others."""

    service: str
    logger: str
    severity: str
    template: str
    count: int
    folded: int
    first_ns: int
    last_ns: int
    example: str
    trace_id: str  # of the last line that has one


class Logs(BaseModel):
    """Log records by severity, and how many carry the id of a trace. What was found of bottlenecks is none of them.

    ``dropped`` are lines that the app made and that rules kept back, by reason; those that were folded are in
    ``patterns`` as well.
    """

    records: int
    with_trace: int
    by_severity: dict[str, int]
    dropped: dict[str, int] = {}
    patterns: list[LogPattern] = []


class _Gathered:
    """What is gathered of one template."""

    __slots__ = ("count", "example", "first", "folded", "last", "trace_id", "traced")

    def __init__(self) -> None:
        self.count = self.folded = 0
        self.first = self.last = self.traced = 0
        self.example = self.trace_id = ""

    def add(self, entry: LogEntry, text: str, folded: int) -> None:
        self.count += folded or 1  # the line that says it stands for those, not for itself
        self.folded += folded
        if not self.first or entry.time < self.first:
            self.first, self.example = entry.time, text[:EXAMPLE]
        self.last = max(entry.time, self.last)
        if entry.trace_id.strip("0") and entry.time >= self.traced:
            self.traced, self.trace_id = entry.time, entry.trace_id


class LogLines:
    """Gathers the rows while log records and points pass by."""

    def __init__(self) -> None:
        self._logs = Logs(records=0, with_trace=0, by_severity={})
        self._templates: Templates[tuple[str, str, str], _Gathered] = Templates(_Gathered, ("", "", ""))
        self._dropped: dict[tuple[str, str, str, str], float] = {}

    def add(self, entry: LogEntry) -> None:
        """Look at a log record."""
        logs, severity = self._logs, entry.severity_text or "UNSPECIFIED"
        logs.records += 1
        logs.with_trace += bool(entry.trace_id.strip("0"))
        logs.by_severity[severity] = logs.by_severity.get(severity, 0) + 1
        if entry.event_name.startswith(_OURS):
            return
        group = service_of(entry.resource), entry.scope, severity
        text, folded = entry.event_name or entry.body, entry.attributes.get(FOLDED)
        if isinstance(folded, int):
            text = text.rpartition(REPEATED)[0]
        self._templates.of(group, text).add(entry, text, folded if isinstance(folded, int) else 0)

    def add_point(self, point: Point) -> None:
        """Look at a data point."""
        if point.name == DROPPED:
            key = (
                service_of(point.resource),
                instance_of(point.resource),
                str(point.attributes.get("perf.log.reason", "")),
                str(point.attributes.get("perf.log.level", "")),
            )
            self._dropped[key] = point.value + (self._dropped.get(key, 0.0) if point.delta else 0.0)

    def logs(self, top: int) -> Logs:
        """All of it; the ``top`` templates with the most lines."""
        dropped: Counter[str] = Counter()
        for (_service, _instance, reason, _level), number in self._dropped.items():
            dropped[reason] += int(number)
        rows = [
            LogPattern(
                service=found.group[0], logger=found.group[1], severity=found.group[2], template=str(found),
                count=found.value.count, folded=found.value.folded,
                first_ns=found.value.first, last_ns=found.value.last,
                example=found.value.example, trace_id=found.value.trace_id,
            )
            for found in self._templates.all
        ]  # fmt: skip
        rows.sort(key=lambda row: (-row.count, row.template))
        return self._logs.model_copy(update={"dropped": dict(sorted(dropped.items())), "patterns": rows[:top]})
