"""Puts data points into the index: a row for each, and the newest totals of each series.

Of functions only the totals are kept: two thousand of them each minute would be most of the file. Of the others also
the highest of each slot, for charts of many hours. A sum is kept as the total since the start, whatever it came as; of
a histogram, how many there were since the point before, their mean, and the upper bound of the highest bucket that got
any.
"""

from __future__ import annotations

import json
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_perf.analysis.exponential import FINEST, Counts, bound_of
from otel_perf.analysis.functions import NAMES as FUNCTIONS
from otel_perf.analysis.index_names import MOST, as_json
from otel_perf.analysis.index_tables import POINT_WIDTHS
from otel_perf.analysis.otlp import DELTA, NO_VALUE, attributes_of

if TYPE_CHECKING:
    import sqlite3

    from otel_perf.analysis.index_names import Names, Resource

LONGEST: Final = 2_000  # characters of a series' attributes
ROWS: Final = 16_000  # that are in memory, also of one batch
KNOWN: Final = 50_000  # series that are remembered
_MS: Final = 1_000_000


class Series:
    """One series, as far as it has come."""

    __slots__ = ("buckets", "count", "kind", "number", "store", "time", "total")

    def __init__(
        self, number: int, kind: str, total: float, count: int, buckets: str | None, store: int, time: int
    ) -> None:
        self.number, self.kind, self.total, self.count = number, kind, total, count
        self.buckets = counts_of(buckets)
        self.store, self.time = store, time  # where its newest point was, and when

    def text(self) -> str | None:
        """The buckets as they are stored."""
        counts = {index: count for index, count in self.buckets.of.items() if count}
        return json.dumps({"scale": self.buckets.scale, "counts": counts}) if counts else None


def counts_of(text: str | None) -> Counts:
    """Buckets as they are stored."""
    if not text:
        return Counts()
    found = json.loads(text)
    return Counts(found["scale"], {int(index): number for index, number in found["counts"].items()})


