"""An endpoint that is set wrongly: a clear line, everything is kept, and goes out once it is mended."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e import programs
from tests.e2e.collector import Certificates, Collector
from tests.stored import spans

SPANS = """
from opentelemetry import trace
for _ in range(20):
    trace.get_tracer("t").start_span("work").end()
"""
OTLP = "OTEL_EXPORTER_OTLP_"
TRACES_ONLY = {"OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    collector = Collector(tmp_path_factory.mktemp("plain"))
    with collector.running():
        yield collector


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("secure")
    collector = Collector(folder, Certificates(folder / "tls"))
    with collector.running():
        yield collector


def send(home, **variables):
    """One program that waits at its end until all is sent, or nothing can be."""
    done = programs.run(SPANS, home, OTEL_PERF_STORE_EXIT="20s", OTEL_SERVICE_NAME="shop", **TRACES_ONLY, **variables)
    assert done.status == 0
    return done.err.splitlines()


def without(variables, *parts):
    return {name: value for name, value in variables.items() if not name.endswith(parts)}


def of_another_authority(variables, folder):
    return variables | {f"{OTLP}CERTIFICATE": str(Certificates(folder / "other").authority)}


CASES = {
    "a path too many": (False, lambda right, _: right | {f"{OTLP}ENDPOINT": f"{right[f'{OTLP}ENDPOINT']}/nowhere"}, ["404", "see otel-perf doctor"]),
    "a signal's endpoint without its path": (False, lambda right, _: right | {f"{OTLP}TRACES_ENDPOINT": right[f"{OTLP}ENDPOINT"]}, ["404", "see otel-perf doctor"]),
    "nobody at the port": (False, lambda right, _: right | {f"{OTLP}ENDPOINT": "http://127.0.0.1:1"}, ["Connection refused"]),
    "no such host": (False, lambda right, _: right | {f"{OTLP}ENDPOINT": "http://no-such-host.invalid:4318"}, ["no-such-host.invalid"]),
    "https to a plain port": (False, lambda right, _: right | {f"{OTLP}ENDPOINT": right[f"{OTLP}ENDPOINT"].replace("http:", "https:")}, ["SSL|EOF", "see otel-perf doctor"]),
    "http to a port that wants TLS": (True, lambda right, _: right | {f"{OTLP}ENDPOINT": right[f"{OTLP}ENDPOINT"].replace("https:", "http:")}, ["400 Bad Request|Connection"]),
    "an authority that is not known": (True, lambda right, _: without(right, "OTLP_CERTIFICATE"), ["CERTIFICATE_VERIFY_FAILED", "see otel-perf doctor"]),
    "another authority": (True, of_another_authority, ["CERTIFICATE_VERIFY_FAILED"]),
    "no certificate of ours": (True, lambda right, _: without(right, "CLIENT_CERTIFICATE", "CLIENT_KEY"), ["certificate required|EOF", "see otel-perf doctor"]),
    "no such scheme": (False, lambda right, _: right | {f"{OTLP}ENDPOINT": "ftp://127.0.0.1:4318"}, ["'ftp://127.0.0.1:4318' is no endpoint", "http://host:port"]),
    "no such port": (False, lambda right, _: right | {f"{OTLP}ENDPOINT": "http://127.0.0.1:99999"}, ["'http://127.0.0.1:99999' is no endpoint"]),
    "a certificate that is not there": (True, lambda right, _: right | {f"{OTLP}CERTIFICATE": "/no/such.pem"}, [f"{OTLP}CERTIFICATE='/no/such.pem' cannot be read"]),
    "a client key that does not fit": (True, lambda right, _: right | {f"{OTLP}CLIENT_KEY": right[f"{OTLP}CERTIFICATE"]}, ["SSL", "see otel-perf doctor"]),
}  # fmt: skip


PAIRS = [(case, "http/protobuf") for case in CASES] + [(case, "grpc") for case in CASES if "path" not in case]


def spoiled_and_mended(collector, case, protocol, folder):
    """What a program says at a wrong endpoint, what it made, what the next one says at the right one, what is left."""
    home, right = folder / "home", collector.variables(protocol)
    folder.mkdir(exist_ok=True)
    lines = send(home, **CASES[case][1](right, folder))
    made = {(span.trace_id, span.span_id) for span in spans(home)}
    return lines, made, send(home, **right), spans(home)


@pytest.fixture(scope="module")
def ended(plain, secure, tmp_path_factory):
    """All of them, two at a time: each waits for most of its time."""
    folder = tmp_path_factory.mktemp("endpoints")
    with ThreadPoolExecutor(2) as pool:
        yield {
            (case, protocol): pool.submit(
                spoiled_and_mended, secure if CASES[case][0] else plain, case, protocol, folder / str(number)
            )
            for number, (case, protocol) in enumerate(PAIRS)
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("case", "protocol"), PAIRS)
def test_a_wrong_endpoint_is_one_line_and_what_was_made_goes_out_when_it_is_mended(
    case, protocol, plain, secure, ended
):
    lines, made, mended, left = ended[case, protocol].result()
    assert len(lines) == 1, lines
    if protocol == "http/protobuf":
        assert all(re.search(part, lines[0]) for part in CASES[case][2]), lines
    assert len(made) == 20
    assert mended == []
    assert made < set((secure if CASES[case][0] else plain).spans())
    assert left == []


def test_malformed_headers_are_told_without_their_content_and_the_rest_goes_out(plain, home):
    lines = send(home, **plain.variables(), **{f"{OTLP}HEADERS": "api-key=abc,secret-without-name,x=y\nz"})
    assert len(lines) == 2
    assert all(f"{OTLP}HEADERS: entry" in line and "is malformed" in line for line in lines)
    assert "secret" not in "".join(lines)
    assert spans(home) == []


@pytest.mark.parametrize(
    ("case", "remedy"),
    [
        ("a path too many", "correct the path"),
        ("nobody at the port", "start the receiver"),
        ("https to a plain port", "write http:// in OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("an authority that is not known", "set OTEL_EXPORTER_OTLP_CERTIFICATE"),
        ("no such scheme", "correct it"),
    ],
)
def test_doctor_names_what_mends_it(case, remedy, plain, secure, home, tmp_path):
    needs_tls, spoil, parts = CASES[case]
    variables = spoil((secure if needs_tls else plain).variables(), tmp_path)
    command = [str(programs.BIN / "otel-perf"), "doctor"]
    done = subprocess.run(
        command, env=programs.environment(home, **variables), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.search(parts[0], done.stdout)
    assert remedy in done.stdout
