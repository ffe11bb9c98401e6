"""OTLP over HTTP from anybody becomes batches like our own."""

import asyncio
import gzip
import json
import re
import sqlite3
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import StoreReader
from otel_perf.view import receiver as receiver_module
from otel_perf.view import wire
from otel_perf.view.receiver import Receiver
from tests import stored
from tests.view.conftest import request
from tests.view.test_index import one_span

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}
SPAN = {"traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "parentSpanId": "", "name": "I'm a span", "kind": 2,
        "startTimeUnixNano": "1544712660000000000", "endTimeUnixNano": "1544712661000000000", "attributes": [{"key": "n", "value": {"intValue": "7"}}], "unknownField": 1}  # fmt: skip


def document(*spans):
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "stranger"}}]}
    return json.dumps(
        {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {}, "spans": list(spans)}]}]}
    ).encode()


@pytest.fixture
def receiver(tmp_path):
    made = Receiver(tmp_path / "received", limit=10**8)
    yield made
    made.close()


def post(receiver, path="/v1/traces", **given):
    return request(receiver, path, method="POST", **given)


def test_protobuf_and_json_plain_and_gzip_are_stored(receiver):
    body = one_span().SerializeToString()
    assert post(receiver, headers=PROTOBUF, body=body).status == 200
    assert post(receiver, headers={**PROTOBUF, "content-encoding": "gzip"}, body=gzip.compress(body)).body == b""
    assert (
        post(receiver, headers={"content-type": "application/json; charset=utf-8"}, body=document(SPAN)).body == b"{}"
    )
    assert (
        post(receiver, headers={**JSON, "content-encoding": "gzip"}, body=gzip.compress(document(SPAN))).status == 200
    )
    assert post(receiver, headers=PROTOBUF, pieces=[body[:5], body[5:], b""]).status == 200
    spans = stored.spans(receiver.home)
    assert len(spans) == 5
    assert spans[2].trace_id == SPAN["traceId"]
    assert spans[2].span_id == SPAN["spanId"]
    assert spans[2].attributes == {"n": 7}
    assert spans[2].resource == {"service.name": "stranger"}


def test_what_follows_a_gzip_is_not_said_to_be_stored(receiver):
    """GIVEN two members, which gunzip reads as one, and of which the first is read here THEN the sender hears of it."""
    body = gzip.compress(one_span().SerializeToString()) + gzip.compress(one_span(sid=b"z" * 8).SerializeToString())
    assert post(receiver, headers={**PROTOBUF, "content-encoding": "gzip"}, body=body).status == 400
    assert stored.spans(receiver.home) == []


def test_metrics_and_logs_are_stored(receiver):
    metrics = {
        "resourceMetrics": [
            {
                "scopeMetrics": [
                    {"metrics": [{"name": "m", "gauge": {"dataPoints": [{"asDouble": 1.5, "timeUnixNano": "7"}]}}]}
                ]
            }
        ]
    }
    logs = {
        "resourceLogs": [
            {
                "scopeLogs": [
                    {"logRecords": [{"body": {"stringValue": "said"}, "traceId": SPAN["traceId"], "timeUnixNano": "7"}]}
                ]
            }
        ]
    }
    assert post(receiver, "/v1/metrics", headers=JSON, body=json.dumps(metrics).encode()).status == 200
    assert post(receiver, "/v1/logs", headers=JSON, body=json.dumps(logs).encode()).status == 200
    assert [point.value for point in stored.points(receiver.home)] == [1.5]
    assert [entry.body for entry in stored.logs(receiver.home)] == ["said"]


