"""The bottlenecks of a store, from the events that :mod:`otel_perf.bottlenecks` emits."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from otel_perf.analysis.numbers import number_of
from otel_perf.analysis.otlp import service_of
from otel_perf.core.events import BOTTLENECK

if TYPE_CHECKING:
    from otel_perf.analysis.otlp import LogEntry

# A collection begins wherever the threshold is passed, so that its lines are no group.
ANYWHERE: Final = frozenset({"garbage collector"})


class Bottleneck(BaseModel):
    """The findings of one kind at one line of a service; where none is known, of one culprit. Costs in seconds.

    ``where`` is that line or culprit. ``function``, ``path``, ``line``, ``evidence`` and ``trace_id`` are of the
    costliest one; ``culprits`` are its own and then the others, by what they cost together.
    """

    service: str
    kind: str
    findings: int
    traces: int
    cost: float
    worst: float
    where: str
    culprits: list[str]
    function: str
    path: str
    line: int
    evidence: str
    trace_id: str


class Bottlenecks:
    """Gathers the groups while log entries pass by."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str], _Group] = {}

    def add(self, entry: LogEntry) -> bool:
        """Take ``entry``; whether it is a finding."""
        if entry.event_name != BOTTLENECK.name:
            return False
        key = (service_of(entry.resource), _text(entry, "kind"), _where(entry))
        if key not in self._groups:
            self._groups[key] = _Group(*key)
        self._groups[key].add(entry)
        return True

    def rows(self) -> list[Bottleneck]:
        """All groups, the one that costs the most first."""
        rows = [group.row() for group in self._groups.values()]
        return sorted(rows, key=lambda row: (-row.cost, row.kind, row.where))


class _Group:
    def __init__(self, service: str, kind: str, where: str) -> None:
        self._key = {"service": service, "kind": kind, "where": where}
        self._findings = 0
        self._traces: set[str] = set()
        self._costs: dict[str, float] = defaultdict(float)  # by culprit
        self._worst: tuple[float, LogEntry] | None = None

    def add(self, entry: LogEntry) -> None:
        cost = max(0.0, number_of(entry.attributes.get(f"{BOTTLENECK.name}.cost")))
        self._findings += 1
        if entry.trace_id:  # a collection, or a stall, may be of none
            self._traces.add(entry.trace_id)
        self._costs[_text(entry, "culprit")] += cost
        if self._worst is None or cost > self._worst[0]:
            self._worst = cost, entry

    def row(self) -> Bottleneck:
        assert self._worst is not None
        worst, entry = self._worst
        own = _text(entry, "culprit")
        attributes = entry.attributes
        return Bottleneck(
            **self._key, findings=self._findings, traces=len(self._traces),
            cost=sum(self._costs.values()), worst=worst,
            culprits=sorted(self._costs, key=lambda culprit: (culprit != own, -self._costs[culprit])),
            function=str(attributes.get("code.function.name", "")),
            path=str(attributes.get("code.file.path", "")), line=int(number_of(attributes.get("code.line.number"))),
            evidence=entry.body or _text(entry, "evidence"), trace_id=entry.trace_id,
        )  # fmt: skip


def _text(entry: LogEntry, name: str) -> str:
    return str(entry.attributes.get(f"{BOTTLENECK.name}.{name}", ""))


def _where(entry: LogEntry) -> str:
    path, culprit = entry.attributes.get("code.file.path"), _text(entry, "culprit")
    return f"{path}:{entry.attributes.get('code.line.number')}" if path and culprit not in ANYWHERE else culprit
