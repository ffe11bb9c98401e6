"""HTTP, gRPC and sessions against real servers: four words for whatever a receiver does."""

import gzip
import random
import socket
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from otel_perf.store import session_sender
from otel_perf.store.destination import LOCAL, Destination
from otel_perf.store.http_sender import HttpSender, judge
from otel_perf.store.local import LocalReceiver
from otel_perf.store.sender import connect
from tests.store.receiver import Receiver


@pytest.fixture
def receiver():
    receiver = Receiver()
    with receiver.running():
        yield receiver


def send(url, timeout=5.0, body=b"abc", **options):
    sender = connect(Destination("traces", options.pop("protocol", "http/protobuf"), url, **options))
    try:
        return sender.send(sender.pack(body), timeout)
    finally:
        sender.close()
        sender.close()


@pytest.mark.parametrize(
    ("compression", "decompress"), [("none", bytes), ("gzip", gzip.decompress), ("deflate", zlib.decompress)]
)
def test_headers_and_compression(compression, decompress, receiver):
    assert send(receiver.url, compression=compression, headers={"api-key": "k"}).verdict == "accepted"
    ((_, headers, body),) = receiver.requests
    assert decompress(body) == b"abc"
    assert headers["api-key"] == "k"
    assert headers["user-agent"].startswith("OTel-OTLP-Exporter-Python/")
    assert headers.get("content-encoding", "none") == compression


