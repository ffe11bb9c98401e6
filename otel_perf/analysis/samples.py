"""The durations of each operation, run by run: what two stores, releases or files are compared by."""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from otel_perf.analysis.intervals import covered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from otel_perf.analysis.otlp import SpanRecord

PERIOD: Final = 120.0  # seconds of a long run that stand for a run
Key = tuple[str, str, str]  # service, name and kind of an operation


@dataclass(slots=True)
class Durations:
    """Of one operation in one unit: durations and own times, in seconds."""

    took: array[float] = field(default_factory=lambda: array("d"))
    own: array[float] = field(default_factory=lambda: array("d"))


@dataclass(frozen=True, slots=True)
class Run:
    """Processes of one service that lived at the same time: the workers of a server, or one program."""

    service: str
    number: int
    start: int  # ns
    end: int

    @property
    def periods(self) -> int:
        """How many units it is."""
        return max(1, int((self.end - self.start) / 1e9 / PERIOD))

    def period(self, time: int) -> int:
        """The period that ``time`` is in; what is over belongs to the last one."""
        return min(self.periods - 1, max(0, int((time - self.start) / 1e9 / PERIOD)))


class Samples:
    """One side of a comparison. About 60 bytes a span, and 100 more for those with children."""

    def __init__(self, spans: Iterable[SpanRecord]) -> None:
        self.spans = 0
        self.errors: dict[Key, int] = defaultdict(int)
        self._rows: list[tuple[Key, str, str, int, int]] = []
        self._children: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._lives: dict[tuple[str, str], tuple[int, int]] = {}  # by service and instance
        for span in spans:
            self._add(span)
        self.runs = sorted(_runs(self._lives), key=lambda run: run.start)

    def _add(self, span: SpanRecord) -> None:
        service = str(span.resource.get("service.name", "unknown_service"))
        instance = str(span.resource.get("service.instance.id", ""))
        key = (service, span.name, span.kind)
        self.spans += 1
        self.errors[key] += span.error
        self._rows.append((key, instance, span.span_id, span.start, span.end))
        if span.parent_id:
            self._children[span.parent_id].append((span.start, span.end))
        first, last = self._lives.get((service, instance), (span.start, span.end))
        self._lives[service, instance] = (min(first, span.start), max(last, span.end))

    def by_operation(self) -> dict[Key, dict[tuple[int, int], Durations]]:
        """Durations by operation, and by run and period of the run."""
        run_of = {
            owner: run
            for run in self.runs
            for owner, (start, _) in self._lives.items()
            if owner[0] == run.service and run.start <= start <= run.end
        }
        found: dict[Key, dict[tuple[int, int], Durations]] = defaultdict(lambda: defaultdict(Durations))
        for key, instance, span_id, start, end in self._rows:
            run = run_of[key[0], instance]
            took = max(0, end - start) / 1e9
            unit = found[key][run.number, run.period(start)]
            unit.took.append(took)
            unit.own.append(max(0.0, took - covered(self._children.get(span_id, ()), start, end) / 1e9))
        return found


def _runs(lives: dict[tuple[str, str], tuple[int, int]]) -> Iterator[Run]:
    """Instances of one service whose lives overlap are one run: they share the machine and its minute."""
    by_service: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for (service, _), life in lives.items():
        by_service[service].append(life)
    number = 0
    for service, found in by_service.items():
        for start, end in _merged(sorted(found)):
            yield Run(service, number, start, end)
            number += 1


def _merged(lives: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    start, end = lives[0]
    for next_start, next_end in lives[1:]:
        if next_start > end:
            yield start, end
            start, end = next_start, next_end
        end = max(end, next_end)
    yield start, end
