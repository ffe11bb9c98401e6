"""Fills a store with synthetic telemetry, as batches of OTLP, for benchmarks/view.py: HOME SPANS LOGS METRIC_HOURS.

``HOME live`` writes on, a few hundred items a second, until it is ended.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path
from typing import Any, Final

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import Database, NewBatch

BATCH: Final = 512
SERVICES: Final = ("shop", "payment", "search", "mail")
ROUTES: Final = 40
FUNCTIONS: Final = 60
GAUGES: Final = ("process.memory.usage", "process.thread.count", "perf.memory.utilization", "perf.memory.level")
SUMS: Final = ("process.cpu.time", "cpython.gc.collections", "perf.store.delivered")
CACHES: Final = 10
LARGE: Final = 10_000  # spans of one trace among the others
_NS: Final = 1_000_000_000


class Filler:
    """One store, and the time at which its telemetry begins (ns)."""

    def __init__(self, home: Path, hours: float, seed: int = 7) -> None:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.chance = random.Random(seed)
        self.database = Database(home / STORE_FILE, limit=1 << 40, delivered=True)
        self.end = time.time_ns()
        self.begin = self.end - int(hours * 3600 * _NS)
        self.traces: list[tuple[bytes, bytes, int]] = []

    def put(self, signal: str, items: int, request: Any, at: int) -> None:
        """Store one request."""
        self.database.append([NewBatch(signal, items, request.SerializeToString())], at)

    def resource(self, of: Any, service: int) -> None:
        """Name the service."""
        for key, value in (
            ("service.name", SERVICES[service]), ("service.instance.id", f"instance-{service}"),
            ("service.version", "1.4.2"),
        ):  # fmt: skip
            pair = of.attributes.add()
            pair.key, pair.value.string_value = key, value

    def spans(self, start: int, count: int) -> None:
        """A batch: traces of ten spans, one server, one or two more services beneath, queries under them."""
        request, scopes = ExportTraceServiceRequest(), []
        for service in range(len(SERVICES)):
            of = request.resource_spans.add()
            self.resource(of.resource, service)
            scopes.append(of.scope_spans.add())
            scopes[-1].scope.name = "bench"
        chance, made = self.chance, 0
        while made < count:
            tid, root = chance.randbytes(16), chance.randbytes(8)
            route, first = chance.randrange(ROUTES), chance.randrange(len(SERVICES))
            took = int(chance.lognormvariate(17.5, 0.9))
            self.traces.append((tid, root, start))
            left = min(9, count - made - 1)
            for child in range(left):
                self.span(scopes[(first + child // 5) % 4], tid, root, f"SELECT table_{route % 7}", 3,
                          start + took * child // 12, took // 14, failed=False)  # fmt: skip
            self.span(scopes[first], tid, b"", f"GET /route/{route}", 2, start, took, failed=chance.random() < 0.01,
                      sid=root)  # fmt: skip
            made += left + 1
            start += 1_000_000
        self.put("traces", made, request, start)

    def span(  # noqa: PLR0913  what a span has
        self, scope: Any, tid: bytes, parent: bytes, name: str, kind: int, start: int, took: int, *, failed: bool,
        sid: bytes = b"",
    ) -> None:  # fmt: skip
        """Add one span."""
        span = scope.spans.add()
        span.trace_id, span.span_id, span.parent_span_id = tid, sid or self.chance.randbytes(8), parent
        span.name, span.kind, span.start_time_unix_nano, span.end_time_unix_nano = name, kind, start, start + took
        span.status.code = 2 if failed else 0
        for key, value in (("http.route", name), ("server.address", "localhost"), ("db.system.name", "sqlite")):
            pair = span.attributes.add()
            pair.key, pair.value.string_value = key, value

    def large(self, start: int, count: int) -> None:
        """One trace with many spans: a page that asks for parts, each with queries under it, over several batches."""
        tid, root, made = self.chance.randbytes(16), self.chance.randbytes(8), 0
        took = count * 1_000_000
        while made < count:
            request = ExportTraceServiceRequest()
            of = request.resource_spans.add()
            self.resource(of.resource, 0)
            scope = of.scope_spans.add()
            scope.scope.name = "bench"
            here = min(BATCH, count - made)
            if not made:
                self.span(scope, tid, b"", "GET /everything", 2, start, took, failed=False, sid=root)
            at = start + made * 1_000_000
            part = self.chance.randbytes(8)
            self.span(scope, tid, root, "render part", 1, at, here * 1_000_000, failed=False, sid=part)
            for child in range(here - 1 - (not made)):
                self.span(scope, tid, part, f"SELECT table_{child % 7}", 3, at + child * 1_000_000, 900_000,
                          failed=child % 400 == 399)  # fmt: skip
            self.put("traces", here, request, start)
            made += here
        self.traces.append((tid, root, start))

    def logs(self, start: int, count: int) -> None:
        """A batch of lines, most of them of a trace; a few findings and errors among them."""
        request, chance = ExportLogsServiceRequest(), self.chance
        of = request.resource_logs.add()
        self.resource(of.resource, chance.randrange(len(SERVICES)))
        scope = of.scope_logs.add()
        scope.scope.name = f"app.module_{chance.randrange(12)}"
        for number in range(count):
            record = scope.log_records.add()
            record.time_unix_nano = start + number * 100_000
            record.severity_number, record.severity_text = chance.choices(((9, "INFO"), (13, "WARN"), (17, "ERROR")),
                                                                          (90, 8, 2))[0]  # fmt: skip
            record.trace_id, record.span_id, _ = chance.choice(self.traces)
            if chance.random() < 0.01:
                self.finding(record)
                continue
            record.body.string_value = (
                f"order {chance.randrange(10**6)} of customer {chance.randrange(5000)} packed in"
                f" {chance.random():.3f} s, template {chance.randrange(50)} kept"
            )
        self.put("logs", count, request, start)

    def finding(self, record: Any) -> None:
        """Make it a bottleneck's event."""
        line = self.chance.randrange(60)
        record.event_name, record.severity_number = "perf.bottleneck", 13
        record.body.string_value = f"{12 + line} queries alike, one after the other: orders.py:{line} in place"
        for key, value in (
            ("perf.bottleneck.kind", ("n_plus_one", "serial_io", "slow_io", "self_time")[line % 4]),
            ("perf.bottleneck.culprit", f"SELECT table_{line % 7}"), ("code.file.path", "shop/orders.py"),
            ("code.function.name", "place"),
        ):  # fmt: skip
            pair = record.attributes.add()
            pair.key, pair.value.string_value = key, value
        pair = record.attributes.add()
        pair.key, pair.value.double_value = "perf.bottleneck.cost", self.chance.random()
        pair = record.attributes.add()
        pair.key, pair.value.int_value = "code.line.number", line

    def metrics(self, at: int, minute: int) -> int:
        """What every process says once a minute."""
        total = 0
        for service in range(len(SERVICES)):
            request = ExportMetricsServiceRequest()
            of = request.resource_metrics.add()
            self.resource(of.resource, service)
            scope, count = of.scope_metrics.add(), 0
            for name in GAUGES:
                point = self.metric(scope, name).gauge.data_points.add()
                point.time_unix_nano, point.as_double, count = at, 1e8 + 1e5 * minute, count + 1
            for name in SUMS:
                self.total(scope, name, at, minute, "")
                count += 1
            for cache in range(CACHES):
                for name in ("perf.cache.hits", "perf.cache.misses", "perf.cache.evictions"):
                    self.total(scope, name, at, minute * (cache + 1), f"cache-{cache}")
                    count += 1
            for name in ("perf.eventloop.lag", "perf.gc.pause"):
                self.histogram(scope, name, at, minute, "")
                count += 1
            for function in range(FUNCTIONS):
                self.histogram(
                    scope, "perf.call.duration", at, minute * (function + 1), f"app.module.function_{function}"
                )
                count += 1
            self.put("metrics", count, request, at)
            total += count
        return total

    def metric(self, scope: Any, name: str) -> Any:
        """Add one."""
        metric = scope.metrics.add()
        metric.name, metric.unit = name, "By"
        return metric

    def total(self, scope: Any, name: str, at: int, value: float, cache: str) -> None:
        """A sum since the start."""
        data = self.metric(scope, name).sum
        data.aggregation_temporality, data.is_monotonic = 2, True
        point = data.data_points.add()
        point.time_unix_nano, point.as_double = at, value
        if cache:
            pair = point.attributes.add()
            pair.key, pair.value.string_value = "perf.cache.name", cache

    def histogram(self, scope: Any, name: str, at: int, minute: int, function: str) -> None:
        """Durations since the start."""
        data = self.metric(scope, name).exponential_histogram
        data.aggregation_temporality = 2
        point = data.data_points.add()
        point.time_unix_nano, point.scale, point.positive.offset = at, 3, -80
        point.positive.bucket_counts.extend(minute * weight for weight in (1, 3, 6, 3, 1))
        point.count, point.sum = 14 * minute, 0.001 * minute
        if function:
            pair = point.attributes.add()
            pair.key, pair.value.string_value = "code.function.name", function


