"""What is around the program is seen, and what is wrong with it named with the command that mends it."""

import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from types import SimpleNamespace

import pytest

from otel_perf.cli import surroundings
from otel_perf.cli.diagnosis import Sending


class Distribution:
    def __init__(self, name, version, requires=()):
        self.metadata = {"Name": name}
        self.version = version
        self.requires = list(requires)


@pytest.fixture
def installed(monkeypatch):
    """Puts packages in place of those that are installed."""

    def put(*packages):
        versions = {package.metadata["Name"]: package.version for package in packages}

        def version(name):
            if name not in versions:
                raise surroundings.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(
            surroundings, "metadata",
            SimpleNamespace(
                distributions=lambda: packages, version=version,
                PackageNotFoundError=surroundings.metadata.PackageNotFoundError,
            ),
        )  # fmt: skip

    return put


def found(look, *arguments):
    findings = []
    answer = look(*arguments, findings)
    return answer, [f"{finding.problem} | {finding.remedy}" for finding in findings]


def test_an_instrumentor_for_another_version_of_its_library(installed):
    installed(
        Distribution("opentelemetry-instrumentation-flask", "0.66b1", ["flask>=1.0; extra == 'instruments'"]),
        Distribution("flask", "0.9"),
    )
    _, (line,) = found(surroundings.conflicts)
    assert line == (
        "opentelemetry-instrumentation-flask 0.66b1 needs flask>=1.0, and 0.9 is installed: it does not instrument it"
        " | pip install 'flask>=1.0'"
    )


def test_packages_of_opentelemetry_that_do_not_fit_together(installed):
    installed(
        Distribution("opentelemetry-sdk", "1.45.1", ["opentelemetry-api==1.45.1"]),
        Distribution("opentelemetry-api", "1.44.0", ["nothing-here>=1", "typing-extensions>=4; python_version < '3'"]),
        Distribution("typing-extensions", "1"),
    )
    _, (line,) = found(surroundings.conflicts)
    assert line == (
        "opentelemetry-sdk 1.45.1 needs opentelemetry-api==1.45.1, and 1.44.0 is installed"
        " | pip install --upgrade opentelemetry-sdk 'opentelemetry-api==1.45.1'"
    )


def test_a_server_that_forks_without_telling_python(installed):
    installed(Distribution("uwsgi", "2.0.30"))
    _, (line,) = found(surroundings.servers, {"UWSGI_ENABLE_THREADS": "true"})
    assert "without py-call-osafterfork" in line
    assert "UWSGI_PY_CALL_OSAFTERFORK=true" in line
    both = {"UWSGI_ENABLE_THREADS": "true", "UWSGI_PY_CALL_OSAFTERFORK": "1"}
    assert found(surroundings.servers, both)[1] == []


def test_a_limit_that_is_above_what_there_is(monkeypatch):
    answer, (line,) = found(surroundings.memory_limit, {"OTEL_PERF_MEMORY_LIMIT": "900000GB"})
    assert "without effect" in line
    assert "from" in answer
    answer, lines = found(surroundings.memory_limit, {"OTEL_PERF_MEMORY_LIMIT": "50MB"})
    assert (answer, lines) == ("50.0 MB, from OTEL_PERF_MEMORY_LIMIT", [])


def sending(url):
    return Sending(signal="traces", place=url, protocol="http/protobuf", answer="200 OK", taken=True)


@pytest.fixture
def receiver():
    """A server whose clock is ``ahead`` by so many seconds."""

    class Handler(BaseHTTPRequestHandler):
        ahead = 0.0

        def do_GET(self):
            self.send_response_only(405)
            self.send_header("Date", formatdate(time.time() + self.ahead, usegmt=True))
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield Handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("ahead", "said"), [(-120, "120 s ahead of"), (3600, "3600 s behind")])
def test_a_clock_that_is_off(ahead, said, receiver):
    handler, url = receiver
    handler.ahead = ahead
    answer, (line,) = found(surroundings.clock, [sending(url)], 0)
    assert answer == f"differs from that of {url}"
    number, _, which = said.partition(" s ")
    shown = float(line.partition("the clock is ")[2].split()[0])
    assert shown == pytest.approx(float(number), abs=2)
    assert which in line
    assert "timedatectl set-ntp true" in line


def test_a_clock_that_agrees_and_one_that_nobody_compares(receiver):
    _, url = receiver
    assert found(surroundings.clock, [sending(url)], 0) == (f"agrees with that of {url}", [])
    assert found(surroundings.clock, [], 0) == ("not compared: no receiver over HTTP answers", [])
    assert found(surroundings.clock, [sending("http://127.0.0.1:1")], 0)[1] == []


def test_a_clock_that_went_back():
    _, (line,) = found(surroundings.clock, [], int((time.time() + 3600) * 1e9))
    assert "the clock went back" in line
