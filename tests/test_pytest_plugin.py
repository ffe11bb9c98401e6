"""``pytest --otel-perf`` in a project of its own: findings per test, and tests that fail on them."""

import contextlib
import subprocess
import sys

import pytest

from otel_perf.store.database import StoreReader
from tests.e2e import programs
from tests.signals import nats_boards, nats_server
from tests.store.receiver import Receiver

TESTS = """
import time
import pytest
from opentelemetry import trace

@pytest.fixture
def prepared():
    time.sleep(0.3)

def test_sleeps():
    time.sleep(0.4)

def test_is_quick(prepared):
    pass

def test_fails_by_itself():
    time.sleep(0.2)
    assert 1 == 2

def test_queries():
    for _ in range(8):
        attributes = {"db.system.name": "sqlite", "db.query.text": "SELECT 1"}
        with trace.get_tracer("t").start_as_current_span("SELECT", kind=trace.SpanKind.CLIENT, attributes=attributes):
            time.sleep(0.02)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "test_it.py").write_text(TESTS)
    return folder


def run(project, *options, start=(), **variables):
    command = [*start, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    environ = programs.environment(project / "home")
    del environ["OTEL_PERF_HOME"], environ["OTEL_PERF_STORE_PROBE"]
    environ |= variables
    return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.alone  # it judges what is slow
@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_findings_are_told_by_test_and_the_outcomes_stay(workers, project):
    done = run(project, "--otel-perf", *workers)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 3 passed" in done.stdout
    _, _, summary = done.stdout.partition("otel-perf: bottlenecks")
    assert "test_it.py::test_sleeps: self_time at test_it.py:11, would save" in summary
    assert "test_it.py::test_queries: n_plus_one at test_it.py:" in summary
    assert "test_is_quick" not in summary
    assert not (project / ".otel-perf").exists()


@pytest.mark.alone
def test_a_test_fails_on_the_kinds_that_are_named(project):
    done = run(project, "--otel-perf-fail", "n_plus_one", "-k", "sleeps or queries")
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "n_plus_one: test_it.py::test_queries ran SELECT" in done.stdout
    assert "FAILED test_it.py::test_queries" in done.stdout


@pytest.mark.alone
def test_what_costs_less_than_is_asked_for_fails_nothing(project):
    done = run(project, "--otel-perf-fail", "all", "--otel-perf-over", "10s", "-k", "sleeps or queries")
    assert "2 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        (("--otel-perf-fail", "slowness"), "no kind slowness"),
        (("--otel-perf", "--otel-perf-over", "x"), "takes a time"),
        (("--otel-perf-fail", "slow_io"), "slow_io is not looked for; see OTEL_PERF_BOTTLENECKS_SLOW_IO_ENABLED"),
    ],
)
def test_wrong_options_are_wrong_usage(option, complaint, project):
    done = run(project, *option, OTEL_PERF_BOTTLENECKS_SLOW_IO_ENABLED="off")
    assert done.returncode == 4
    assert complaint in done.stderr


def test_without_the_option_nothing_of_ours_is_started(project):
    (project / "test_it.py").write_text(
        TESTS + "\n\ndef test_modules():\n    import sys\n    assert 'otel_perf.pipeline' not in sys.modules\n"
    )
    done = run(project, "-q", "-k", "quick or modules")
    assert "2 passed" in done.stdout
    assert "otel-perf" not in done.stdout


OTHERS = """
import os
import time
import pytest
from opentelemetry import trace

@pytest.fixture
def own(monkeypatch):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter

def test_has_a_provider_of_its_own(own):
    trace.get_tracer("t").start_span("one").end()
    (span,) = own.get_finished_spans()
    assert span.parent is None

def test_has_a_home_of_its_own(monkeypatch):
    monkeypatch.setenv("OTEL_PERF_HOME", "elsewhere")
    time.sleep(0.4)
