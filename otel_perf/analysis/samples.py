"""What each operation and function took, and each service's memory, run by run: what two sides are compared by."""

from __future__ import annotations

import time
from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from otel_perf.analysis.intervals import covered
from otel_perf.analysis.otlp import instance_of, service_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from otel_perf.analysis.otlp import Point, SpanRecord

CALLS: Final = "perf.call.duration"
OWN: Final = "perf.call.self_time"
RAISED: Final = "perf.call.errors"
MEMORY: Final = "process.memory.usage"
UNSET: Final = 946_684_800 * 10**9  # ns, the year 2000; a clock that says less was not set yet
AHEAD: Final = 86_400 * 10**9  # ns; a clock that says more than this from now is wrong
Key = tuple[str, str, str]  # service, name and kind of an operation
FunctionKey = tuple[str, str]  # service and name
Owner = tuple[str, str]  # service and instance: a process


@dataclass(slots=True)
class Durations:
    """Of one operation in one run, where it did not fail: durations and own times, in seconds."""

    took: array[float] = field(default_factory=lambda: array("d"))
    own: array[float] = field(default_factory=lambda: array("d"))


@dataclass(slots=True)
class Calls:
    """Of one function in one run: how many calls, how many raised, what they took and took of their own, in seconds."""

    count: int = 0
    failed: int = 0
    took: float = 0.0
    own: float = 0.0


class _Course:
    """What one process said of one function: counts and sums, from its start or (delta) since the point before."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[int, float, int, bool]]] = {CALLS: [], OWN: [], RAISED: []}

    def add(self, point: Point) -> None:
        rows = self._rows[point.name]
        if not point.delta and len(rows) > 1 and rows[-2][1:3] == rows[-1][1:3] == (point.value, point.count):
            rows.pop()  # not called for a while: its first and its last point say so
        rows.append((point.time, point.value, point.count, point.delta))

    def total(self, name: str) -> tuple[float, int]:
        """Sum and count of it all."""
        rows = [(0, 0.0, 0, False), *sorted(self._rows[name])]
        sums, counts = 0.0, 0
        for (_, was, had, _), (_, value, count, delta) in pairwise(rows):
            anew = delta or count < had or value < was
            sums, counts = sums + value - (0.0 if anew else was), counts + count - (0 if anew else had)
        return sums, counts


@dataclass(frozen=True, slots=True)
class Run:
    """Processes of one service that lived at the same time: the workers of a server, or one program.

    However long it is, it is one: what a process met when it started stays with it until it ends.
    """

    service: str
    number: int
    start: int  # ns
    end: int


class Samples:
    """One side of a comparison. About 60 bytes a span, 100 more for those with children, 200 a point of a function."""

    def __init__(self, spans: Iterable[SpanRecord], points: Iterable[Point] = ()) -> None:
        self.spans = 0
        self._latest = time.time_ns() + AHEAD
        self._ended: dict[tuple[Key, str], list[int]] = defaultdict(lambda: [0, 0])  # failed, and all
        self._rows: list[tuple[Key, str, str, int, int]] = []
        self._children: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._courses: dict[tuple[Owner, str], _Course] = defaultdict(_Course)
        self._peaks: dict[Owner, float] = defaultdict(float)
        self._lives: dict[Owner, tuple[int, int]] = {}
        for span in spans:
            self._add(span)
        for point in points:
            self._add_point(point)
        self.runs = sorted(_runs(self._lives), key=lambda run: run.start)
        self._run_of = {
            owner: run
            for run in self.runs
            for owner, (start, _) in self._lives.items()
            if owner[0] == run.service and run.start <= start <= run.end
        }

    def _add(self, span: SpanRecord) -> None:
        owner = service_of(span.resource), instance_of(span.resource)
        key = (owner[0], span.name, span.kind)
        self.spans += 1
        ended = self._ended[key, owner[1]]
        ended[0], ended[1] = ended[0] + span.error, ended[1] + 1
        if not span.error:  # what fails takes as long as it takes to fail
            self._rows.append((key, owner[1], span.span_id, span.start, span.end))
        if span.parent_id:
            self._children[span.parent_id].append((span.start, span.end))
        self._lived(owner, span.start, span.end)

    def _add_point(self, point: Point) -> None:
        owner = service_of(point.resource), instance_of(point.resource)
        if point.name == MEMORY:
            self._peaks[owner] = max(self._peaks[owner], point.value)
        elif point.name in {CALLS, OWN, RAISED} and "code.function.name" in point.attributes:
            # Not those that share one count.
            self._courses[owner, str(point.attributes["code.function.name"])].add(point)
        else:
            return
        self._lived(owner, min(point.start or point.time, point.time), point.time)

    def _lived(self, owner: Owner, start: int, end: int) -> None:
        was, life = self._lives.get(owner), (start, end)
        if was is not None and self._is_right(was) == self._is_right(life):
            life = (min(was[0], start), max(was[1], end))
        elif was is not None and self._is_right(was):
            return  # else all runs since 1970, or to the wrong day, would be one
        self._lives[owner] = life

    def _is_right(self, life: tuple[int, int]) -> bool:
        """Whether the clock may have been right, as far as can be told."""
        return life[0] >= UNSET and life[1] <= self._latest

    @property
    def services(self) -> list[str]:
        """Those of which there is anything."""
        return sorted({run.service for run in self.runs})

    def outcomes(self) -> dict[Key, dict[int, tuple[int, int]]]:
        """How many spans of an operation failed, and how many there were, by run."""
        found: dict[Key, dict[int, tuple[int, int]]] = defaultdict(dict)
        for (key, instance), (failed, count) in self._ended.items():
            run = self._run_of[key[0], instance].number
            was_failed, was = found[key].get(run, (0, 0))
            found[key][run] = was_failed + failed, was + count
        return found

    def by_operation(self) -> dict[Key, dict[int, Durations]]:
        """Durations of the spans that did not fail, by operation and run."""
        found: dict[Key, dict[int, Durations]] = defaultdict(lambda: defaultdict(Durations))
        for key, instance, span_id, start, end in self._rows:
            took = max(0, end - start) / 1e9
            unit = found[key][self._run_of[key[0], instance].number]
            unit.took.append(took)
            unit.own.append(max(0.0, took - covered(self._children.get(span_id, ()), start, end) / 1e9))
        return found

    def by_function(self) -> dict[FunctionKey, dict[int, Calls]]:
        """Calls by function and run."""
        found: dict[FunctionKey, dict[int, Calls]] = defaultdict(lambda: defaultdict(Calls))
        for (owner, name), course in self._courses.items():
            unit = found[owner[0], name][self._run_of[owner].number]
            took, count = course.total(CALLS)
            unit.took, unit.count = unit.took + took, unit.count + count
            unit.own += course.total(OWN)[0]
            unit.failed += int(course.total(RAISED)[0])
        called = {key: {run: unit for run, unit in units.items() if unit.count > 0} for key, units in found.items()}
        return {key: units for key, units in called.items() if units}

    def peaks(self) -> dict[str, dict[int, float]]:
        """The most memory (bytes) that a process of the service was seen with, by run."""
        found: dict[str, dict[int, float]] = defaultdict(dict)
        for owner, peak in self._peaks.items():
            run = self._run_of[owner].number
            found[owner[0]][run] = max(peak, found[owner[0]].get(run, 0.0))
        return found


def _runs(lives: dict[Owner, tuple[int, int]]) -> Iterator[Run]:
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
