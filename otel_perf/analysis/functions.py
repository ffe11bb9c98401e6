"""The monitored functions of a store, from the metrics that :mod:`otel_perf.calls` emits."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from otel_perf.analysis.exponential import FINEST, Counts
from otel_perf.analysis.otlp import instance_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_perf.analysis.otlp import Buckets, Point

DURATION: Final = "perf.call.duration"
NAMES: Final = frozenset({DURATION, "perf.call.self_time", "perf.call.errors", "perf.call.untimed"})


class FunctionRow(BaseModel):
    """One monitored function of one service, all its processes together. Times in seconds; p50 and p99 to 9 %."""

    service: str
    name: str
    calls: int
    errors: int
    total: float
    self_time: float
    p50: float
    p99: float


class _Series:
    """What one process said of one function."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.calls = 0
        self.counts = Counts()

    def add(self, point: Point) -> None:
        if not point.delta:  # it counts from the start: the last one says it all
            self.values[point.name] = 0.0
            if point.name == DURATION:
                self.counts = Counts()
                self.calls = 0
        self.values[point.name] = self.values.get(point.name, 0.0) + point.value
        if point.name == DURATION:
            self.calls += point.count
            if point.buckets is not None:
                self._add_buckets(point.buckets)

    def _add_buckets(self, buckets: Buckets) -> None:
        if -FINEST <= buckets.scale <= FINEST:
            self.counts = self.counts.plus(Counts(buckets.scale, dict(enumerate(buckets.counts, buckets.first))))


class Functions:
    """Gathers the rows while points pass by."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str], dict[str, _Series]] = defaultdict(lambda: defaultdict(_Series))

    def watching(self, points: Iterable[Point]) -> Iterator[Point]:
        """``points``, as they are."""
        for point in points:
            if point.name in NAMES:
                service = str(point.resource.get("service.name", "unknown_service"))
                function = str(point.attributes.get("code.function.name", "(all others)"))
                instance = instance_of(point.resource)
                self._series[service, function][instance].add(point)
            yield point

    def rows(self) -> list[FunctionRow]:
        """All functions, the one with the most time of its own first."""
        rows = [_row(service, name, list(found.values())) for (service, name), found in self._series.items()]
        return sorted(rows, key=lambda row: (-row.self_time, -row.calls, row.name))


def _row(service: str, name: str, series: list[_Series]) -> FunctionRow:
    counts = Counts()
    for one in series:
        counts = counts.plus(one.counts)

    def total(metric: str) -> float:
        return sum(one.values.get(metric, 0.0) for one in series)

    took = total(DURATION)  # a bucket ends above what is in it: one call would seem to take longer than all
    return FunctionRow(
        service=service, name=name,
        calls=sum(one.calls for one in series) + int(total("perf.call.untimed")),
        errors=int(total("perf.call.errors")),
        total=took, self_time=total("perf.call.self_time"),
        p50=min(took, counts.quantile(0.50)), p99=min(took, counts.quantile(0.99)),
    )  # fmt: skip