class Points:
    """Gathers rows; :meth:`flush` writes them. For one thread."""

    def __init__(self, connection: sqlite3.Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._series: dict[tuple[Any, ...], Series] = {}
        self._changed: dict[int, Series] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._slots: dict[tuple[int, int, int], list[Any]] = {}

    def add(self, place: int, body: bytes) -> int:
        """Take a batch; how many points it has. About 8 µs a point."""
        count = 0
        low, high = self._names.bounds
        for of_resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            resource, last = self._names.resource(of_resource.resource), 0
            first = MOST
            for of_scope in of_resource.scope_metrics:
                scope = self._names.text(of_scope.scope.name)
                for metric in of_scope.metrics:
                    kind = metric.WhichOneof("data") or "gauge"
                    data = getattr(metric, kind)
                    delta = getattr(data, "aggregation_temporality", 0) == DELTA
                    for point in data.data_points:
                        count += 1
                        if point.flags & NO_VALUE:  # a zero would be a fall, and what is said next a jump
                            continue
                        time = point.time_unix_nano
                        if low <= time <= high and not first <= time <= last:  # most points are of one time
                            first, last = min(first, time), max(last, time)
                        series = self._of(metric, kind, data, point, (resource, scope))
                        if self._names.store and self._is_here(metric.name, series, min(time, MOST), delta=delta):
                            self._names.twice += 1
                            continue
                        self._changed[series.number] = series
                        self._take(metric.name, kind, point, series, delta=delta)
            if last:
                self._names.saw(resource, first, last)
        return count

    def _of(self, metric: Any, kind: str, data: Any, point: Any, whose: tuple[Resource, int]) -> Series:
        resource, scope = whose  # two libraries may give one name to what each of them counts
        attributes = b"".join(sorted(pair.SerializeToString() for pair in point.attributes))
        key = metric.name, resource.service, resource.instance, scope, attributes
        found = self._series.get(key)
        if found is None:
            if len(self._series) >= KNOWN:
                self.flush_series()
                self._series.clear()
            text = as_json(attributes_of(point.attributes), LONGEST)
            row = self._names.text(metric.name), resource.service, resource.instance, scope, text
            execute = self._connection.execute
            execute(
                "INSERT OR IGNORE INTO series(name, service, instance, scope, attributes, unit, kind, monotonic, total,"
                " count) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, 0)",
                (*row, metric.unit, kind, bool(getattr(data, "is_monotonic", False))),
            )
            stored = execute(
                "SELECT id, kind, total, count, buckets, teller, newest FROM series"
                " WHERE name = ? AND service = ? AND instance = ? AND scope = ? AND attributes = ?", row
            ).fetchone()  # fmt: skip
            found = self._series[key] = Series(*stored)
        return found

    def _is_here(self, name: str, series: Series, time: int, *, delta: bool) -> bool:
        """Whether another store had this point, or a newer one that says it all."""
        if series.store not in {0, self._names.store} and time <= series.time:
            if not delta or name in FUNCTIONS:
                return True
            row = series.number, time // _MS
            found = self._connection.execute("SELECT 1 FROM point WHERE series = ? AND time = ?", row).fetchone()
            return found is not None
        if time > series.time:
            series.store, series.time = self._names.store, time
        return False

    def _take(self, name: str, kind: str, point: Any, series: Series, *, delta: bool) -> None:
        time = point.time_unix_nano // _MS
        if kind in {"gauge", "sum"}:
            number = point.WhichOneof("value")
            value = float(getattr(point, number)) if number else nan
            if not isfinite(value):
                return  # no chart has a place for it, and a total would stay it
            series.total = series.total + value if kind == "sum" and delta else value
            series.count = 1
            row: tuple[Any, ...] = series.number, time, series.total, None, 1
        else:
            row = series.number, time, *_interval(kind, point, series, delta=delta)
        if name not in FUNCTIONS and row[4]:
            self._rows.append(row)
            self._sum_up(*row[:4])
            if len(self._rows) >= ROWS:
                self.flush()

    def _sum_up(self, series: int, time: int, value: float, high: float | None) -> None:
        """What charts of many hours draw: the highest of each slot, and when that was."""
        for width in POINT_WIDTHS:
            key = width, series, time // (width * 1000)
            slot = self._slots.get(key)
            if slot is None:
                self._slots[key] = [value, time, high]
                continue
            if value > slot[0]:
                slot[0], slot[1] = value, time
            if high is not None and (slot[2] is None or high > slot[2]):
                slot[2] = high

    def flush_series(self) -> None:
        """Write the totals."""
        self._connection.executemany(
            "UPDATE series SET total = ?, count = ?, buckets = ?, teller = ?, newest = ? WHERE id = ?",
            [(s.total, s.count, s.text(), s.store, s.time, s.number) for s in self._changed.values()],
        )
        self._changed.clear()

    def flush(self) -> None:
        """Write the rows."""
        self.flush_series()
        many = self._connection.executemany
        many("INSERT OR REPLACE INTO point VALUES (?, ?, ?, ?, ?)", self._rows)
        many(
            "INSERT INTO point_slot VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " time = iif(excluded.value > value, excluded.time, time), value = max(value, excluded.value),"
            " high = max(coalesce(high, excluded.high), coalesce(excluded.high, high))",
            [(*key, *slot) for key, slot in self._slots.items()],
        )
        self._rows, self._slots = [], {}


def _interval(kind: str, point: Any, series: Series, *, delta: bool) -> tuple[float, float, int]:
    """Mean, highest and number of what came since the point before; the series goes on to this one."""
    bounds = list(point.explicit_bounds) if kind == "histogram" else None
    said, before = _buckets(kind, point), series.buckets
    count, total = min(point.count, MOST >> 1), point.sum if isfinite(point.sum) else 0.0
    if not delta and count >= series.count:
        # An SDK makes buckets wider when they become too many: those of before and of now are compared at the wider.
        # One without any (only zeros) says a scale all the same, which may be finer than those of before.
        common = min(said.scale, before.scale) if before.of and said.of else said.scale
        then, now = before.at(common).of if said.of else {}, said.at(common).of
        new = Counts(common, {index: number - then.get(index, 0) for index, number in now.items()})
        came, took = count - series.count, total - series.total
    else:  # a delta, or a process that began anew
        new, came, took = said, count, total
    top = max((index for index, number in new.of.items() if number > 0), default=None)
    high = 0.0
    if top is not None and bounds is not None:
        high = bounds[top] if top < len(bounds) else float(point.max or (bounds[-1] if bounds else 0.0))
    elif top is not None:
        high = bound_of(top, new.scale)
    if delta:
        series.buckets = before.plus(said)
        series.count, series.total = min(MOST, series.count + count), series.total + total
    else:
        series.buckets, series.count, series.total = said, count, total
    return _finite(took / came if came else 0.0), _finite(high), came


def _finite(value: float) -> float:
    """No chart has a place for another one, and the highest of a slot would stay it."""
    return value if isfinite(value) else 0.0


def _buckets(kind: str, point: Any) -> Counts:
    """Numbers by index; explicit buckets have the scale 0, and a summary has none."""
    if kind == "histogram":
        return Counts(0, dict(enumerate(point.bucket_counts)))
    if kind != "exponential_histogram" or not -FINEST <= point.scale <= FINEST:
        return Counts()
    return Counts(point.scale, dict(enumerate(point.positive.bucket_counts, point.positive.offset)))