@pytest.mark.parametrize(
    ("path", "headers", "body", "status"),
    [
        ("/v1/traces", {}, b"", 415),
        ("/v1/traces", {"content-type": "text/plain"}, b"{}", 415),
        ("/v1/traces", {**JSON, "content-encoding": "br"}, b"{}", 415),
        ("/v1/traces", {**JSON, "content-encoding": "gzip"}, b"no gzip", 400),
        ("/v1/traces", {**JSON, "content-encoding": "gzip"}, gzip.compress(b"{}" * 999, mtime=0)[:-9], 400),
        ("/v1/traces", PROTOBUF, b"\xff\xff\xff", 400),
        ("/v1/traces", JSON, b"{", 400),
        ("/v1/traces", JSON, b"[]", 400),
        ("/v1/traces", JSON, b"[" * 100_000, 400),
        ("/v1/traces", JSON, b'{"a":' * 100_000, 400),
        ("/v1/traces", JSON, b'{"resourceSpans": 7}', 400),
        ("/v1/traces", JSON, document({**SPAN, "traceId": "zz"}), 400),
        ("/v1/traces", JSON, document({**SPAN, "traceId": "00"}), 400),
        ("/v1/traces", JSON, document({**SPAN, "name": "\ud800"}), 400),
        ("/v1/metrics", JSON, document(SPAN), 200),  # unknown fields are passed over, as OTLP wants
        ("/v1/other", JSON, b"{}", 404),
        ("/../../etc/passwd", JSON, b"{}", 404),
    ],
)  # fmt: skip
def test_what_is_no_otlp_is_refused_and_nothing_is_stored(receiver, path, headers, body, status):
    assert post(receiver, path, headers=headers, body=body).status == status
    assert stored.spans(receiver.home) == []


def test_a_body_that_is_too_large_is_refused_before_it_is_read(receiver):
    gigabyte = {**PROTOBUF, "content-length": str(2**30)}

    def never():
        raise AssertionError("it was read")

    async def receive():
        never()

    answered = post(receiver, headers=gigabyte, pieces=[])
    assert answered.status == 413


def test_a_body_that_grows_without_saying_so_is_cut_off(receiver):
    pieces = [b"x" * 2**20] * 2**10
    assert post(receiver, headers=PROTOBUF, pieces=pieces).status == 413


