"""OTLP over HTTP from anybody becomes batches like our own."""

import gzip
import json
import sqlite3

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf.view import receiver as receiver_module
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
        ("/v1/traces", {**JSON, "content-encoding": "gzip"}, gzip.compress(b"{}" * 999)[:-9], 400),
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