"""
# What a developer or CI has in the environment for the app itself.
APPS = {"OTEL_TRACES_EXPORTER": "otlp,console", "OTEL_LOGS_EXPORTER": "none", "OTEL_TRACES_SAMPLER": "always_off"}


@pytest.fixture
def others(tmp_path):
    (tmp_path / "test_others.py").write_text(OTHERS)
    (tmp_path / "tmp").mkdir()
    return tmp_path


@pytest.fixture
def receiver():
    with Receiver().running() as running:
        yield running


def aimed_at(receiver, project):
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{receiver.url}/v1/logs",
        "OTEL_PERF_HOME": str(project / "home"), "TMPDIR": str(project / "tmp"), "OTEL_PERF_STORE_EXIT": "10s",
    }  # fmt: skip


def test_what_is_sent_and_kept_of_the_app_is_not_of_its_tests(others, receiver):
    done = run(others, "--otel-perf", "-n", "2", **aimed_at(receiver, others), **APPS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_has_a_home_of_its_own: self_time at test_others.py:" in done.stdout
    assert "not looked at, 1 of 2 tests: they have a tracer provider of their own" in done.stdout
    assert receiver.seen == []
    assert not (others / "home").exists()
    assert list((others / "tmp").glob("otel-perf-*")) == []


EMITS = """
import otel_perf as perf

def test_emits():
    perf.signals.emit("CACHE_WARM")
    perf.signals.wait_sync("CACHE_WARM", timeout=10)
"""
PRESSED = "import time\n\ndef test_lasts():\n    time.sleep(4)\n"  # memory is looked at each second


@pytest.mark.parametrize(("options", "told"), [((), False), (("--otel-perf-send",), True)])
def test_no_webhook_of_the_app_is_told_of_its_tests(options, told, tmp_path, receiver):
    """GIVEN a webhook for memory that is short WHEN it is, in a test THEN whoever is called out by it sleeps on."""
    (tmp_path / "test_pressed.py").write_text(PRESSED)
    variables = {"OTEL_PERF_MEMORY_WEBHOOK": f"{receiver.url}/hook", "OTEL_PERF_MEMORY_LIMIT": "40MB"}
    done = run(tmp_path, "--otel-perf", *options, OTEL_PERF_STORE_PROBE="off", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("/hook" in [path for path, *_ in receiver.seen]) is told


@pytest.mark.parametrize(("options", "told"), [((), False), (("--otel-perf-send",), True)])
def test_nobody_who_waits_for_the_app_takes_its_tests_for_it(options, told, tmp_path):
    """GIVEN a team's board of signals WHEN a test emits THEN it does not stand there."""
    (tmp_path / "test_one.py").write_text(EMITS)
    with nats_server.running(tmp_path) as server:
        done = run(tmp_path, "--otel-perf", *options, OTEL_PERF_SIGNALS_URL=server.url, OTEL_PERF_STORE_PROBE="off")
        assert done.returncode == 0, done.stdout + done.stderr
        with contextlib.closing(nats_boards.opened(server.url)) as board:
            assert ("CACHE_WARM" in {signal.name for signal in board.since(0)}) is told


def test_it_is_sent_and_kept_where_that_is_asked_for(others, receiver):
    options = ("--otel-perf-send", "--otel-perf-home", "kept", "--otel-perf-fail", "n_plus_one")
    done = run(others, *options, **aimed_at(receiver, others))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_has_a_home_of_its_own: self_time at test_others.py:" in done.stdout
    assert b"test_has_a_home_of_its_own" in b"".join(body for path, _, body in receiver.seen if path == "/v1/traces")
    store = StoreReader(others / "kept")
    try:
        assert any(b"test_has_a_home_of_its_own" in batch.body for batch in store.batches(["traces"]))
    finally:
        store.close()
    assert not (others / "home").exists()


AGAIN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    for _ in range(2):
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            item.ihook.pytest_runtest_logreport(report=report)
    return True
"""


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_test_that_is_run_again_is_told_once(workers, others):
    """GIVEN a plugin that runs tests again, as those for flaky ones do WHEN it ends THEN the last run counts."""
    (others / "conftest.py").write_text(AGAIN)
    done = run(others, "--otel-perf", "-n", workers, TMPDIR=str(others / "tmp"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("test_has_a_home_of_its_own: self_time at test_others.py:") == 1
    assert "not looked at, 1 of 2 tests: they have a tracer provider of their own" in done.stdout


BEFORE = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
"""
# Options, variables, a conftest, and why no test is looked at.
BLIND = {
    "the SDK": (("-n", "1"), {"OTEL_SDK_DISABLED": "true"}, "", "OTEL_SDK_DISABLED=true"),
    "all of it": ((), {"OTEL_PERF_ENABLED": "off"}, "", "OTEL_PERF_ENABLED=off"),
    "the feature": ((), {"OTEL_PERF_BOTTLENECKS": "off"}, "", "bottlenecks is not on (off by OTEL_PERF_BOTTLENECKS)"),
    "a part": ((), {"OTEL_PERF_BOTTLENECKS": "10%"}, "", "bottlenecks is on for 10% only (OTEL_PERF_BOTTLENECKS)"),
    "the store": ((), {"OTEL_PERF_STORE": "off"}, "", "store is not on (off by OTEL_PERF_STORE)"),
    "no start": (
        (),
        {},
        "import sys\nsys.modules['otel_perf.pipeline'] = None",
        "could not start: ModuleNotFoundError",
    ),
    "another SDK": ((), {}, BEFORE, "opentelemetry.sdk.trace.TracerProvider was set up before"),
}


