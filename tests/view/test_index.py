"""The index says what the store holds, however it came to be."""

import inspect
import sqlite3
import threading

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf.analysis import index as index_module
from otel_perf.analysis import index_cache, index_logs, index_metrics, index_spans
from otel_perf.analysis.index import Builder
from otel_perf.analysis.index_stores import LARGEST
from otel_perf.analysis.summary import summarize
from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import Database, NewBatch, StoreReader

TABLES = "trace", "span", "op_slot", "op_hist", "finding", "error", "template", "log", "series", "point"


def content(path):
    """Rows of all tables, without the numbers that depend on what was seen first."""
    connection = sqlite3.connect(path)
    try:
        return {
            "traces": connection.execute(
                "SELECT tid, start, finish, rooted, spans, errors, logs, findings, round(cost, 6) FROM trace ORDER BY tid"
            ).fetchall(),
            "slots": connection.execute("SELECT width, slot, sum(count), sum(errors), sum(total), sum(self) FROM op_slot GROUP BY 1, 2").fetchall(),
            **{name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in TABLES},
            "points": connection.execute("SELECT sum(value), sum(count) FROM point").fetchall(),
            "series": connection.execute("SELECT attributes, total, count, buckets FROM series ORDER BY 1, 2, 3, 4").fetchall(),
            "lines": connection.execute("SELECT sum(count) FROM template").fetchone(),
        }  # fmt: skip
    finally:
        connection.close()


def build(path, *homes, pieces=None):
    builder = Builder(path, homes)
    try:
        for number, _ in enumerate(builder.update(), 1):
            if number == pieces:
                return
    finally:
        builder.close()


def put(home, signal, request, items=1, created=10**18 + 10**9):
    home.mkdir(parents=True, exist_ok=True)
    database = Database(home / STORE_FILE, limit=10**9)
    body = request if isinstance(request, bytes) else request.SerializeToString()
    database.append([NewBatch(signal, items, body)], created)
    database.close()


def one_span(tid=b"t" * 16, sid=b"s" * 8, parent=b"", name="work", start=10**18, took=10**6, service="shop"):
    request = ExportTraceServiceRequest()
    of = request.resource_spans.add()
    pair = of.resource.attributes.add()
    pair.key, pair.value.string_value = "service.name", service
    span = of.scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.parent_span_id, span.name, span.kind = tid, sid, parent, name, 1
    span.start_time_unix_nano, span.end_time_unix_nano = start, start + took
    return request


def rows(path, query):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_it_counts_what_the_report_counts(filled):
    reader = StoreReader(filled)
    report = summarize(reader, top=10_000)
    reader.close()
    found = content(filled / "index.db")
    assert found["span"] == report.spans == 10_240
    assert sum(1 for row in found["traces"] if row[4]) == report.traces
    assert found["finding"] == sum(row.findings for row in report.bottlenecks)
    longest = max(row[2] - row[1] for row in found["traces"] if row[1] is not None)
    assert longest / 1e9 == pytest.approx(report.slowest_traces[0].duration)


def test_own_time_is_the_reports(filled, ask):
    """Children are in their parent's batch here, as nearly always."""
    reader = StoreReader(filled)
    report = {(row.service, row.name): row for row in summarize(reader, top=10_000).operations}
    reader.close()
    for row in ask("operations")["operations"]:
        other = report[row["service"], row["name"]]
        assert row["count"] == other.count
        assert row["total"] / 1e9 == pytest.approx(other.total)
        assert row["self"] / 1e9 == pytest.approx(other.self_time, rel=1e-3)
        assert row["p50"] / 1e9 == pytest.approx(other.p50, rel=0.11)  # a bucket is 19 % wide
        assert row["longest"] / 1e9 == pytest.approx(other.slowest)


def test_in_pieces_with_ends_between_it_becomes_the_same(filled, tmp_path, monkeypatch):
    """GIVEN a build that is ended after each piece WHEN it goes on THEN the index is as if it had never been."""
    monkeypatch.setattr(index_module, "PIECE", 2_000)
    path = tmp_path / "index.db"
    for _ in range(60):
        build(path, filled, pieces=1)
    assert content(path) == content(filled / "index.db")


def test_a_piece_that_fails_leaves_nothing_behind(filled, tmp_path, monkeypatch):
    path = tmp_path / "index.db"
    builder = Builder(path, [filled])
    monkeypatch.setattr(builder._names, "flush", lambda: 1 / 0 if builder._connection.in_transaction else None)
    for _ in builder.update():
        pass
    builder.close()
    assert content(path)["span"] == 10_240