@pytest.mark.parametrize(("compression", "decompress"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_what_is_large_is_compressed_bit_by_bit(compression, decompress, receiver):
    body, rests = random.Random(1).randbytes(100_000) + bytes(900_000), []
    sender = HttpSender(Destination("traces", "http/protobuf", receiver.url, compression=compression))
    packed = sender.pack(body, lambda: rests.append(1))
    assert sender.send(packed, 5.0).verdict == "accepted"
    sender.close()
    assert decompress(receiver.requests[0][2]) == body
    assert len(rests) > 50


@pytest.mark.parametrize(
    ("headers", "sent"), [({}, "Basic dXNlcjpwYUBzcw=="), ({"authorization": "Bearer mine"}, "Bearer mine")]
)
def test_a_password_in_the_address_is_sent_unless_the_user_names_another(headers, sent, receiver):
    assert send(receiver.url.replace("//", "//user:pa%40ss@"), headers=headers).verdict == "accepted"
    assert receiver.requests[0][1]["authorization"] == sent


@pytest.mark.parametrize(
    ("status", "headers", "body", "verdict"),
    [
        (200, {"content-type": "application/json"}, b"{}", "accepted"),
        (202, {}, b"\xff\xff garbage", "accepted"),
        (200, {"content-type": "text/html"}, b"<html>", "misconfigured"),
        (301, {"location": "http://elsewhere"}, b"", "misconfigured"),
        (400, {"content-type": "text/html"}, b"<html>", "refused"),
        (400, {"content-type": "application/x-protobuf"}, b"\xff\xff", "refused"),
        (401, {}, b"", "misconfigured"),
        (429, {"retry-after": "7"}, b"", "busy"),
        (503, {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}, b"", "busy"),
        (503, {"retry-after": "soon"}, b"", "busy"),
        (503, {"retry-after": "nan"}, b"", "busy"),
        (500, {}, b"", "refused"),
    ],
)
def test_what_an_answer_means(status, headers, body, verdict, receiver):
    receiver.answer = lambda *_: (status, headers, body)
    answer = send(receiver.url)
    assert answer.verdict == verdict
    wait = {"7": 7.0, "Fri, 31 Dec 1999 23:59:59 GMT": 0.0}.get(headers.get("retry-after"))
    assert answer.retry_after == wait


@pytest.mark.parametrize(
    ("body", "doubted"),
    [(b"{}", False), (b'{"partialSuccess":{}}', False), (b'{"status":"Server available"}', True), (b"OK", True)],
)
def test_json_that_is_no_otlp_response_is_doubted(body, doubted, receiver):
    receiver.answer = lambda *_: (200, {"content-type": "application/json"}, body)
    answer = send(receiver.url)
    assert answer.verdict == "accepted"
    assert bool(answer.message) == doubted


def test_what_went_wrong_is_told_without_the_librarys_wrapping():
    answer = send("http://127.0.0.1:1")
    assert answer.detail.startswith("Failed to establish a new connection")


def test_a_status_message_is_quoted():
    from google.rpc.status_pb2 import Status

    body = Status(message="too  large").SerializeToString()
    assert (
        judge("logs", 413, "Large", {"content-type": "application/x-protobuf"}, body).detail == "413 Large: too large"
    )


@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_partial_success_of_every_signal(signal):
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    response, count = {
        "traces": (ExportTraceServiceResponse(), "rejected_spans"),
        "metrics": (ExportMetricsServiceResponse(), "rejected_data_points"),
        "logs": (ExportLogsServiceResponse(), "rejected_log_records"),
    }[signal]
    setattr(response.partial_success, count, 2)
    response.partial_success.error_message = "why"
    answer = judge(signal, 200, "OK", {}, response.SerializeToString())
    assert (answer.verdict, answer.rejected, answer.message) == ("accepted", 2, "why")


@pytest.mark.parametrize("behaviour", ["hang", "garbage", "close", "dribble"])
def test_a_receiver_that_speaks_no_http_is_busy_within_the_timeout(behaviour):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                if behaviour == "garbage":
                    peer.sendall(b"\x00\x01garbage\r\n\r\n")
                elif behaviour == "dribble":
                    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
                    try:
                        for _ in range(100):
                            peer.sendall(b"x")
                            time.sleep(0.05)
                    except OSError:
                        pass
                elif behaviour == "hang":
                    peer.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        began = time.monotonic()
        answer = send(f"http://127.0.0.1:{server.getsockname()[1]}", timeout=0.5)
        assert answer.verdict == "busy"
        assert time.monotonic() - began < 3
        thread.join(10)


def test_a_connection_is_kept(receiver):
    sender = HttpSender(Destination("traces", "http/protobuf", receiver.url))
    assert [sender.send(b"x", 5).verdict for _ in range(3)] == ["accepted"] * 3
    assert sender._pool.pools is not None
    sender.close()


def test_a_proxy_of_the_environment_is_used(receiver, monkeypatch):
    monkeypatch.setenv("http_proxy", receiver.url.replace("http://", "http://user:pw@"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert send("http://collector.example:4318/v1/traces").verdict == "accepted"
    path, headers, _ = receiver.requests[0]
    assert path == "http://collector.example:4318/v1/traces"
    assert headers["proxy-authorization"].startswith("Basic ")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert send(f"{receiver.url}/direct").verdict == "accepted"
    assert receiver.requests[1][0] == "/direct"


def test_a_plain_server_behind_an_https_address_is_a_setting_to_mend(receiver):
    answer = send(receiver.url.replace("http:", "https:"))
    assert answer.verdict == "misconfigured"


def test_a_credential_providers_session_sends(receiver, monkeypatch, tmp_path):
    class Point:
        def load(self):
            return requests.Session

    monkeypatch.setattr(session_sender, "entry_points", lambda group, name: [Point()] if name == "mine" else [])
    (tmp_path / "cert").touch()
    options = {"credential_provider": "mine", "client_certificate": str(tmp_path / "cert")}
    assert send(receiver.url, **options).verdict == "accepted"
    assert send("http://127.0.0.1:1", **options).verdict == "busy"
    assert "'none-such' is not installed" in send(receiver.url, credential_provider="none-such").detail


def test_only_an_otlp_receiver_on_localhost_counts(receiver, monkeypatch):
    found = []
    monkeypatch.setitem(LOCAL, "http/protobuf", "http://127.0.0.1:1")
    local = LocalReceiver({}, found.append)
    assert not local.find()
    assert not local.find()  # not looked for again so soon
    monkeypatch.setitem(LOCAL, "http/protobuf", receiver.url)
    local = LocalReceiver({}, found.append)
    receiver.answer = lambda *_: (404, {}, b"")
    assert not local.find()
    receiver.answer = lambda *_: (200, {}, b"")
    local._next = 0.0
    assert local.find()
    assert local.find()
    assert found == [receiver.url]
    assert [destination.signal for destination in local.destinations] == ["traces", "metrics", "logs"]


# --- gRPC ------------------------------------------------------------------------------------------


@pytest.fixture
def grpc_server():
    import grpc

    def handle(body, context):
        return server.behave(body, context)

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            server.methods.append(details.method)
            return grpc.unary_unary_rpc_method_handler(handle)

    server = grpc.server(ThreadPoolExecutor(2), handlers=[Handler()])
    server.methods, server.behave = [], lambda _body, _context: b""
    server.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield server
    server.stop(None).wait()


def test_grpc_sends_the_bytes_as_they_are(grpc_server):
    bodies = []
    grpc_server.behave = lambda body, context: bodies.append((body, dict(context.invocation_metadata()))) or b""
    url = f"http://127.0.0.1:{grpc_server.port}"
    assert send(url, protocol="grpc", headers={"api-key": "k"}, compression="gzip").verdict == "accepted"
    assert bodies[0][0] == b"abc"
    assert bodies[0][1]["api-key"] == "k"
    assert grpc_server.methods == ["/opentelemetry.proto.collector.trace.v1.TraceService/Export"]


@pytest.mark.parametrize(
    ("code", "details", "verdict"),
    [
        ("UNAVAILABLE", "down", "busy"),
        ("RESOURCE_EXHAUSTED", "slow down", "busy"),
        ("RESOURCE_EXHAUSTED", "received message larger than max", "too large"),
        ("UNAUTHENTICATED", "who are you", "misconfigured"),
        ("INVALID_ARGUMENT", "bad", "refused"),
    ],
)
def test_what_a_grpc_status_means(code, details, verdict, grpc_server):
    import grpc

    grpc_server.behave = lambda _body, context: context.abort(getattr(grpc.StatusCode, code), details)
    answer = send(f"http://127.0.0.1:{grpc_server.port}", protocol="grpc")
    assert (answer.verdict, answer.detail) == (verdict, f"{code}: {details}")


def test_grpc_headers_of_bytes_are_sent_as_such(grpc_server):
    """GIVEN a header whose name ends in -bin, for which gRPC wants bytes THEN it is sent, and nothing is raised."""
    sent = []
    grpc_server.behave = lambda _body, context: sent.append(dict(context.invocation_metadata())) or b""
    url = f"http://127.0.0.1:{grpc_server.port}"
    assert send(url, protocol="grpc", headers={"tenant-bin": "a\xe4"}).verdict == "accepted"
    assert sent[0]["tenant-bin"] == b"a\xe4"


def test_grpc_retry_info_is_honoured(grpc_server):
    import grpc
    from google.protobuf.any_pb2 import Any
    from google.protobuf.duration_pb2 import Duration
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status

    detail = Any()
    detail.Pack(RetryInfo(retry_delay=Duration(seconds=3)))
    status = Status(code=14, details=[detail]).SerializeToString()

    def behave(_body, context):
        context.set_trailing_metadata([("grpc-status-details-bin", status), ("other", "x")])
        context.abort(grpc.StatusCode.UNAVAILABLE, "wait")

    grpc_server.behave = behave
    assert send(f"http://127.0.0.1:{grpc_server.port}", protocol="grpc").retry_after == 3.0


def test_grpc_over_tls_to_a_plain_server_is_no_success(grpc_server):
    assert send(f"https://127.0.0.1:{grpc_server.port}", protocol="grpc", timeout=2).verdict != "accepted"
    missing = send(f"https://127.0.0.1:{grpc_server.port}", protocol="grpc", certificate="/none/such")
    assert missing.verdict == "misconfigured"


def test_without_grpcio_the_extra_is_named(monkeypatch):
    import sys

    from otel_perf.core.errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(MissingExtraError, match=r"otel-perf\[grpc\]"):
        connect(Destination("traces", "grpc", "http://c:4317"))
