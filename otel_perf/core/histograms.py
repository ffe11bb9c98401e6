"""Histograms of durations for the SDK's readers, each at its own temporality, from counts that nobody locks for.

The one module of ``core`` that needs the SDK; features import it where they give their producers.
"""

from __future__ import annotations

from importlib.metadata import version
from itertools import pairwise
from threading import Lock
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from opentelemetry.sdk.metrics import Exemplar, Histogram
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    Metric,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramPoints
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_perf.core.buckets import BUCKETS_PER_DOUBLING, OFFSET, SCALE
from otel_perf.core.census import SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from otel_perf.core.buckets import Counted
    from otel_perf.core.census import Metric as Declared

# For readers that know explicit bounds only: powers of two, so that ours fall into them whole; 1 µs to 64 s.
EXPONENTS: Final = (-20, -17, -14, -11, -9, -7, -5, -3, -1, 1, 3, 6)
BOUNDS: Final = tuple(2.0**exponent for exponent in EXPONENTS)
_PULL: Final = "opentelemetry.exporter.prometheus"  # fails on exponential histograms


class Taken(NamedTuple):
    """What one reader got last of a point."""

    buckets: Sequence[int]
    total: float


class HistogramProducer:
    """Produces one metric from what ``counted`` gives. Thread-safe."""

    def __init__(self, metric: Declared, counted: Callable[[], Iterable[Counted]], *, scope: str = SCOPE) -> None:
        self.metric = metric
        self.counted = counted
        self._scope = scope
        self._lock = Lock()  # a flush collects beside the reader's own thread
        self._started = time_ns()
        self._taken: WeakKeyDictionary[Any, tuple[int, dict[Any, Taken]]] = WeakKeyDictionary()

    def after_fork_in_child(self) -> None:
        """Begin anew, as the counts do."""
        self._lock = Lock()
        self._started = time_ns()
        self._taken = WeakKeyDictionary()

    def produce(self, reader: Any) -> ScopeMetrics | None:
        """The points for ``reader``; ``None`` if nothing was counted."""
        with self._lock:
            return self._produce(reader)

    def _produce(self, reader: Any) -> ScopeMetrics | None:
        delta = _temporality(reader) is AggregationTemporality.DELTA
        now = time_ns()
        since, before = self._taken.get(reader, (self._started, {})) if delta else (self._started, {})
        point = _explicit if type(reader).__module__.startswith(_PULL) else _exponential
        points, taken = [], {}
        for counts in self.counted():
            key, total, buckets = tuple(counts.attributes.items()), counts.total, list(counts.buckets)
            taken[key] = Taken(buckets, total)
            if key in before:
                last = before[key]
                total -= last.total
                buckets = [new - old for new, old in zip(buckets, last.buckets, strict=True)]
            if any(buckets):
                points.append(point(counts, buckets, total, since, now, delta=delta))
        if delta:
            self._taken[reader] = (now, taken)
        if not points:
            return None
        temporality = AggregationTemporality.DELTA if delta else AggregationTemporality.CUMULATIVE
        kind: Any = HistogramPoints if point is _explicit else ExponentialHistogram
        declared = self.metric
        metric = Metric(declared.name, declared.description, declared.unit, kind(points, temporality))
        return ScopeMetrics(InstrumentationScope(self._scope, version("otel-perf")), [metric], "")


def _temporality(reader: Any) -> AggregationTemporality:
    """What the reader wants histograms to be; it keeps that by the SDK's own subclass of ``Histogram``."""
    for kind, temporality in reader._instrument_class_temporality.items():
        if issubclass(kind, Histogram) and isinstance(temporality, AggregationTemporality):
            return temporality
    return AggregationTemporality.CUMULATIVE


def _exponential(
    counts: Counted, buckets: Sequence[int], total: float, since: int, now: int, *, delta: bool
) -> ExponentialHistogramDataPoint:
    first = next(index for index, count in enumerate(buckets) if count)
    last = next(index for index in range(len(buckets) - 1, -1, -1) if buckets[index])
    least, most = counts.minimum, counts.maximum
    if delta:  # exact to a bucket: what is exact spans all time
        least = max(least, 2.0 ** ((first - OFFSET) / BUCKETS_PER_DOUBLING))
        most = min(most, 2.0 ** ((last + 1 - OFFSET) / BUCKETS_PER_DOUBLING))
    return ExponentialHistogramDataPoint(
        attributes=dict(counts.attributes),
        start_time_unix_nano=since,
        time_unix_nano=now,
        count=sum(buckets),
        sum=total,
        scale=SCALE,
        zero_count=0,
        positive=Buckets(first - OFFSET, buckets[first : last + 1]),
        negative=Buckets(0, []),
        flags=0,
        min=least,
        max=most,
        exemplars=_exemplars(counts),
    )


def _explicit(
    counts: Counted, buckets: Sequence[int], total: float, since: int, now: int, **_: bool
) -> HistogramDataPoint:
    edges = [0, *(OFFSET + exponent * BUCKETS_PER_DOUBLING for exponent in EXPONENTS), len(buckets)]
    return HistogramDataPoint(
        attributes=dict(counts.attributes),
        start_time_unix_nano=since,
        time_unix_nano=now,
        count=sum(buckets),
        sum=total,
        bucket_counts=[sum(buckets[low:high]) for low, high in pairwise(edges)],
        explicit_bounds=BOUNDS,
        min=counts.minimum,
        max=counts.maximum,
        exemplars=_exemplars(counts),
    )


def _exemplars(counts: Counted) -> list[Exemplar]:
    if counts.exemplar is None:
        return []
    duration, end, trace_id, span_id = counts.exemplar
    return [Exemplar({}, duration, end, span_id, trace_id)]