def test_a_small_body_that_unpacks_to_gigabytes_is_refused(receiver):
    import tracemalloc

    bomb = gzip.compress(b"\0" * 200_000_000)
    tracemalloc.start()
    answered = post(receiver, headers={**PROTOBUF, "content-encoding": "gzip"}, body=bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answered.status == 413
    assert peak < 100_000_000


def test_a_store_that_cannot_be_written_asks_to_come_again(receiver, monkeypatch):
    def full(*_, **__):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(receiver_module, "Database", full)
    answered = post(receiver, headers=PROTOBUF, body=one_span().SerializeToString())
    assert answered.status == 503
    assert answered.headers["retry-after"] == "5"


def test_an_empty_request_is_fine(receiver):
    assert post(receiver, headers=PROTOBUF, body=ExportTraceServiceRequest().SerializeToString()).status == 200
    assert not receiver.home.exists()


# --- what two bytes on the wire are in memory ----------------------------------------------------------


def nested(count, *fields, what=b"\x00"):
    """``count`` empty messages of the last field, each two bytes, in one message of each field before it."""
    body = bytes([fields[-1] << 3 | 2]) + what
    body *= count
    for field in reversed(fields[:-1]):
        size, head = len(body), bytearray([field << 3 | 2])
        while size > 127:
            head.append(size & 127 | 128)
            size >>= 7
        body = bytes(head) + bytes([size]) + body
    return body


EMPTY = {
    "resources": ("/v1/traces", nested(4_000_000, 1)),
    "scopes": ("/v1/traces", nested(4_000_000, 1, 2)),
    "spans": ("/v1/traces", nested(4_000_000, 1, 2, 2)),
    "log records": ("/v1/logs", nested(4_000_000, 1, 2, 2)),
    "metrics": ("/v1/metrics", nested(4_000_000, 1, 2, 2)),
    "points": ("/v1/metrics", nested(4_000_000, 1, 2, 2, 5, 1)),
    "attributes of a span": ("/v1/traces", nested(4_000_000, 1, 2, 2, 9)),
    "attributes of a resource": ("/v1/traces", nested(4_000_000, 1, 1, 1)),
    "attributes of a scope": ("/v1/traces", nested(4_000_000, 1, 2, 1, 3)),
    "a list in a list in an attribute": ("/v1/logs", nested(4_000_000, 1, 2, 2, 5, 5, 1)),
    "fields that nobody knows": ("/v1/traces", b"\x78\x00" * 4_000_000),
}


def peak():
    """The most memory that this process had (kB)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.parametrize(("path", "body"), EMPTY.values(), ids=EMPTY)
def test_millions_of_empty_messages_are_counted_before_they_are_parsed(receiver, path, body):
    """GIVEN 8 MB that are half a gigabyte once they are parsed WHEN they come THEN they are refused, and nothing of it was."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = peak()
    answered = post(receiver, path, headers={**PROTOBUF, "content-encoding": "gzip"}, body=gzip.compress(body, 1))
    assert answered.status == 413, answered.body
    assert peak() - before < 100_000  # kB; the body as it is, unpacked, and a copy of a part are a quarter of it
    assert not receiver.home.exists()


@pytest.mark.parametrize("text", ['{"resourceSpans": [%s{}]}', '{"resourceSpans": %s]', '{"a": [%s0]}'])
def test_millions_of_json_objects_are_counted_before_they_are_read(receiver, text):
    filler = "[" if "]]" not in text and "%s]" in text else "{}," if "{}]" in text else "[],"
    body = (text % (filler * 2_000_000)).encode()
    assert post(receiver, headers=JSON, body=body).status == 413


def many_spans(count, attributes=3, service="shop"):
    request = ExportTraceServiceRequest()
    for half in range(2):
        of = request.resource_spans.add()
        of.schema_url = f"https://example.com/{half}"
        pair = of.resource.attributes.add()
        pair.key, pair.value.string_value = "service.name", f"{service}-{half}"
        scope = of.scope_spans.add()
        scope.scope.name, scope.schema_url = f"scope-{half}", "https://example.com/scope"
        for number in range(count // 2):
            span = scope.spans.add()
            span.trace_id, span.span_id = number.to_bytes(16, "big"), (half << 32 | number).to_bytes(8, "big")
            span.name, span.start_time_unix_nano, span.end_time_unix_nano = f"span {number}", 10**18, 10**18 + number
            for at in range(attributes):
                pair = span.attributes.add()
                pair.key, pair.value.int_value = f"key.{at}", number
    return request


def batches(home):
    reader = StoreReader(home)
    try:
        return list(reader.batches())
    finally:
        reader.close()


def test_a_large_request_becomes_several_batches_that_are_the_same(receiver):
    request = many_spans(9_000)
    assert post(receiver, headers=PROTOBUF, body=request.SerializeToString()).status == 200
    found = batches(receiver.home)
    assert len(found) > 1
    assert all(batch.items <= wire.EACH and len(batch.body) <= 1.1 * wire.BYTES for batch in found)
    assert sum(batch.items for batch in found) == receiver.items == 9_000
    whole = ExportTraceServiceRequest()
    for batch in found:
        part = ExportTraceServiceRequest.FromString(batch.body)
        assert batch.items == sum(len(scope.spans) for of in part.resource_spans for scope in of.scope_spans)
        for of in part.resource_spans:  # put together what one resource was cut into
            if whole.resource_spans and whole.resource_spans[-1].resource == of.resource:
                assert whole.resource_spans[-1].schema_url == of.schema_url
                assert whole.resource_spans[-1].scope_spans[-1].scope == of.scope_spans[0].scope
                whole.resource_spans[-1].scope_spans[-1].spans.extend(of.scope_spans[0].spans)
            else:
                whole.resource_spans.append(of)
    assert whole == request


def test_a_small_request_stays_one_batch(receiver):
    request = many_spans(100)
    assert post(receiver, headers=PROTOBUF, body=request.SerializeToString()).status == 200
    (batch,) = batches(receiver.home)
    assert ExportTraceServiceRequest.FromString(batch.body) == request


def test_as_many_items_as_may_be_are_taken_and_not_one_more(receiver):
    for count, status in ((wire.ITEMS, 200), (wire.ITEMS + 2, 413)):
        body = many_spans(count, attributes=0).SerializeToString()
        assert post(receiver, headers=PROTOBUF, body=body).status == status
    assert receiver.items == wire.ITEMS


def test_points_are_what_counts_of_metrics(receiver):
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    for kind in ("gauge", "sum", "histogram", "exponential_histogram", "summary"):
        metric = metrics.add()
        metric.name = kind
        for time in range(1, 4):
            getattr(metric, kind).data_points.add().time_unix_nano = time
    metrics.add().name = "without points"
    assert post(receiver, "/v1/metrics", headers=PROTOBUF, body=request.SerializeToString()).status == 200
    assert [batch.items for batch in batches(receiver.home)] == [15]


def test_one_large_item_is_taken_if_it_is_no_heap_of_messages(receiver):
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    record.body.string_value = "said " * 600_000
    assert post(receiver, "/v1/logs", headers=PROTOBUF, body=request.SerializeToString()).status == 200
    assert [len(entry.body) for entry in stored.logs(receiver.home)] == [3_000_000]


@pytest.mark.parametrize("body", [b"\x0a", b"\x0a\x05\x12", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x0b", b"\x09\x00", b"\x0a\x02\x12\x09", b"\x80" * 9,
                                  b"\x0a\x08\x12\x06\x12\x04\x2a\x02\xff\xfe"])  # fmt: skip
def test_what_is_cut_off_or_no_protobuf_is_refused(receiver, body):
    assert post(receiver, headers=PROTOBUF, body=body).status == 400
    assert not receiver.home.exists()


# --- several at once -----------------------------------------------------------------------------------


def asked(receiver, ahead, body=b"", headers=PROTOBUF):
    """Start a request whose pieces are taken from the queue ``ahead``, or that has its body at once."""
    scope = {
        "type": "http", "path": "/v1/traces", "method": "POST",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }  # fmt: skip
    status = asyncio.get_running_loop().create_future()
    whole = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return whole.pop() if ahead is None else await ahead.get()

    async def send(message):
        if message["type"] == "http.response.start":
            status.set_result(message["status"])

    task = asyncio.create_task(receiver(scope, receive, send))
    status.task = task  # kept, so that it is not collected
    return status


def test_slow_bodies_keep_nobody_out(receiver):
    """GIVEN bodies that come slowly, all the memory they may take together WHEN another sends quickly THEN it is stored,

    and those that began first are told to come again.
    """
    piece = {"type": "http.request", "body": b"\xff" * (receiver_module.BODY // 2), "more_body": True}
    last = {"type": "http.request", "body": b"", "more_body": False}

    async def scene():
        slow = [(queue := asyncio.Queue(), asked(receiver, queue)) for _ in range(20)]
        for queue, _ in slow:
            queue.put_nowait(piece)
        await asyncio.sleep(0.05)
        assert receiver._held <= receiver_module.HELD + receiver_module.BODY
        quick = await asyncio.wait_for(asked(receiver, None, one_span().SerializeToString()), 10)
        for queue, _ in slow:
            queue.put_nowait(last)
        statuses = await asyncio.wait_for(asyncio.gather(*(status for _, status in slow)), 10)
        await asyncio.gather(*(status.task for _, status in slow))
        return quick, statuses

    quick, statuses = asyncio.run(scene())
    assert quick == 200
    assert statuses[0] == 503
    assert statuses[-1] == 400  # it was there whole, and is no OTLP
    assert statuses == sorted(statuses, reverse=True)
    assert receiver._held == 0
    assert not receiver._bodies


# --- the store -----------------------------------------------------------------------------------------


def test_a_store_of_another_format_asks_to_come_again(receiver):
    receiver.home.mkdir()
    connection = sqlite3.connect(receiver.home / STORE_FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    answered = post(receiver, headers=PROTOBUF, body=one_span().SerializeToString())
    assert answered.status == 503
    assert b"format 99" in answered.body


def test_a_corrupt_store_is_set_aside(receiver, capfd):
    receiver.home.mkdir()
    (receiver.home / STORE_FILE).write_bytes(b"no database at all, " * 2_000)
    assert post(receiver, headers=PROTOBUF, body=one_span().SerializeToString()).status == 200
    assert len(stored.spans(receiver.home)) == 1
    assert len(list(receiver.home.glob(f"{STORE_FILE}.corrupt-*"))) == 1
    assert "set aside" in capfd.readouterr().err


def test_a_store_that_was_replaced_is_let_go(receiver):
    """GIVEN a store that somebody deletes again and again WHEN more comes THEN it is made anew, and no file stays open."""

    def open_files():
        return [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]

    for _ in range(3):
        assert post(receiver, headers=PROTOBUF, body=one_span().SerializeToString()).status == 200
        assert len(stored.spans(receiver.home)) == 1
        for file in receiver.home.glob("telemetry.db*"):
            file.unlink()
    assert post(receiver, headers=PROTOBUF, body=one_span().SerializeToString()).status == 200
    deleted = [name for name in open_files() if str(receiver.home) in name and name.endswith("(deleted)")]
    assert deleted == []
