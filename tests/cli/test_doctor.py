"""``otel-perf doctor`` on set-ups that look well and are not, or the reverse; in process."""

import os
import subprocess
import sys
import time

import pytest
from opentelemetry import trace

from otel_perf.cli import receivers
from tests.e2e import programs
from tests.store.receiver import Receiver

PARTIAL = b'{"partialSuccess":{"rejectedSpans":"1","errorMessage":"quota"}}'


@pytest.fixture
def receiver():
    receiver = Receiver()
    with receiver.running():
        yield receiver


def asked(url, **variables):
    """What came of sending traces there, and the findings as lines."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    findings = []
    (sending,) = receivers.sendings({**environ, **variables}, findings, [])
    return sending, [f"{finding.problem} | {finding.remedy}" for finding in findings]


def rejecting(message):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 1
    response.partial_success.error_message = message
    return response.SerializeToString()


@pytest.mark.parametrize(
    ("kind", "body"),
    [("application/x-protobuf", rejecting("too old")), ("application/x-protobuf", rejecting("")),
     ("application/json", PARTIAL)],
)  # fmt: skip
def test_a_receiver_that_throws_the_test_span_away_is_not_well(kind, body, receiver):
    """With a 200: nobody else would say so."""
    receiver.answer = lambda *_: (200, {"content-type": kind}, body)
    sending, (finding,) = asked(receiver.url)
    assert not sending.taken
    assert "200 OK, but it did not take 1" in finding


@pytest.mark.parametrize(
    ("headers", "body"), [({}, b"<!doctype html><p>Hello"), ({"content-type": "text/plain"}, b"Hello, world")]
)
def test_something_else_that_listens_there_is_not_well(headers, body, receiver):
    receiver.answer = lambda *_: (200, headers, body)
    _, (finding,) = asked(receiver.url)
    assert finding.endswith("| correct OTEL_EXPORTER_OTLP_ENDPOINT: something else answers there")


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (301, "write the address that it moved to"),
        (407, "set the proxy's user and password"),
        (413, "raise the limit for a request"),
        (429, "nothing to change here"),
        (500, "look at the receiver's log"),
        (503, "nothing to change here"),
    ],
)
def test_the_remedy_is_of_what_the_receiver_says(status, remedy, receiver):
    receiver.answer = lambda *_: (status, {}, b"")
    _, (finding,) = asked(receiver.url)
    assert f"| {remedy}" in finding


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ("certificate verify failed: certificate has expired (_ssl.c:1006)", "has to be issued again"),
        ("certificate verify failed: certificate is not yet valid (_ssl.c:1006)", "timedatectl set-ntp true"),
        ("certificate verify failed: IP address mismatch, certificate is not valid for 'a'", "a name that it is for"),
        ("certificate verify failed: self-signed certificate (_ssl.c:1006)", "set OTEL_EXPORTER_OTLP_CERTIFICATE"),
        ("UNAVAILABLE: … Cannot check peer: missing selected ALPN property.", "that is a port for HTTP"),
    ],
)
def test_an_authority_is_named_only_where_one_is_missing(answer, remedy, monkeypatch):
    """What has expired, or is for another name, no file of authorities mends."""
    said = f"[SSL: CERTIFICATE_VERIFY_FAILED] {answer}" if "verify" in answer else answer
    sending = receivers.Sending(signal="traces", place="https://a", protocol="grpc", answer=said, taken=False)
    monkeypatch.setattr(receivers, "_try", lambda _: sending)
    _, (finding,) = asked("https://a")
    assert remedy in finding.partition(" | ")[2]


def test_credentials_that_a_receiver_repeats_are_not_shown(receiver):
    def repeat(_path, headers, _body):
        return 401, {}, f"bad {headers['api-key']} {headers['authorization']} {'x' * 170} {headers['api-key']}".encode()

    receiver.answer = repeat
    url = receiver.url.replace("//", "//user:PASSWORD12@")
    sending, findings = asked(url, OTEL_EXPORTER_OTLP_HEADERS="api-key=KEY4567890123")
    shown = f"{sending.model_dump_json()} {findings}"
    assert "401 Unauthorized: bad … Basic" in shown or "401 Unauthorized: bad … …" in shown
    for secret in ("KEY456", "PASSWORD", "dXNlcjpQQVNT"):
        assert secret not in shown


def test_a_proxy_that_is_in_the_way_is_named(monkeypatch):
    """GIVEN a proxy that is set for the machine, and is not there WHEN asked THEN it is said how to go past it."""
    monkeypatch.setenv("http_proxy", "http://user:PASSWORD@127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    sending, (finding,) = asked("http://192.0.2.1:4318")
    assert "the proxy 127.0.0.1:1, which NO_PROXY=192.0.2.1 leaves out" in finding
    assert "PASSWORD" not in f"{sending} {finding}"


def test_a_receiver_that_takes_its_time_is_well(receiver):
    """As long as a program would wait."""

    def answer(*_):
        time.sleep(3.2)
        return 200, {}, b""

    receiver.answer = answer
    sending, findings = asked(receiver.url)
    assert (sending.taken, findings) == (True, [])


def test_an_answer_that_does_not_end_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(receivers, "_PATIENCE", 0.05)
    monkeypatch.setattr(receivers, "_GRACE", 0.05)
    monkeypatch.setattr(receivers, "_try", lambda _: time.sleep(30))
    begin = time.monotonic()
    sending, (finding,) = asked("http://127.0.0.1:4318")
    assert (sending.taken, time.monotonic() - begin < 10) == (False, True)
    assert "no answer to the end within" in finding


def doctor(home, *words, encoding=None, **options):
    """The command as a shell runs it, on a set-up with something to mend."""
    environ = programs.environment(home, OTEL_PERF_MEMROY="off")
    if encoding:
        environ["PYTHONIOENCODING"] = encoding
    command = [sys.executable, "-m", "otel_perf", "doctor", *words]
    return subprocess.run(
        command, env=environ, stderr=subprocess.PIPE, text=True, check=False, timeout=60,
        **{"stdout": subprocess.PIPE, "errors": "replace", **options},
    )  # fmt: skip


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "ascii:surrogateescape"])
def test_an_encoding_without_our_marks_is_no_traceback(encoding, home):
    done = doctor(home, encoding=encoding)
    assert (done.returncode, done.stderr) == (1, "")
    assert "traces ? store" in done.stdout
    assert "OTEL_PERF_MEMROY is no variable" in done.stdout


def test_a_standard_output_that_is_closed_is_no_traceback(home):
    done = doctor(home, stdout=None, preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_what_is_wrong_is_not_well_because_nobody_reads_it(words, home):
    """``set -o pipefail; otel-perf doctor | grep -q …``"""
    read, write = os.pipe()
    os.close(read)
    try:
        done = doctor(home, *words, stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_json_is_utf_8_whatever_the_locale(start, home):
    """GIVEN a span with a name that ASCII does not have WHEN it is exported to a file THEN it is what was stored."""
    pipeline = start()
    trace.get_tracer("t").start_span("café →").end()
    pipeline.shutdown()
    environ = programs.environment(home, PYTHONIOENCODING="ascii")
    command = [sys.executable, "-m", "otel_perf", "export", "--signal", "traces"]
    done = subprocess.run(command, env=environ, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert '"name":"café →"' in done.stdout.decode()
