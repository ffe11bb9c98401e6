"""Starting: wrong values, switches, a second distribution, a configuration file, the greeting."""

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.e2e import programs
from tests.e2e.support import wait_for
from tests.stored import lines, logs, points, spans
from tools import environments

SPAN = "from opentelemetry import trace\ntrace.get_tracer('t').start_span('x').end()\nprint('app')"


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("OTEL_PERF_STORE_LIMIT", "12 parsecs", ["is not a size", "MB", "using 512000000"]),
        ("OTEL_PERF_STORE_BATCH", "0", ["is out of range", "from 1 to 65536", "using 512"]),
        ("OTEL_PERF_STORE_DELAY", "soon", ["is not a duration", "250ms", "using 1.0"]),
        ("OTEL_PERF_LOGS", "perhaps", ["is not on, off", "25%", "using the default"]),
        ("OTEL_PERF_ENABLED", "perhaps", ["is not on, off", "25%", "using the default"]),
        ("OTEL_PERF_FLAGS_FILE", "/no/such/file", ["cannot be read", "flagd JSON", "using no change"]),
        ("OTEL_TRACES_SAMPLER", "no-such", ["is not installed", "always_on", "using parentbased_always_on"]),
        ("OTEL_PYTHON_ID_GENERATOR", "no-such", ["is not installed", "random", "using random"]),
        ("OTEL_PYTHON_TRACER_CONFIGURATOR", "no-such", ["is not installed", "none installed", "using none"]),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "many", ["cannot be used", "whole number", "using 2048"]),
    ],
)
def test_a_wrong_value_is_one_line_and_the_app_starts(home, name, value, parts):
    done = programs.run(SPAN, home, **{name: value})
    (line,) = done.err.splitlines()
    for part in (name, repr(value), *parts):
        assert part in line
    assert (done.status, done.out) == (0, "app\n")
    assert len(spans(home)) == 1


def test_a_wrong_sampler_argument_is_one_line(home):
    done = programs.run(SPAN, home, OTEL_TRACES_SAMPLER="traceidratio", OTEL_TRACES_SAMPLER_ARG="7")
    assert done.err.strip() == "otel-perf: OTEL_TRACES_SAMPLER_ARG='7' is not a ratio; allowed: 0.0 to 1.0; using 1.0"
    assert len(spans(home)) == 1


def test_an_unknown_exporter_is_one_line_and_the_others_go_on(home):
    done = programs.run(SPAN, home, OTEL_TRACES_EXPORTER="no-such,otlp,console", OTEL_METRICS_EXPORTER="none")
    (line,) = done.err.splitlines()
    assert "OTEL_TRACES_EXPORTER='no-such' is not installed; allowed: console" in line
    assert '"name": "x"' in done.out
    assert len(spans(home)) == 1


@pytest.mark.parametrize(
    "variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_PERF_ENABLED": "off"}, {"OTEL_PERF_STORE": "off"}]
)
def test_switched_off_nothing_is_stored_or_said(home, variables):
    done = programs.run(SPAN, home, **variables)
    assert (done.status, done.out, done.err) == (0, "app\n", "")
    assert not home.exists()


def test_the_kill_switch_leaves_libraries_alone(home):
    program = "import sqlite3\nprint(type(sqlite3.connect).__name__)"
    assert programs.run(program, home, OTEL_PERF_ENABLED="off").out == "builtin_function_or_method\n"
    assert programs.run(program, home).out == "FunctionWrapper\n"


