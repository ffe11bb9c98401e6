"""``otel-perf doctor`` on set-ups that are broken: each is named with what mends it, and what mends it does."""

import contextlib
import ctypes
import json
import os
import shlex
import subprocess
import threading
import time
import urllib.request
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from tests.e2e import programs
from tests.e2e.collector import Certificates, Collector
from tests.e2e.support import PATIENCE, Running, environment, free_port, wait_for
from tests.stored import spans
from tools import environments

OTLP = "OTEL_EXPORTER_OTLP_"
_DROP, _OVERRIDE, _SEARCH = 24, 1, 2  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@pytest.fixture(scope="module")
def around(tmp_path_factory):
    """What the set-ups need: Collectors, a receiver whose clock is an hour ahead, other environments."""
    folder = tmp_path_factory.mktemp("around")
    (folder / "plain").mkdir()
    (folder / "secure").mkdir()
    plain = Collector(folder / "plain")
    secure = Collector(folder / "secure", Certificates(folder / "tls"))
    ahead = ThreadingHTTPServer(("127.0.0.1", 0), Ahead)
    ahead.daemon_threads = True
    thread = threading.Thread(target=ahead.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        with plain.running(), secure.running():
            yield SimpleNamespace(plain=plain, secure=secure, ahead=f"http://127.0.0.1:{ahead.server_address[1]}")
    finally:
        ahead.shutdown()
        thread.join()
        ahead.server_close()


class Ahead(BaseHTTPRequestHandler):
    """Takes what is sent, at a time that is an hour from now."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_GET(self):
        self.send_response(405)
        self.send_header("content-length", "0")
        self.end_headers()

    def date_time_string(self, timestamp=None):
        return formatdate(time.time() + 3600, usegmt=True)

    def log_message(self, *_):
        pass


def endpoint(url, protocol="http/protobuf"):
    return {f"{OTLP}ENDPOINT": url, f"{OTLP}PROTOCOL": protocol}


# The variables that break it and those that the remedy sets, given what is around; what is said; what mends it.
SETUPS = {
    "missing exporter": (
        lambda _: ({"OTEL_METRICS_EXPORTER": "prometheus"}, {"OTEL_METRICS_EXPORTER": "otlp"}),
        "OTEL_METRICS_EXPORTER names 'prometheus', which is not installed",
        "pip install opentelemetry-exporter-prometheus",
    ),
    "wrong endpoint": (
        lambda around: (endpoint(f"{around.plain.url()}/nowhere"), endpoint(around.plain.url())),
        "404",
        "correct the path: OTEL_EXPORTER_OTLP_ENDPOINT gets /v1/traces and so on appended",
    ),
    "refused port": (
        lambda around: (endpoint("http://127.0.0.1:1"), endpoint(around.plain.url())),
        "refused",
        "start the receiver, or correct OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    "TLS to a plain port": (
        lambda around: (endpoint(around.plain.url().replace("http:", "https:")), endpoint(around.plain.url())),
        "SSL",
        "write http:// in OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    "no TLS to a port that wants it": (
        lambda around: (
            around.secure.variables() | endpoint(around.secure.url().replace("https:", "http:")),
            around.secure.variables(),
        ),
        "HTTP request to an HTTPS server",
        "write https:// in OTEL_EXPORTER_OTLP_ENDPOINT",
    ),
    "an authority that is not known": (
        lambda around: (endpoint(around.secure.url()), around.secure.variables()),
        "CERTIFICATE_VERIFY_FAILED",
        "set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of the authority",
    ),
    "clock off": (
        lambda around: (endpoint(around.ahead), endpoint(around.plain.url())),
        "s behind that of http://127.0.0.1:",
        "timedatectl set-ntp true",
    ),
    "gRPC to a port for HTTP": (
        lambda around: (endpoint(around.plain.url(), "grpc"), endpoint(around.plain.url())),
        "does not take what is sent",
        "export OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
    ),
    "HTTP to a port for gRPC": (
        lambda around: (endpoint(around.plain.url("grpc")), endpoint(around.plain.url("grpc"), "grpc")),
        "do not take what is sent",
        "export OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
    ),
    "sampler 0": (
        lambda _: ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, {}),
        "parentbased_traceidratio 0 records no trace",
        "unset OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG",
    ),
    "sampler misspelt": (
        lambda _: (
            {"OTEL_TRACES_SAMPLER": "parentbased_traceid_ratio"},
            {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
        ),
        "OTEL_TRACES_SAMPLER=parentbased_traceid_ratio is no sampler that is installed; allowed: always_off, ",
        "export OTEL_TRACES_SAMPLER=parentbased_traceidratio",
    ),
    "distro name misspelt": (
        lambda _: ({"OTEL_PYTHON_DISTRO": "otel-perf"}, {"OTEL_PYTHON_DISTRO": "otel_perf"}),
        "OTEL_PYTHON_DISTRO=otel-perf names no installed distro",
        "export OTEL_PYTHON_DISTRO=otel_perf",
    ),
}


def doctor(home, variables, folder=programs.BIN, preexec=None):
    """The command's exit status, and what it found: problem and remedy."""
    done = subprocess.run(
        [str(folder / "otel-perf"), "doctor", "--json"], env=programs.environment(home, **variables),
        capture_output=True, text=True, check=False, timeout=60, preexec_fn=preexec,
    )  # fmt: skip
    assert done.returncode in {0, 1}, done.stderr
    found = json.loads(done.stdout)
    return done.returncode, [(one["problem"], one["remedy"]) for one in found["findings"]], found["hints"]


def shown(home, variables):
    """The command's exit status, and what a person reads."""
    done = subprocess.run(
        [str(programs.BIN / "otel-perf"), "doctor"], env=programs.environment(home, **variables), capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    return done.returncode, done.stdout


def named(found, problem, remedy):
    return any(problem in said and remedy in mends for said, mends in found)


@pytest.fixture(scope="module")
def answers():
    """What the doctor says of variables that are right."""
    return {}


@pytest.mark.parametrize("setup", SETUPS)
def test_it_is_named_with_what_mends_it_and_that_does(setup, around, home, answers):
    variables, problem, remedy = SETUPS[setup]
    broken, mended = variables(around)
    status, found, _ = doctor(home, broken)
    assert (status, named(found, problem, remedy)) == (1, True), found
    asked = tuple(sorted(mended.items()))  # several are mended by the same
    answers[asked] = answers.get(asked) or doctor(home, mended)[:2]
    assert answers[asked] == (0, [])


def test_certificates_are_looked_at_where_it_is_encrypted_alone(around, home):
    """As upstream's exporters do; and the clock is compared with that of a receiver that only they reach."""
    status, text = shown(home, around.secure.variables())
    assert (status, f"agrees with that of {around.secure.url()}" in text) == (0, True), text
    plain = endpoint(around.plain.url())
    status, found, hints = doctor(home, plain | {f"{OTLP}CERTIFICATE": "/no/such.pem"})
    assert (status, found) == (0, [])
    assert any(f"{OTLP}CERTIFICATE: without effect" in hint["problem"] for hint in hints)


def test_a_key_without_its_certificate_over_grpc(around, home):
    """gRPC's core would end the process: the doctor, and the program."""
    right = around.secure.variables() | endpoint(around.secure.url("grpc"), "grpc")
    half = {name: value for name, value in right.items() if not name.endswith("CLIENT_CERTIFICATE")}
    status, found, _ = doctor(home, half)
    assert (status, named(found, f"{OTLP}CLIENT_KEY is without effect", "correct it")) == (1, True), found
    assert doctor(home, right)[:2] == (0, [])


def without_rights():
    """Root writes wherever it likes: not without this capability, which an executed program does not get back."""
    if os.geteuid() == 0:
        for capability in (_OVERRIDE, _SEARCH):
            if ctypes.CDLL(None).prctl(_DROP, capability, 0, 0, 0):
                os._exit(77)


def test_no_write_permission(tmp_path):
    place = tmp_path / "read-only"
    place.mkdir(mode=0o555)
    status, found, _ = doctor(place / "home", {}, preexec=without_rights)
    remedy = "export OTEL_PERF_HOME=/a/folder"
    assert (status, named(found, f"{place / 'home'} cannot be written", remedy)) == (1, True), found
    assert doctor(tmp_path / "home", {}, preexec=without_rights)[:2] == (0, [])


def test_two_distributions(home):
    folder = environments.ensure("two-distros") / "bin"
    status, found, _ = doctor(home, {}, folder)
    assert (status, named(found, "2 distros are installed", "export OTEL_PYTHON_DISTRO=otel_perf")) == (1, True), found
    assert named(found, "2 configurators are installed", "export OTEL_PYTHON_CONFIGURATOR=otel_perf")
    ours = {"OTEL_PYTHON_DISTRO": "otel_perf", "OTEL_PYTHON_CONFIGURATOR": "otel_perf"}
    assert doctor(home, ours, folder)[:2] == (0, [])


@pytest.fixture(scope="module")
def broken():
    """An environment with click 8.0, which its instrumentor does not know, and uWSGI."""
    return environments.ensure("broken")


def test_an_instrumentor_for_another_version_of_its_library(broken, home):
    status, found, _ = doctor(home, {}, broken / "bin")
    assert status == 1
    ((problem, remedy),) = found
    assert "opentelemetry-instrumentation-click" in problem
    assert problem.endswith("and 8.0.4 is installed: it does not instrument it")
    assert remedy.startswith("pip install 'click")


APP = """
from opentelemetry import trace

def application(environ, start_response):
    with trace.get_tracer("t").start_as_current_span("answered"):
        start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


def uwsgi(broken, home, folder, **variables):
    """uWSGI with one worker, under the distribution."""
    port = free_port()
    command = [str(broken / "bin" / name) for name in ("opentelemetry-instrument", "python")]
    command += ["-c", "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])", "--http-socket", f"127.0.0.1:{port}"]
    command += ["--master", "--processes", "1", "--wsgi-file", "app.py", "--die-on-term"]
    (folder / "app.py").write_text(APP)
    server = Running(command, environment(broken, home) | variables, folder, folder / f"{home.name}.log")
    return server, port


def test_a_server_that_forks_without_making_threads_again(broken, home, tmp_path):
    """GIVEN uWSGI as it comes WHEN it is asked THEN its worker stores no span, and the doctor has said so."""
    *_, hints = doctor(home, {}, broken / "bin")
    (hint,) = [one for one in hints if "pyuwsgi" in one["problem"]]
    assert "uwsgi --enable-threads --py-call-uwsgi-fork-hooks" in hint["remedy"]
    server, port = uwsgi(broken, tmp_path / "as-it-comes", tmp_path)
    with server:
        server.wait_until_listening(port)
        # It may not even answer: CPython waits for a thread of before the fork to take the interpreter.
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=3).close()
    assert "spawned uWSGI worker 1" in server.output()
    assert spans(tmp_path / "as-it-comes") == []


def test_what_mends_a_server_that_forks_does(broken, home, tmp_path):
    """The variables that the doctor says, not ours: the worker's own thread stores the span while it runs."""
    *_, hints = doctor(home, {}, broken / "bin")
    (remedy,) = [one["remedy"] for one in hints if "pyuwsgi" in one["problem"]]
    set_right = dict(word.split("=") for word in remedy.partition("export ")[2].split())
    assert not any("pyuwsgi" in one["problem"] for one in doctor(home, set_right, broken / "bin")[2])
    server, port = uwsgi(broken, home, tmp_path, **set_right)
    with server:
        server.wait_until_listening(port)
        urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=PATIENCE).close()
        # Before it is stopped: uWSGI ends a worker that it finds busy without Python's exit functions.
        wait_for(lambda: [span.name for span in spans(home)] == ["answered"], what="the span is stored")
        assert server.stop() == 0


def test_packages_that_are_older_than_what_is_needed(home, tmp_path):
    """Each by its name, with one line for all; that line mends it, and other commands say the same."""
    old = environments.ensure("old", constraints=None) / "bin"
    status, found, _ = doctor(home, {}, old)
    assert status == 1
    assert named(found, "otel-perf 0.1.0 needs opentelemetry-api<2,>=1.45, and 1.30.0 is installed", "pip install")
    assert named(found, "otel-perf 0.1.0 needs pydantic<3,>=2.9, and 1.10.26 is installed", "'pydantic<3,>=2.9'")
    (remedy,) = {mends for _, mends in found}
    install, packages = remedy.split()[:3], shlex.split(remedy)[3:]
    assert install == ["pip", "install", "--upgrade"]
    newer = str(tmp_path / "newer")
    place = [str(environments.uv()), "pip", "install", "-q", "--target", newer, "--python", str(old / "python")]
    subprocess.run([*place, "-c", str(environments.CONSTRAINTS), *packages], check=True, timeout=120)
    environ = programs.environment(home) | {"PYTHONPATH": newer}
    mended = subprocess.run(
        [str(old / "otel-perf"), "doctor"], env=environ, capture_output=True, text=True, check=False
    )
    assert mended.returncode == 0, mended.stdout + mended.stderr
