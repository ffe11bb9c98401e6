"""``otel-perf doctor`` on set-ups that look well and are not, or the reverse; in process."""

import os
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from opentelemetry import trace

from otel_perf.cli import doctor as command
from otel_perf.cli import receivers, surroundings
from otel_perf.cli.diagnosis import render
from otel_perf.core.errors import MissingExtraError
from otel_perf.core.home import HOME_VARIABLE, STORE_FILE, Home
from otel_perf.store.local import LocalReceiver
from otel_perf.store.outbox import Outbox
from tests.e2e import programs
from tests.e2e.test_doctor import without_rights
from tests.store.receiver import Receiver

PARTIAL = b'{"partialSuccess":{"rejectedSpans":"1","errorMessage":"quota"}}'


@pytest.fixture
def filled(start, home):
    pipeline = start()
    trace.get_tracer("t").start_span("stored").end()
    pipeline.shutdown()
    return home


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
        ("[X509: KEY_VALUES_MISMATCH] key values mismatch (_ssl.c:3926)", "CLIENT_KEY to the key of"),
        ("[SSL] PEM lib (_ssl.c:3926)", "set OTEL_EXPORTER_OTLP_CLIENT_KEY: "),
        ("[X509: NO_CERTIFICATE_OR_CRL_FOUND] no certificate or crl found (_ssl.c:4154)", "certificates in PEM"),
        ("Read timed out.", "raise OTEL_EXPORTER_OTLP_TIMEOUT"),
        ("UNAVAILABLE: … Cannot check peer: missing selected ALPN property.", "that is a port for HTTP"),
    ],
)
def test_an_authority_is_named_only_where_one_is_missing(answer, remedy, monkeypatch):
    """What has expired, or is for another name, no file of authorities mends."""
    said = f"[SSL: CERTIFICATE_VERIFY_FAILED] {answer}" if "verify failed" in answer else answer
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


def diagnosed(tmp_path, home=None, **variables):
    found = command.diagnose(variables, Home(home or {HOME_VARIABLE: str(tmp_path / "home")}))
    return found, [f"{finding.problem} | {finding.remedy}" for finding in found.findings]


@pytest.mark.parametrize("written", ["", "otel_perf "])
@pytest.mark.parametrize("kind", ["distro", "configurator"])
def test_a_name_is_compared_as_it_is_written(kind, written, tmp_path):
    """As upstream does: with an empty configurator, as Compose makes of ${VARIABLE:-}, nothing starts."""
    name = f"OTEL_PYTHON_{kind.upper()}"
    _, (finding,) = diagnosed(tmp_path, **{name: written})
    assert f"{name}={written!r} names no installed {kind}" in finding
    assert finding.endswith(f"| export {name}=otel_perf")
    assert diagnosed(tmp_path, **{name: "otel_perf"})[1] == []


def test_a_distro_that_is_chosen_chooses_its_configurator(tmp_path, monkeypatch):
    """GIVEN a second configurator WHEN our distro is chosen THEN nothing is left to chance."""
    entry_points = command.metadata.entry_points

    def two(**of):
        found = entry_points(**of)
        other = command.metadata.EntryPoint("aws", "aws:Configurator", of["group"])
        return [*found, other] if of["group"] == "opentelemetry_configurator" else found

    monkeypatch.setattr(command.metadata, "entry_points", two)
    assert "2 configurators" in diagnosed(tmp_path)[1][0]
    assert diagnosed(tmp_path, OTEL_PYTHON_DISTRO="otel_perf")[1] == []


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL='http/json' is not supported"),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "api-key: 1"}, "OTEL_EXPORTER_OTLP_HEADERS: entry 1 is malformed"),
        ({"OTEL_CONFIG_FILE": "/no/such.yaml"}, "OTEL_CONFIG_FILE=/no/such.yaml cannot be used"),
    ],
)
def test_what_is_wrong_without_an_endpoint_is_told_as_well(variables, problem, tmp_path):
    _, (finding,) = diagnosed(tmp_path, **variables)
    assert problem in finding


def test_a_file_that_declares_where_it_goes_is_named(tmp_path):
    file = tmp_path / "otel.yaml"
    file.write_text('file_format: "1.0"\n')
    found, findings = diagnosed(tmp_path, OTEL_CONFIG_FILE=str(file))
    assert findings == []
    assert f"as {file} declares" in render(found)
    assert "no endpoint is named" not in render(found)