def live(home: Path) -> None:
    """Write as four busy processes do, each second."""
    filler, minute = Filler(home, 0, seed=time.time_ns()), 24 * 60
    while True:
        at = time.time_ns()
        filler.spans(at, 200)
        filler.logs(at, 100)
        del filler.traces[:-2_000]
        if int(time.monotonic()) % 5 == 0:
            minute += 1
            filler.metrics(at, minute)
        time.sleep(1)


def main() -> None:
    """Write it all, in the order of time as far as each signal goes."""
    if sys.argv[2] == "live":
        live(Path(sys.argv[1]))
    home, spans, logs, hours = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    filler = Filler(home, hours)
    minutes, points = max(1, int(hours * 60)), 0
    if spans > 10 * LARGE:
        filler.large(filler.end - 60 * _NS, LARGE)
        spans -= LARGE
    span_batches, log_batches = -(-spans // BATCH), -(-logs // BATCH)
    done_spans = done_logs = 0
    for minute in range(1, minutes + 1):
        at = filler.begin + (minute - 1) * 60 * _NS
        while done_spans < span_batches * minute // minutes:
            filler.spans(at + done_spans % 30 * _NS, min(BATCH, spans - done_spans * BATCH))
            done_spans += 1
            del filler.traces[:-20_000]
        while done_logs < log_batches * minute // minutes:
            filler.logs(at + done_logs % 30 * _NS, min(BATCH, logs - done_logs * BATCH))
            done_logs += 1
        points += filler.metrics(at, minute)
    filler.database.close()
    print(f"{sys.argv[2]} {logs} {points}")


if __name__ == "__main__":
    main()