@pytest.mark.parametrize("blind", BLIND)
def test_who_does_not_look_says_why_and_lets_nothing_pass(blind, tmp_path):
    options, variables, conftest, why = BLIND[blind]
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text("def test_passes():\n    pass\n")
    done = run(tmp_path, "--otel-perf-fail", "all", *options, **variables)
    header, _, summary = done.stdout.partition("otel-perf: bottlenecks")
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert options or "otel-perf: no bottleneck is looked for: " in header
    assert "not looked at, 1 of 1 tests: " in summary
    assert why in summary
    assert "the run fails: --otel-perf-fail cannot tell" in summary
    assert done.returncode == 1


def test_who_asks_only_to_be_told_is_told_why_not(tmp_path):
    (tmp_path / "test_it.py").write_text("import otel_perf\ndef test_stops():\n    otel_perf.shutdown()\n")
    done = run(tmp_path, "-q", "--otel-perf")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not looked at, 1 of 1 tests: otel-perf was shut down by a test" in done.stdout
    assert "none" not in done.stdout


def test_with_the_distribution_running_already_it_does_not_start(others, receiver):
    """Its store and its receiver are not the tests' own."""
    instrument, aimed = [str(programs.BIN / "opentelemetry-instrument")], aimed_at(receiver, others)
    done = run(others, "--otel-perf", start=instrument, **aimed)
    assert done.returncode == 4
    assert "otel-perf runs already" in done.stderr
    done = run(others, "--otel-perf", "--otel-perf-send", start=instrument, **aimed)
    assert done.returncode == 4
    assert "export OTEL_PERF_STORE_KEEP=on" in done.stderr
    done = run(others, "--otel-perf", "--otel-perf-send", start=instrument, **aimed, OTEL_PERF_STORE_KEEP="on")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_has_a_home_of_its_own: self_time at test_others.py:" in done.stdout


ASYNC = """
import asyncio
import unittest
import pytest
from opentelemetry import trace

async def queries():
    for _ in range(8):
        attributes = {"db.system.name": "sqlite", "db.query.text": "SELECT 1"}
        with trace.get_tracer("t").start_as_current_span("SELECT", kind=trace.SpanKind.CLIENT, attributes=attributes):
            await asyncio.sleep(0.02)

@pytest.fixture
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def connection():
    yield "connected"

@pytest.mark.anyio
async def test_of_anyio(connection):
    assert connection == "connected"
    await queries()

class TestOfAnyio:
    @pytest.mark.anyio
    async def test_it(self, connection):
        await queries()

class OfUnittest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.connection = "connected"

    async def test_it(self):
        assert self.connection == "connected"
        await queries()
"""


@pytest.mark.alone  # calls of a busy machine are too far apart
def test_coroutines_are_looked_at_whoever_began_their_task(tmp_path):
    """GIVEN tests that an async fixture, or their case, made a task or a context for THEN what is slow in them fails them."""
    (tmp_path / "test_it.py").write_text(ASYNC)
    done = run(tmp_path, "--otel-perf-fail=n_plus_one")
    assert done.returncode == 1
    assert "3 failed" in done.stdout
    assert done.stdout.count("ran SELECT ? 8 times") >= 3, done.stdout


PLAIN = """
import sys
import otel_perf.signals.hub

def test_ours_are_no_tests():
    for name, module in list(sys.modules.items()):
        if name.startswith("otel_perf.") and name != "otel_perf.pytest_plugin":
            assert "Rewrit" not in type(module.__loader__).__name__, name
"""


def test_our_modules_are_imported_as_without_pytest(tmp_path):
    """GIVEN a plugin, whose package pytest parses THEN ours is not: a thread of ours would parse beside the session."""
    (tmp_path / "test_it.py").write_text(PLAIN)
    done = run(tmp_path, "--otel-perf")
    assert done.returncode == 0, done.stdout + done.stderr