def test_a_port_for_grpc_without_the_extra_is_a_finding(tmp_path, monkeypatch):
    """GIVEN a receiver that is found and cannot be spoken to THEN the rest of the diagnosis is there all the same."""

    def find(_self):
        raise MissingExtraError("http://localhost:4317 over gRPC", "grpc")

    monkeypatch.setattr(LocalReceiver, "find", find)
    _, (finding,) = diagnosed(tmp_path, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert "needs an extra" in finding
    assert "| pip install 'otel-perf[grpc]'" in finding


@pytest.mark.parametrize("name", ["OTEL_SDK_DISABLED", "OTEL_PERF_ENABLED"])
def test_everything_off_is_worth_knowing(name, tmp_path):
    found, findings = diagnosed(tmp_path, **{name: "true" if name == "OTEL_SDK_DISABLED" else "off"})
    assert findings == []
    assert (f"unset {name}", True) in [(hint.remedy, "everything is off" in hint.problem) for hint in found.hints]


def test_a_small_share_is_not_none(tmp_path):
    variables = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.001", "OTEL_PERF_LOGS": "0.2%"}
    found, findings = diagnosed(tmp_path, **variables)
    assert findings == []
    assert found.sampling == "traceidratio: 0.1% of the traces that begin here"
    assert [one.state for one in found.features if one.name == "logs"] == ["0.2%"]


def test_a_home_of_another_user_that_nobody_chose(tmp_path, monkeypatch):
    """The program does not use it, and says so: so does the doctor."""
    (tmp_path / ".otel-perf").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000_000 - 1)
    _, (finding,) = diagnosed(tmp_path, home={"": ""})
    assert ".otel-perf belongs to another user" in finding
    assert finding.endswith("| export OTEL_PERF_HOME=/a/folder")


def test_a_store_of_another_user(filled, tmp_path, monkeypatch):
    """GIVEN a file that may be read and not written THEN the program stores elsewhere."""
    monkeypatch.setattr("os.access", lambda path, mode: not (str(path).endswith(STORE_FILE) and mode & os.W_OK))
    _, (finding,) = diagnosed(tmp_path, home={HOME_VARIABLE: str(filled)})
    assert f"{filled / STORE_FILE} cannot be written: a temporary folder is used" in finding


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=4_096))
    _, (finding,) = diagnosed(tmp_path)
    assert "is full: 4.1 kB are free" in finding


def test_a_home_that_may_not_be_entered_ends_no_diagnosis(home):
    """Root enters it whatever its mode says: not without these capabilities."""
    home.mkdir(exist_ok=True)
    home.chmod(0o600)
    try:
        done = doctor(home, preexec_fn=without_rights)
    finally:
        home.chmod(0o700)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"{home} cannot be written: a temporary folder is used" in done.stdout


def test_an_instrumentor_for_another_version_is_not_proposed(monkeypatch):
    """Followed word by word, it would be what the doctor calls wrong next."""
    version = command.metadata.version
    there = {"click": "8.0.4", "flask": "3.1.0"}
    monkeypatch.setattr(command, "_has", there.__contains__)
    monkeypatch.setattr(command.metadata, "version", lambda name: there.get(name) or version(name))
    monkeypatch.setattr(command.requirements, "needed_by", lambda name: {"shop"} if name == "click" else set())
    hints = []
    command._instrumentors(hints)
    (remedy,) = [hint.remedy for hint in hints]
    assert "instrumentation-click" not in remedy
    assert "opentelemetry-instrumentation-flask" in remedy


