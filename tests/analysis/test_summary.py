"""The figures of the report are right, also for what real traces do to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf.analysis.intervals import covered
from otel_perf.analysis.numbers import quantile
from otel_perf.analysis.summary import summarize
from otel_perf.cli import sections
from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import Database, NewBatch, StoreReader
from tests.stored import points

MS = 10**6


@pytest.fixture
def store(home):
    home.mkdir()
    database = Database(home / STORE_FILE, limit=10**9)
    requests = {
        "traces": ExportTraceServiceRequest,
        "logs": ExportLogsServiceRequest,
        "metrics": ExportMetricsServiceRequest,
    }

    class Filled:
        def put(self, signal, fill):
            request = requests[signal]()
            fill(request)
            database.append([NewBatch(signal, 1, request.SerializeToString())], 1)

        def span(self, name, start, end, *, trace=1, span, parent=0, error=False, kind=1):
            def fill(request):
                made = request.resource_spans.add().scope_spans.add().spans.add()
                made.name, made.kind = name, kind
                made.trace_id, made.span_id = trace.to_bytes(16, "big"), span.to_bytes(8, "big")
                made.parent_span_id = parent.to_bytes(8, "big") if parent else b""
                made.start_time_unix_nano, made.end_time_unix_nano = start * MS, end * MS
                made.status.code = 2 if error else 0

            self.put("traces", fill)

        def report(self, **options):
            reader = StoreReader(home)
            try:
                return summarize(reader, **options)
            finally:
                reader.close()

    yield Filled()
    database.close()


def test_own_time_is_what_no_child_covers(store):
    store.span("root", 0, 100, span=1)
    store.span("a", 10, 40, span=2, parent=1)
    store.span("b", 30, 60, span=3, parent=1)  # overlaps a: 30–40 counts once
    store.span("c", 90, 150, span=4, parent=1)  # outlives its parent: only 90–100 counts
    own = {operation.name: operation.self_time for operation in store.report().operations}
    assert own["root"] == pytest.approx(0.040)
    assert own["b"] == pytest.approx(0.030)


def test_a_trace_is_named_by_its_root_even_if_it_arrives_last(store):
    store.span("child", 10, 20, span=2, parent=1)
    store.span("early orphan", 5, 6, span=3, parent=9)
    store.span("root", 0, 30, span=1)
    (trace,) = store.report().slowest_traces
    assert (trace.root, trace.spans, trace.duration) == ("root", 3, 0.030)


def test_a_trace_without_its_root_is_named_by_its_earliest_span(store):
    store.span("later", 10, 20, span=2, parent=9)
    store.span("earlier", 5, 8, span=3, parent=9)
    (trace,) = store.report().slowest_traces
    assert (trace.root, trace.duration) == ("earlier", 0.015)


def test_clocks_that_step_back_do_not_make_negative_times(store):
    store.span("odd", 100, 50, span=1)
    (operation,) = store.report().operations
    assert operation.total == operation.self_time == 0.0
    assert operation.kind == "INTERNAL"


def test_unknown_kinds_and_failures_without_exceptions_are_shown(store):
    store.span("odd", 0, 1, span=1, kind=99, error=True)
    report = store.report()
    assert report.operations[0].kind == "UNSPECIFIED"
    assert [(group.type, group.source) for group in report.errors] == [("error", "span odd")]


def test_log_bodies_that_are_no_text_are_shown_as_they_are(store):
    def fill(request):
        records = request.resource_logs.add().scope_logs.add().log_records
        records.add(severity_number=17, severity_text="ERROR", time_unix_nano=5).body.kvlist_value.values.add(
            key="a"
        ).value.int_value = 1
        records.add(observed_time_unix_nano=7, severity_number=9)

    store.put("logs", fill)
    report = store.report()
    assert report.errors[0].message == "{'a': 1}"
    assert report.logs.by_severity == {"ERROR": 1, "UNSPECIFIED": 1}


def test_all_kinds_of_points_are_read(store, home):
    def fill(request):
        scope = request.resource_metrics.add().scope_metrics.add()
        scope.metrics.add(name="g").gauge.data_points.add(as_double=1.5)
        scope.metrics.add(name="s").sum.data_points.add(as_int=2)
        scope.metrics.add(name="h").histogram.data_points.add(count=3, sum=6.0)
        scope.metrics.add(name="e").exponential_histogram.data_points.add(count=4, sum=8.0)
        scope.metrics.add(name="empty")

    store.put("metrics", fill)
    found = {point.name: (point.value, point.count) for point in points(home)}
    assert found == {"g": (1.5, 1), "s": (2.0, 1), "h": (6.0, 3), "e": (8.0, 4)}
    assert store.report().processes == []


@pytest.mark.parametrize(("readings", "growth"), [((10, 50, 30), 20), ((50, 50), 0), ((50,), None)])
def test_growth_is_from_the_first_reading_to_the_last(readings, growth, store):
    for value in readings:

        def fill(request, value=value):
            metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="process.memory.usage")
            metric.sum.data_points.add(as_int=value)

        store.put("metrics", fill)
    (process,) = store.report().processes
    assert (process.rss, process.rss_peak, process.rss_growth) == (readings[-1], max(readings), growth)
    (shown,) = [section for section in sections.of(store.report(), "") if section.title == "Memory"]
    assert shown.rows[0][shown.headings.index("GREW")] == ("" if growth is None else f"{growth} B")


@given(st.lists(st.tuples(st.integers(-50, 150), st.integers(0, 60)), max_size=30))
def test_covered_time_is_that_of_a_plain_model(children):
    intervals = [(start, start + length) for start, length in children]
    ticks = {tick for start, end in intervals for tick in range(start, end) if 0 <= tick < 100}
    assert covered(intervals, 0, 100) == len(ticks)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_quantiles_are_members_in_order(values):
    ordered = sorted(values)
    assert quantile(ordered, 0.5) in ordered
    assert quantile(ordered, 0.5) <= quantile(ordered, 0.99) <= ordered[-1]


def test_quantiles_by_nearest_rank():
    assert quantile([], 0.5) == 0.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.0
    assert quantile([float(n) for n in range(1, 101)], 0.99) == 99.0