def test_what_is_new_is_taken_in(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", one_span())
    build(path, home)
    put(home, "traces", one_span(sid=b"c" * 8, parent=b"s" * 8, name="child", start=10**18 + 10, took=10))
    build(path, home)
    assert rows(path, "SELECT spans, finish - start FROM trace") == [(2, 10**6)]
    assert rows(path, "SELECT count(*) FROM span") == [(2,)]


def test_a_damaged_index_is_made_anew(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", one_span())
    path.write_bytes(b"this is no database" * 1000)
    build(path, home)
    assert rows(path, "SELECT count(*) FROM span") == [(1,)]


def test_a_trace_over_two_stores_is_one(tmp_path):
    first, second, path = tmp_path / "a", tmp_path / "b", tmp_path / "index.db"
    put(first, "traces", one_span())
    put(second, "traces", one_span(sid=b"d" * 8, parent=b"s" * 8, service="payment"))
    builder = Builder(path, [first, second])
    assert sum(builder.update()) == 2
    builder.close()
    assert rows(path, "SELECT spans FROM trace") == [(2,)]


def poison_spans():
    request = one_span()
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.start_time_unix_nano, span.end_time_unix_nano, span.kind = 2**64 - 1, 2**64 - 1, 77
    span.name = "n" * 100_000
    return request


def poison_logs():
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    record.time_unix_nano, record.event_name, record.severity_number = 2**64 - 1, "perf.bottleneck", 13
    for key, value in (
        ("perf.bottleneck.cost", float("nan")),
        ("code.line.number", 1e300),
        ("perf.bottleneck.count", float("inf")),
    ):
        pair = record.attributes.add()
        pair.key, pair.value.double_value = key, value
    record.body.bytes_value = b"\xff\x00"
    return request


def poison_points():
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    gauge = metrics.add()
    gauge.name = "gauge"
    for value in (float("nan"), float("inf")):
        point = gauge.gauge.data_points.add()
        point.time_unix_nano, point.as_double = 2**64 - 1, value
    histogram = metrics.add()
    histogram.name = "histogram"
    point = histogram.exponential_histogram.data_points.add()
    point.count, point.sum, point.scale = 2**64 - 1, 1e308, -10
    point.positive.offset = 2**31 - 1
    point.positive.bucket_counts.extend([2**64 - 1, 1])
    explicit = metrics.add()
    explicit.name = "explicit"
    point = explicit.histogram.data_points.add()
    point.count = 5
    point.bucket_counts.extend([1, 2, 2])  # and no bounds
    metrics.add().name = "nothing"
    return request


@pytest.mark.parametrize(
    ("signal", "poison"),
    [("traces", poison_spans()), ("logs", poison_logs()), ("metrics", poison_points()), ("traces", b"\xff\xffno protobuf")],
    ids=["spans", "logs", "points", "no OTLP"],
)  # fmt: skip
def test_values_that_no_column_takes_cost_no_other_batch(tmp_path, signal, poison):
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", one_span(tid=b"1" * 16))
    put(home, signal, poison)
    put(home, "traces", one_span(tid=b"2" * 16))
    build(path, home)
    assert rows(
        path,
        "SELECT count(*) FROM trace WHERE tid IN (CAST('1111111111111111' AS BLOB), CAST('2222222222222222' AS BLOB))",
    ) == [(2,)]
    assert rows(path, "SELECT max(last) FROM progress") == [(3,)]


def test_a_second_process_waits_for_the_first(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", one_span())
    with index_cache.lock(path, waits=lambda: False) as mine:
        assert mine
        gone = threading.Thread(target=index_module.run, args=(path, [home]), kwargs={"parent": -1})
        gone.start()
        gone.join(5)
        assert not gone.is_alive()  # its parent is not there: it does not wait on
    assert not path.exists()


def many_spans(count):
    request = one_span()
    spans = request.resource_spans[0].scope_spans[0].spans
    for number in range(1, count):
        span = spans.add()
        span.CopyFrom(spans[0])
        span.trace_id, span.span_id = (number // 10).to_bytes(16), number.to_bytes(8)
        span.parent_span_id = b"" if number % 10 == 0 else (number // 10 * 10).to_bytes(8)
    return request


def many_lines(count):
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for number in range(count):
        record = records.add()
        record.time_unix_nano, record.trace_id = 10**18 + number, (number // 10).to_bytes(16)
        record.body.string_value = f"line {number}"
    return request


def many_points(count):
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add()
    metric.name = "gauge"
    for number in range(count):
        point = metric.gauge.data_points.add()
        point.time_unix_nano, point.as_double = 10**18 + number * 10**6, number
    return request


@pytest.mark.parametrize(
    ("signal", "request_of", "taker"),
    [("traces", many_spans, index_spans.Spans), ("logs", many_lines, index_logs.Lines), ("metrics", many_points, index_metrics.Points)],
    ids=["spans", "logs", "points"],
)  # fmt: skip
def test_of_a_large_batch_few_rows_are_in_memory(tmp_path, monkeypatch, signal, request_of, taker):
    """GIVEN a batch with more rows than are held WHEN it is taken THEN they are written in parts, and are the same."""
    home = tmp_path / "home"
    put(home, signal, request_of(2_005), items=2_005)
    build(tmp_path / "whole.db", home)
    held, flush = [], taker.flush

    def counted(self):
        held.append(len(self._rows))
        flush(self)

    monkeypatch.setattr(taker, "flush", counted)
    monkeypatch.setattr(inspect.getmodule(taker), "ROWS", 303)
    build(tmp_path / "index.db", home)
    assert max(held) == 303
    assert sum(held) == 2_005
    assert content(tmp_path / "index.db") == content(tmp_path / "whole.db")


def test_a_batch_that_is_too_large_is_left_out_and_counted(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", one_span(tid=b"1" * 16))
    put(home, "traces", b"\x0a\x00" * 10, items=LARGEST + 1)
    put(home, "traces", one_span(tid=b"2" * 16))
    build(path, home)
    assert rows(path, "SELECT spans FROM trace") == [(1,), (1,)]
    assert rows(path, "SELECT skipped, (SELECT max(last) FROM progress) FROM store") == [(1, 3)]