@pytest.mark.parametrize(
    ("uv", "remedy"),
    [("/bin/uv", "uv pip install --python {} 'a>=1'"), (None, "{0} -m ensurepip && {0} -m pip install 'a>=1'")],
)
def test_what_is_installed_is_installed_in_this_environment(uv, remedy, monkeypatch):
    """GIVEN an environment of uv or Poetry, without pip: another one's would be found."""
    here = command.requirements.installed_here
    assert here("pip install 'a>=1'") == "pip install 'a>=1'"
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda _: uv)
    assert here("pip install 'a>=1'") == remedy.format(sys.executable)
    assert here("unset A") == "unset A"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("https//hooks.example.com/services/T0/SECRET", "https//hooks.example.com/…"),
        ("ftp://user:SECRET@alerts/x?SECRET", "ftp://alerts/…"),
        ("hooks.example.com/SECRET", "hooks.example.com/…"),
        ("https:/hooks.example.com/SECRET", "https:/…"),
    ],
)
def test_a_webhook_that_is_misspelt_stays_a_secret(written, shown, tmp_path):
    found, (finding,) = diagnosed(tmp_path, OTEL_PERF_MEMORY_WEBHOOK=written)
    assert f"OTEL_PERF_MEMORY_WEBHOOK={shown!r} is not a URL" in finding
    assert "SECRET" not in found.model_dump_json()


@pytest.mark.parametrize("closed", [1, 2])
@pytest.mark.parametrize("words", [("audit", "verify"), ("export",), ("analyze",)])
def test_a_stream_that_is_closed_changes_no_answer(words, closed, home):
    """``otel-perf audit verify 2>&-`` said 1 of a trail that is whole."""
    program = (
        "import otel_perf; from opentelemetry import trace; trace.get_tracer('t').start_span('stored').end();"
        "otel_perf.audit_event('seen', actor='a', target='b', outcome='ok')"
    )
    assert programs.run(program, home).status == 0
    done = subprocess.run(
        [sys.executable, "-m", "otel_perf", *words], env=programs.environment(home), check=False, timeout=60,
        preexec_fn=lambda: os.close(closed), **{"stderr" if closed == 1 else "stdout": subprocess.PIPE},
    )  # fmt: skip
    assert done.returncode == 0
    assert not done.stderr


def test_every_receivers_clock_is_compared():
    """GIVEN two receivers, of which the first agrees THEN the second is named."""
    places = {"traces": ("http://a:4318/v1/traces", 0.2), "metrics": ("http://b:4318/v1/metrics", -90.0)}
    places["logs"] = ("http://b:4318/v1/logs", -90.0)
    sent = [
        receivers.Sending(signal=signal, place=place, protocol="http/protobuf", answer="", taken=True, ahead=ahead)
        for signal, (place, ahead) in places.items()
    ]
    findings = []
    assert surroundings.clock(sent, 0, findings).startswith("differs from that of http://b:4318/")
    (finding,) = findings
    assert "90.00 s behind that of http://b:4318/" in finding.problem


@pytest.mark.parametrize(
    ("names", "said"),
    [("flask, requsts", "did you mean requests?"), ("*", "unset OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"), ("x", None)],
)
def test_instrumentors_that_are_left_out(names, said):
    hints = []
    surroundings.disabled({"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": names}, ["flask", "requests"], hints)
    assert [hint.remedy for hint in hints] == ([said] if said else [])


def test_what_mends_a_sampler_leaves_nothing_to_mend(tmp_path):
    """Word by word: a sampler that takes a ratio without one would be the next finding."""
    _, (finding,) = diagnosed(tmp_path, OTEL_TRACES_SAMPLER="xray")
    mended = dict(word.split("=") for word in finding.partition("| export ")[2].split())
    assert diagnosed(tmp_path, **mended)[1] == []


def test_the_command_for_what_was_refused_reads_the_home_that_was_asked_about(filled, tmp_path):
    outbox = Outbox(filled / STORE_FILE, fsync=False)
    (batch,) = outbox.next("", "traces", after=0, batches=1, size=1)
    outbox.refuse([batch], "400 Bad Request")
    outbox.close()
    _, (here,) = diagnosed(tmp_path, home={HOME_VARIABLE: str(filled)})
    assert here.endswith("otel-perf export --refused --signal traces")
    away = tmp_path / "a way"
    shutil.copytree(filled, away)
    _, (there,) = diagnosed(tmp_path, home={HOME_VARIABLE: str(away)})
    assert there.endswith(f"otel-perf export --refused --signal traces --home '{away}'")


def test_a_store_that_is_off_is_worth_knowing(tmp_path):
    """It is what is sent from: a test span that arrives says nothing of the program's."""
    found, findings = diagnosed(tmp_path, OTEL_PERF_STORE="off")
    assert findings == []
    assert any("store is off by OTEL_PERF_STORE: nothing is kept" in hint.problem for hint in found.hints)
