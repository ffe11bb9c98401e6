"""What the SDK's metrics see of the calls: the counts of all functions, for every reader at its own temporality.

The one module of this feature that needs the SDK.
"""

from __future__ import annotations

from importlib.metadata import version
from itertools import pairwise
from threading import Lock
from time import time_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.sdk.metrics import Exemplar, ExemplarFilter, Histogram
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

from otel_perf.calls import CALL_DURATION, CALL_ERRORS, CALL_SELF_TIME, CALL_UNTIMED
from otel_perf.calls.function import OVERFLOW
from otel_perf.calls.keys import BUCKETS_PER_DOUBLING, OFFSET, SCALE
from otel_perf.calls.lazy_span import SCOPE, LazySpan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from opentelemetry.context import Context
    from opentelemetry.util.types import Attributes

    from otel_perf.calls.counts import Counts
    from otel_perf.calls.function import Functions
    from otel_perf.core.census import Metric as Declared
    from otel_perf.core.census import Reading

# For readers that know explicit bounds only: powers of two, so that ours fall into them whole; 1 µs to 64 s.
EXPONENTS: Final = (-20, -17, -14, -11, -9, -7, -5, -3, -1, 1, 3, 6)
BOUNDS: Final = tuple(2.0**exponent for exponent in EXPONENTS)
_PULL: Final = "opentelemetry.exporter.prometheus"  # fails on exponential histograms


class Taken(NamedTuple):
    """What one reader got last of a function."""

    buckets: Sequence[int]
    total: float


class CallsProducer:
    """Produces ``perf.call.duration``. Thread-safe."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._lock = Lock()  # a flush collects beside the reader's own thread
        self._started = time_ns()
        self._taken: WeakKeyDictionary[Any, tuple[int, dict[str, Taken]]] = WeakKeyDictionary()

    def after_fork_in_child(self) -> None:
        """Begin anew, as the counts do."""
        self._lock = Lock()
        self._started = time_ns()
        self._taken = WeakKeyDictionary()

    def produce(self, reader: Any) -> ScopeMetrics | None:
        """The points for ``reader``; ``None`` if nothing was called."""
        with self._lock:
            return self._produce(reader)

    def _produce(self, reader: Any) -> ScopeMetrics | None:
        delta = _temporality(reader) is AggregationTemporality.DELTA
        now = time_ns()
        since, before = self._taken.get(reader, (self._started, {})) if delta else (self._started, {})
        point = _explicit if type(reader).__module__.startswith(_PULL) else _exponential
        points, taken = [], {}
        for counts in self._functions.counts():
            total, buckets = counts.total, list(counts.buckets)
            taken[counts.name] = Taken(buckets, total)
            if counts.name in before:
                last = before[counts.name]
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
        metric = Metric(CALL_DURATION.name, CALL_DURATION.description, CALL_DURATION.unit, kind(points, temporality))
        return ScopeMetrics(InstrumentationScope(SCOPE, version("otel-perf")), [metric], "")


def sources(functions: Functions) -> dict[Declared, Callable[[], Iterable[Reading]]]:
    """What the census reads beside the histogram."""

    def of(field: str) -> Callable[[], Iterable[Reading]]:
        def source() -> Iterable[Reading]:
            found = [(getattr(counts, field), attributes_of(counts)) for counts in functions.counts()]
            return [reading for reading in found if reading[0]]

        return source

    return {CALL_SELF_TIME: of("self_total"), CALL_ERRORS: of("errors"), CALL_UNTIMED: of("untimed")}


def attributes_of(counts: Counts) -> dict[str, Any]:
    """The attributes of a function's points."""
    return {OVERFLOW: True} if counts.name == OVERFLOW else {"code.function.name": counts.name}


def _temporality(reader: Any) -> AggregationTemporality:
    """What the reader wants histograms to be; it keeps that by the SDK's own subclass of ``Histogram``."""
    for kind, temporality in reader._instrument_class_temporality.items():
        if issubclass(kind, Histogram) and isinstance(temporality, AggregationTemporality):
            return temporality
    return AggregationTemporality.CUMULATIVE


def _exponential(
    counts: Counts, buckets: Sequence[int], total: float, since: int, now: int, *, delta: bool
) -> ExponentialHistogramDataPoint:
    first = next(index for index, count in enumerate(buckets) if count)
    last = next(index for index in range(len(buckets) - 1, -1, -1) if buckets[index])
    least, most = counts.minimum, counts.maximum
    if delta:  # exact to a bucket: what is exact spans all time
        least = max(least, 2.0 ** ((first - OFFSET) / BUCKETS_PER_DOUBLING))
        most = min(most, 2.0 ** ((last + 1 - OFFSET) / BUCKETS_PER_DOUBLING))
    return ExponentialHistogramDataPoint(
        attributes=attributes_of(counts),
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
    counts: Counts, buckets: Sequence[int], total: float, since: int, now: int, **_: bool
) -> HistogramDataPoint:
    edges = [0, *(OFFSET + exponent * BUCKETS_PER_DOUBLING for exponent in EXPONENTS), len(buckets)]
    return HistogramDataPoint(
        attributes=attributes_of(counts),
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


def _exemplars(counts: Counts) -> list[Exemplar]:
    if counts.exemplar is None:
        return []
    duration, end, trace_id, span_id = counts.exemplar
    return [Exemplar({}, duration, end, span_id, trace_id)]


class LazyAwareFilter(ExemplarFilter):
    """Another filter's answer, but no under a span that is still lazy: it has no ids, and may never have any."""

    def __init__(self, other: ExemplarFilter) -> None:
        self._other = other

    def should_sample(self, value: float, time_unix_nano: int, attributes: Attributes, context: Context) -> bool:
        """Whether the measurement may become an exemplar."""
        span = trace.get_current_span(context)
        if type(span) is LazySpan and span.is_lazy:
            return False
        return self._other.should_sample(value, time_unix_nano, attributes, context)