def test_flags_of_opentelemetry_instrument_set_our_variables(home):
    done = subprocess.run(
        [programs.BIN / "opentelemetry-instrument", "--perf_store", "off", "--perf_store_limit", "1GB", sys.executable, "-c", SPAN],
        env=programs.environment(home), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "app\n"
    assert not home.exists()


def test_an_endpoint_where_nobody_listens_is_one_line(home):
    done = programs.run(SPAN, home, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_PERF_STORE_EXIT="5s")
    (line,) = done.err.splitlines()
    assert "http://127.0.0.1:1/v1/traces does not take what is sent" in line
    assert "Connection refused" in line
    assert (done.status, len(spans(home))) == (0, 1)


def test_a_plain_start_makes_nothing(home):
    """A program that ends at once and makes no telemetry leaves no store behind."""
    assert programs.run("pass", home) == programs.Ended(0, "", "")
    assert not home.exists()


def test_our_own_sqlite_is_not_traced(home):
    """instrumentation-sqlite3 is installed here: it must see the app's statements only."""
    program = "import sqlite3\nsqlite3.connect(':memory:').cursor().execute('select 1')"
    programs.run(program, home)
    assert [span.name for span in spans(home)] == ["select"]


def test_the_greeting_is_one_line_and_only_in_a_terminal(home):
    def greeting():
        read, write = pty.openpty()
        process = subprocess.Popen(
            programs.command(SPAN), env=programs.environment(home), stdout=subprocess.DEVNULL, stderr=write
        )
        os.close(write)
        text = b""
        try:
            while chunk := os.read(read, 4096):
                text += chunk
        except OSError:  # the other side of a terminal ends like this
            pass
        os.close(read)
        assert process.wait(30) == 0
        return text.decode()

    first, second = greeting(), greeting()
    assert first.startswith("otel-perf: on, store ")
    assert first.strip().endswith("otel-perf report")
    assert second == ""


CONFIG = """
file_format: "1.0"
resource:
  attributes: [{name: service.name, value: from-file}]
tracer_provider:
  sampler: {always_on: {}}
  processors: [{simple: {exporter: {console: {}}}}]
meter_provider:
  readers: [{periodic: {interval: 60000, exporter: {console: {}}}}]
logger_provider:
  processors: [{simple: {exporter: {console: {}}}}]
"""


def test_a_configuration_file_works_with_our_processors_added(home, tmp_path):
    path = tmp_path / "otel.yaml"
    path.write_text(CONFIG)
    program = (
        "import logging\nfrom opentelemetry import metrics\nmetrics.get_meter('m').create_counter('made').add(4)\n"
        "logging.getLogger('app').warning('careful')\n" + SPAN
    )
    done = programs.run(program, home, OTEL_CONFIG_FILE=path)
    assert done.status == 0
    assert '"name": "x"' in done.out
    (span,) = spans(home)
    assert span.resource["service.name"] == "from-file"
    assert [entry.body for entry in lines(home)] == ["careful"]
    assert {point.value for point in points(home) if point.name == "made"} == {4}


def test_a_configuration_files_exporters_get_no_secrets(home, tmp_path):
    path = tmp_path / "otel.yaml"
    path.write_text(CONFIG)
    program = "import logging\nlogging.getLogger('app').warning('password=hunter2Zq', extra={'token': 'hunter2Zq'})"
    done = programs.run(program, home, OTEL_CONFIG_FILE=path)
    assert "password=" in done.out
    assert "hunter2Zq" not in done.out
    assert "hunter2Zq" not in str(lines(home))


@pytest.mark.parametrize(
    "content",
    [
        "file_format: '1.0'\ntracer_provider: {processors: [{simple: {exporter: {console: {}}}}]}",
        "file_format: '1.0'",
    ],
)
def test_a_configuration_file_may_leave_providers_out(home, tmp_path, content):
    path = tmp_path / "otel.yaml"
    path.write_text(content)
    done = programs.run(SPAN, home, OTEL_CONFIG_FILE=path)
    assert (done.status, done.err) == (0, "")
    assert "app\n" in done.out


@pytest.mark.parametrize("name", ["missing.yaml", "broken.yaml"])
def test_a_configuration_file_that_cannot_be_used_is_one_line(home, tmp_path, name):
    (tmp_path / "broken.yaml").write_text("[")
    done = programs.run(SPAN, home, OTEL_CONFIG_FILE=tmp_path / name)
    assert (done.status, done.out) == (0, "app\n")
    (line,) = done.err.splitlines()
    assert line.startswith("otel-perf: OTEL_CONFIG_FILE=")
    assert len(spans(home)) == 1


def test_a_child_may_have_another_distribution(home):
    program = "import os; print(os.environ.get('OTEL_PYTHON_CONFIGURATOR'))"
    assert programs.run(program, home).out == "None\n"


GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent, time
from opentelemetry import trace
gaps, last = [], time.monotonic()
def tick():
    global last
    for _ in range(40):
        gevent.sleep(0.01)
        now = time.monotonic(); gaps.append(now - last); last = now
def work():
    for _ in range(300):
        trace.get_tracer("t").start_span("greenlet").end()
        gevent.sleep(0)
gevent.joinall([gevent.spawn(tick), gevent.spawn(work)])
print(max(gaps) < 2)
"""


def test_under_gevent_nothing_is_blocked_and_nothing_lost(home):
    done = programs.run(GEVENT, home, timeout=30)
    assert (done.status, done.out) == (0, "True\n")
    assert [span.name for span in spans(home)] == ["greenlet"] * 300


def test_setup_by_hand_does_the_same(home):
    program = (
        "import otel_perf as perf, sqlite3\nperf.setup(); perf.setup()\n"
        "sqlite3.connect(':memory:').cursor().execute('select 1')\n" + SPAN + "\nperf.shutdown(); perf.shutdown()"
    )
    done = programs.run(program, home, instrumented=False)
    assert (done.status, done.out, done.err) == (0, "app\n", "")
    assert [span.name for span in spans(home)] == ["select", "x"]


@pytest.fixture(scope="module")
def two():
    """An environment with a second distribution beside ours."""
    return environments.ensure("two-distros") / "bin"


def run_two(two, home, *start, **variables):
    environ = {**programs.environment(home, **variables), "PATH": f"{two}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run([*start, "python", "-c", SPAN], env=environ, capture_output=True, text=True, check=False)


def test_run_chooses_ours_whatever_else_is_installed(two, home):
    done = run_two(two, home, two / "otel-perf", "run", "--no-report")
    assert (done.returncode, done.stdout) == (0, "app\n")
    assert len(spans(home)) == 1


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [
        (
            {"OTEL_PYTHON_DISTRO": "otel_perf", "OTEL_PYTHON_CONFIGURATOR": "configurator"},
            "OTEL_PYTHON_CONFIGURATOR=otel_perf",
        ),
        ({"OTEL_PYTHON_DISTRO": "distro", "OTEL_PYTHON_CONFIGURATOR": "otel_perf"}, "OTEL_PYTHON_DISTRO=otel_perf"),
    ],
)
def test_a_mixture_of_distributions_is_said_with_its_remedy(two, home, variables, remedy):
    none = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    done = run_two(two, home, two / "opentelemetry-instrument", **variables, **none)
    assert (done.returncode, done.stdout) == (0, "app\n")
    assert f"set {remedy}" in done.stderr


def test_doctor_names_the_second_distribution(two, home):
    environ = {**programs.environment(home), "PATH": f"{two}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [two / "otel-perf", "doctor", "--json"], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    findings = json.loads(done.stdout)["findings"]
    assert any("distros are installed (" in finding["problem"] for finding in findings)
    assert any("otel-perf run" in finding["remedy"] for finding in findings)


def test_features_flip_in_a_running_program(home, tmp_path):
    """The flag file is read again while the program runs, without a restart."""
    path = tmp_path / "flags.json"

    def flags(store):
        flag = {"state": "ENABLED", "variants": {"v": store}, "defaultVariant": "v"}
        path.write_text(json.dumps({"flags": {"perf.store": flag}}))

    flags(False)
    program = "import time, sys\nfrom opentelemetry import trace\nwhile True:\n  trace.get_tracer('t').start_span('x').end()\n  time.sleep(0.02)"
    environ = programs.environment(home, OTEL_PERF_FLAGS_FILE=path, OTEL_PERF_STORE_DELAY="20ms")
    process = subprocess.Popen(programs.command(program), env=environ)
    try:
        flags(True)
        wait_for(lambda: spans(home), what="spans after the feature was turned on")
        flags(False)
        wait_for(lambda: any(e.event_name == "feature_flag.evaluation" for e in logs(home)), what="the event")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
