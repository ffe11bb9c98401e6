"""Fixtures that several tests share."""

import os
import sys
import threading
from pathlib import Path

import pytest

from otel_perf import stepping
from otel_perf.bottlenecks import analyst, watchdog
from otel_perf.core import guard, threads
from otel_perf.health import present, runner, server
from otel_perf.memory import leaks
from otel_perf.store import drain, writer
from tests import log_lines

pytest.register_assert_rewrite("tests.signals.contract")
pytest_plugins = ["otel_perf.testing"]


def _measured(function, arguments):
    """Start a thread that coverage sees: its tracer is given to threads of ``threading`` only, ours are bare ones."""

    def run(*given):
        sys.settrace(threading.gettrace())
        function(*given)

    return threads.start_new_thread(run, arguments)


writer.start_new_thread = drain.start_new_thread = _measured
present.start_new_thread = runner.start_new_thread = server.start_new_thread = _measured
analyst.start_new_thread = watchdog.start_new_thread = leaks.start_new_thread = stepping.start_new_thread = _measured

log_lines.watch()


@pytest.fixture(autouse=True)
def _lines_are_by_the_schema():
    """Every JSON log line that a test makes."""
    yield
    failed, log_lines.failed[:] = list(log_lines.failed), []
    assert failed == []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """What was captured goes to another process as UTF-8, which has no lone surrogates."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "replace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch, tmp_path):
    """No variable of the machine's, no store in the working folder, no OpenFeature unless the test uses it."""
    monkeypatch.delitem(sys.modules, "openfeature.api", raising=False)
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_PERF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OTEL_PERF_STORE_PROBE", "off")  # what listens on the machine is none of the tests' business


@pytest.fixture
def absorbing():
    """Internal errors are absorbed, as in production; most tests raise them."""
    guard.strict(False)
    yield
    guard.strict(True)


@pytest.fixture(autouse=True)
def _strict():
    guard.strict(True)
    yield
    guard.strict(False)


@pytest.fixture
def home(tmp_path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def otel_globals(monkeypatch):
    """OpenTelemetry's globals as in a fresh process."""
    from opentelemetry import trace
    from opentelemetry._logs import _internal as logs_api
    from opentelemetry.metrics import _internal as metrics_api
    from opentelemetry.util._once import Once

    for module, name in ((trace, "TRACER"), (metrics_api, "METER"), (logs_api, "LOGGER")):
        monkeypatch.setattr(module, f"_{name}_PROVIDER", None)
        monkeypatch.setattr(module, f"_{name}_PROVIDER_SET_ONCE", Once())


@pytest.fixture
def start(otel_globals, monkeypatch):
    """Start a pipeline with these variables; it is shut down afterwards."""
    from otel_perf.pipeline import Pipeline

    started = []

    def start(**environ):
        # The heap of the tests is large: a full collection may well take 50 ms, and be told. What is logged is looked
        # at as a whole by many tests, so that those of the summary alone ask for one.
        usual = {"OTEL_SERVICE_NAME": "shop", "OTEL_PERF_GC_TUNING_PAUSE": "1h", "OTEL_PERF_LOGS_SUMMARY": "0"}
        for name, value in {**usual, **environ}.items():
            monkeypatch.setenv(name, value)
        pipeline = Pipeline()
        started.append(pipeline)
        pipeline.start()
        return pipeline

    yield start
    for pipeline in reversed(started):
        pipeline.shutdown()
