"""Puts data points into the index: a row for each, and the newest totals of each series.

Of functions only the totals are kept: two thousand of them each minute would be most of the file. A sum is kept as the
total since the start, whatever it came as; of a histogram, how many there were since the point before, their mean, and
the upper bound of the highest bucket that got any.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_perf.analysis.functions import NAMES as FUNCTIONS
from otel_perf.analysis.index_names import MOST
from otel_perf.analysis.otlp import DELTA, attributes_of

if TYPE_CHECKING:
    import sqlite3

    from otel_perf.analysis.index_names import Names, Resource

LONGEST: Final = 2_000  # characters of a series' attributes
KNOWN: Final = 50_000  # series that are remembered
_MS: Final = 1_000_000


class Series:
    """One series, as far as it has come."""

    __slots__ = ("buckets", "count", "kind", "number", "scale", "total")

    def __init__(self, number: int, kind: str, total: float, count: int, buckets: str | None) -> None:
        self.number, self.kind, self.total, self.count = number, kind, total, count
        self.scale, self.buckets = 0, {}
        if buckets:
            found = json.loads(buckets)
            self.scale = found["scale"]
            self.buckets = {int(index): number for index, number in found["counts"].items()}

    def text(self) -> str | None:
        """The buckets as they are stored."""
        counts = {index: count for index, count in self.buckets.items() if count}
        return json.dumps({"scale": self.scale, "counts": counts}) if counts else None


class Points:
    """Gathers rows; :meth:`flush` writes them. For one thread."""

    def __init__(self, connection: sqlite3.Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._series: dict[tuple[Any, ...], Series] = {}
        self._changed: dict[int, Series] = {}
        self._rows: list[tuple[Any, ...]] = []

    def add(self, place: int, body: bytes) -> int:
        """Take a batch; how many points it has. About 8 µs a point."""
        count = 0
        for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            resource, last = self._names.resource(of_resource.resource), 0
            for of_scope in of_resource.scope_metrics:
                for metric in of_scope.metrics:
                    kind = metric.WhichOneof("data") or "gauge"
                    data = getattr(metric, kind)
                    delta = getattr(data, "aggregation_temporality", 0) == DELTA
                    for point in data.data_points:
                        count += 1
                        last = max(last, point.time_unix_nano)
                        series = self._of(metric, kind, point, resource)
                        self._changed[series.number] = series
                        self._take(metric.name, kind, point, series, delta=delta)
            if last:
                self._names.saw(resource, last, last)
        return count

    def _of(self, metric: Any, kind: str, point: Any, resource: Resource) -> Series:
        attributes = b"".join(sorted(pair.SerializeToString() for pair in point.attributes))
        key = metric.name, resource.service, resource.instance, attributes
        found = self._series.get(key)
        if found is None:
            if len(self._series) >= KNOWN:
                self.flush_series()
                self._series.clear()
            said = attributes_of(point.attributes)
            text = json.dumps(said, sort_keys=True, default=repr)[:LONGEST]
            row = self._names.text(metric.name), resource.service, resource.instance, text
            execute = self._connection.execute
            execute(
                "INSERT OR IGNORE INTO series(name, service, instance, attributes, unit, kind, total, count)"
                " VALUES (?, ?, ?, ?, ?, ?, 0, 0)",
                (*row, metric.unit, kind),
            )
            stored = execute(
                "SELECT id, kind, total, count, buckets FROM series"
                " WHERE name = ? AND service = ? AND instance = ? AND attributes = ?", row
            ).fetchone()  # fmt: skip
            found = self._series[key] = Series(*stored)
        return found

    def _take(self, name: str, kind: str, point: Any, series: Series, *, delta: bool) -> None:
        time = point.time_unix_nano // _MS
        if kind in {"gauge", "sum"}:
            number = point.WhichOneof("value")
            value = float(getattr(point, number)) if number else 0.0
            series.total = series.total + value if kind == "sum" and delta else value
            series.count = 1
            row: tuple[Any, ...] = series.number, time, series.total, None, 1
        else:
            row = series.number, time, *_interval(kind, point, series, delta=delta)
        if name not in FUNCTIONS and row[4]:
            self._rows.append(row)

    def flush_series(self) -> None:
        """Write the totals."""
        self._connection.executemany(
            "UPDATE series SET total = ?, count = ?, buckets = ? WHERE id = ?",
            [(s.total, s.count, s.text(), s.number) for s in self._changed.values()],
        )
        self._changed.clear()

    def flush(self) -> None:
        """Write the rows."""
        self.flush_series()
        self._connection.executemany("INSERT OR REPLACE INTO point VALUES (?, ?, ?, ?, ?)", self._rows)
        self._rows = []


def _interval(kind: str, point: Any, series: Series, *, delta: bool) -> tuple[float, float, int]:
    """Mean, highest and number of what came since the point before; the series goes on to this one."""
    scale, bounds = 0, None
    if kind == "exponential_histogram":
        scale, first = point.scale, point.positive.offset
        counts = dict(enumerate(point.positive.bucket_counts, first))
    elif kind == "histogram":
        bounds = list(point.explicit_bounds)
        counts = dict(enumerate(point.bucket_counts))
    else:  # a summary: no buckets
        counts = {}
    count, total = min(point.count, MOST >> 1), point.sum
    if not delta and series.scale == scale and count >= series.count:
        new = {index: number - series.buckets.get(index, 0) for index, number in counts.items()}
        came, took = count - series.count, total - series.total
    else:
        new, came, took = counts, count, total
    top = max((index for index, number in new.items() if number > 0), default=None)
    high = 0.0
    if top is not None and bounds is not None:
        high = bounds[top] if top < len(bounds) else float(point.max or (bounds[-1] if bounds else 0.0))
    elif top is not None:
        high = 2.0 ** min(1000.0, (top + 1) / 2.0**scale)
    if delta and series.scale == scale:
        for index, number in counts.items():
            series.buckets[index] = series.buckets.get(index, 0) + number
        series.count, series.total = min(MOST, series.count + count), series.total + total
    elif not delta:
        series.buckets, series.count, series.total = counts, count, total
    series.scale = scale
    return (took / came if came else 0.0), high, came
