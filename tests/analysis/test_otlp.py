"""What other SDKs and Collectors send, as the report and the comparison read it."""

import math

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf import cli
from otel_perf.analysis import otlp
from otel_perf.analysis.summary import summarize
from otel_perf.cli import text
from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import Batch, Database, NewBatch, StoreReader

S = 10**9
NOW = 1_800_000_000 * S


def reading(value, name="process.memory.usage", **fields):
    """One of a gauge."""
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name=name)
    point = metric.gauge.data_points.add(time_unix_nano=NOW, **fields)
    if value is not None:
        point.as_double = value
    return request


def trace(*spans):
    """Of (name, id, parent, start, end)."""
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    for name, number, parent, start, end in spans:
        scope.spans.add(
            name=name, trace_id=b"t" * 16, span_id=number.to_bytes(8), parent_span_id=parent,
            start_time_unix_nano=start, end_time_unix_nano=end,
        )  # fmt: skip
    return request


def store(home, signal, *requests):
    home.mkdir(parents=True, exist_ok=True)
    database = Database(home / STORE_FILE, limit=10**9)
    for request in requests:
        database.append([NewBatch(signal, 1, request.SerializeToString())], NOW)
    database.close()
    return home


def report(home):
    reader = StoreReader(home)
    try:
        return summarize(reader)
    finally:
        reader.close()


def test_the_end_of_a_series_is_no_reading(tmp_path):
    """GIVEN the mark that the Collector sets where a process is gone, with and without a value THEN the last one stands."""
    gone = [reading(None, flags=1), reading(0.0, flags=1), reading(None)]
    (process,) = report(store(tmp_path, "metrics", reading(5e6), *gone)).processes
    assert (process.rss, process.rss_growth) == (5_000_000, None)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_reading(tmp_path, value):
    """GIVEN metrics that the report adds up WHEN one of them says NaN THEN there is a report all the same."""
    names = ("process.memory.usage", "process.cpu.time", "process.thread.count", "cpython.gc.collections",
             "perf.cache.hits", "perf.cache.size", "perf.log.dropped", "perf.call.errors")  # fmt: skip
    found = report(store(tmp_path, "metrics", reading(7), *(reading(value, name) for name in names)))
    assert [(process.rss, process.cpu) for process in found.processes] == [(7, 0.0)]
    assert "NaN" not in found.model_dump_json()


@pytest.mark.parametrize("end", [0, NOW - 5 * S], ids=["no end", "a clock that was set back"])
def test_no_span_ends_before_it_starts(tmp_path, end):
    found = report(store(tmp_path, "traces", trace(("work", 1, b"", NOW, end))))
    assert [row.duration for row in found.slowest_traces] == [0.0]
    assert (found.first_ns, found.last_ns) == (NOW, NOW)
    assert "-" not in text.render(found).partition("TOOK")[2].partition("Errors")[0]


def test_a_side_of_spans_without_an_end_is_compared(tmp_path, capsys):
    """THEN nothing is sure: exit code 2, and not that of something slower."""
    base, seen = (store(tmp_path / name, "traces", trace(("work", 1, b"", NOW, 0))) for name in ("base", "seen"))
    assert cli.main(["report", "--home", str(seen), "--compare", str(base)]) == cli.USAGE
    assert "not sure of anything" in capsys.readouterr().err


def test_an_id_of_zeros_is_none(tmp_path):
    """GIVEN a root whose parent is written as zeros, and a child whose clock is ahead THEN the trace is the root's."""
    spans = ("child", 2, (1).to_bytes(8), NOW - 10, NOW), ("root", 1, bytes(8), NOW, NOW + S)
    (row,) = report(store(tmp_path, "traces", trace(*spans))).slowest_traces
    assert row.root == "root"
    batch = Batch(1, "traces", 0, 1, trace(*spans).SerializeToString())
    assert [span.parent_id for span in otlp.spans([batch])] == [f"{1:016x}", ""]


def test_processes_without_an_instance_id_are_told_apart_by_what_else_is_said_of_them(tmp_path):
    """GIVEN two of another SDK, with host and process id alone THEN each has its own figures, and neither shrank."""
    requests = []
    for value, pid in ((900e6, 1), (5e6, 2), (910e6, 1), (6e6, 2)):
        request = reading(value)
        resource = request.resource_metrics[0].resource
        resource.attributes.add(key="host.name").value.string_value = "web"
        resource.attributes.add(key="process.pid").value.int_value = pid
        requests.append(request)
    found = report(store(tmp_path, "metrics", *requests)).processes
    assert [(one.instance, one.rss, one.rss_growth) for one in found] == [
        ("web 1", 910_000_000, 10_000_000),
        ("web 2", 6_000_000, 1_000_000),
    ]
    assert otlp.instance_of({"service.instance.id": "a", "process.pid": 1}) == "a"
    assert otlp.instance_of({"service.name": "shop"}) == ""


STRANGE = {
    "perf.bottleneck": {"perf.bottleneck.cost": "much", "code.line.number": "seven"},
    "perf.request": {"perf.request.duration": "long", "perf.request.db.calls": "many", "perf.request.logs.info": "some",
                     "perf.bottleneck.kinds": "all"},
    "perf.summary": {"perf.summary.period": "a while"},
}  # fmt: skip


@pytest.mark.parametrize("event", STRANGE)
@pytest.mark.parametrize("is_said", [True, False])
def test_an_event_that_is_none_of_ours_ends_no_report(tmp_path, event, is_said):
    """GIVEN an event of one of our names, whose numbers are words or nothing THEN all else is reported, and it counts."""
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add(event_name=event, time_unix_nano=NOW)
    for name, value in STRANGE[event].items():
        pair = record.attributes.add(key=name)
        if is_said:
            pair.value.string_value = value
    found = report(store(tmp_path, "logs", request))
    assert len(found.bottlenecks) + len(found.requests) + len(found.summaries) == 1
    assert all(row.cost == row.line == 0 for row in found.bottlenecks)
    assert all(row.p50 == row.lines == row.findings == 0 for row in found.requests)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [(4, {"perf.signal.name": "ready", "perf.signal.sequence": "first"}), (5, {"perf.signal.names": "ready"})],
    ids=["emits", "waits"],
)
def test_a_signal_that_is_none_of_ours_ends_no_report(tmp_path, kind, attributes):
    request = trace(("signal", 1, b"", NOW, NOW + S))
    (span,) = request.resource_spans[0].scope_spans[0].spans
    span.kind = kind
    for name, value in attributes.items():
        span.attributes.add(key=name).value.string_value = value
    found = report(store(tmp_path, "traces", request)).readiness
    assert [row.sequence for row in found.emissions] + [row.names for row in found.waits] == [0 if kind == 4 else []]


@pytest.mark.parametrize("kind", [-3, 77])
def test_a_kind_that_there_is_not_is_none_of_those_that_there_are(tmp_path, kind):
    request = trace(("work", 1, b"", NOW, NOW + S))
    request.resource_spans[0].scope_spans[0].spans[0].kind = kind
    assert [row.kind for row in report(store(tmp_path, "traces", request)).operations] == ["UNSPECIFIED"]
