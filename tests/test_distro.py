"""What opentelemetry-instrument calls, in process."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from otel_perf import distro, instrumentors
from otel_perf.core.errors import MissingExtraError
from tests.e2e import programs
from tests.e2e.support import free_port


class EntryPoint:
    def __init__(self, name, loaded=None):
        self.name, self.loaded = name, loaded

    def load(self):
        return self.loaded


@pytest.fixture
def calls():
    return []


@pytest.fixture
def running(start):
    return start()


def test_an_instrumentor_is_loaded_plainly(calls, running):
    instrumentors.load(EntryPoint("flask"), running, lambda: calls.append("plainly"))
    instrumentors.load(EntryPoint("logging"), None, lambda: calls.append("no pipeline"))
    assert calls == ["plainly", "no pipeline"]


def test_the_exceptions_instrumentor_is_left_out_while_errors_are_on(calls, start):
    instrumentors.load(EntryPoint("exceptions"), start(), lambda: calls.append("on"))
    assert calls == []


def test_the_logging_instrumentor_is_left_out_while_logs_are_on(calls, start):
    instrumentors.load(EntryPoint("logging"), start(), lambda: calls.append("on"))
    assert calls == []


def test_the_logging_instrumentor_is_loaded_when_logs_are_off(calls, start):
    instrumentors.load(EntryPoint("logging"), start(OTEL_PERF_LOGS="off"), lambda: calls.append("off"))
    assert calls == ["off"]


def test_system_metrics_keep_the_machine_and_leave_the_process_to_us(running):
    from opentelemetry.instrumentation.system_metrics import SystemMetricsInstrumentor

    given = {}

    class Fake(SystemMetricsInstrumentor):
        def __new__(cls, *args, **kwargs):
            return object.__new__(cls)

        def __init__(self, config=None):
            given["config"] = config

        def instrument(self, **kwargs):
            given["kwargs"] = kwargs

    Fake.__module__ = SystemMetricsInstrumentor.__module__
    instrumentors.load(EntryPoint("system_metrics", Fake), running, lambda: None, skip_dep_check=True)
    assert given["config"]
    assert all(name.startswith("system.") for name in given["config"])
    assert given["kwargs"] == {"skip_dep_check": True}


@pytest.fixture
def django(monkeypatch):
    """A module that stands for Django; the real one is in tests/e2e/test_third_party.py."""
    module = types.ModuleType("django")
    module.calls = []
    module.setup = lambda set_prefix=True: module.calls.append(f"setup {set_prefix}")
    monkeypatch.delitem(sys.modules, "django", raising=False)
    return module


def test_django_is_instrumented_when_it_is_set_up(django, running):
    from wrapt import notify_module_loaded

    instrumentors.load(EntryPoint("django"), running, lambda: django.calls.append("instrumented"))
    notify_module_loaded(django)
    assert django.calls == []
    django.setup(set_prefix=False)
    django.setup()
    assert django.calls == ["instrumented", "setup False", "setup True"]


def test_an_instrumentor_of_django_that_fails_leaves_django_alone(django, running, caplog):
    from wrapt import notify_module_loaded

    def fail():
        raise RuntimeError("no")

    instrumentors.load(EntryPoint("django"), running, fail)
    notify_module_loaded(django)
    django.setup()
    assert "setup True" in django.calls
    assert "Django cannot be instrumented" in caplog.text


def test_django_with_named_settings_is_instrumented_at_once(calls, running, monkeypatch):
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "site.settings")
    instrumentors.load(EntryPoint("django"), running, lambda: calls.append("now"))
    assert calls == ["now"]


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, ""),
        ({"OTEL_SDK_DISABLED": "True "}, "OTEL_SDK_DISABLED=true"),
        ({"OTEL_PERF_ENABLED": "off"}, "OTEL_PERF_ENABLED=off"),
        ({"OTEL_PERF_ENABLED": "on"}, ""),
        ({"OTEL_PERF_ENABLED": "perhaps"}, ""),
    ],
)
def test_what_switches_everything_off(environ, why):
    assert distro.switched_off(environ) == why


@pytest.fixture
def fresh(monkeypatch, otel_globals):
    """No pipeline yet; one that is started is shut down."""
    monkeypatch.setattr(distro, "_pipeline", None)
    yield
    distro.shutdown()


@pytest.mark.usefixtures("fresh")
def test_setup_and_shutdown_by_hand(monkeypatch, home):
    from opentelemetry import trace

    from tests.stored import spans

    monkeypatch.setenv("OTEL_PYTHON_CONFIGURATOR", "otel_perf")
    monkeypatch.setenv("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "*")
    distro.setup()
    first = distro.pipeline()
    distro.setup()
    assert distro.pipeline() is first
    trace.get_tracer("t").start_span("x").end()
    distro.shutdown()
    distro.shutdown()
    assert distro.pipeline() is None
    assert [span.name for span in spans(home)] == ["x"]


@pytest.mark.usefixtures("fresh")
def test_switched_off_setup_does_nothing(monkeypatch):
    monkeypatch.setenv("OTEL_PYTHON_CONFIGURATOR", "otel_perf")
    monkeypatch.setenv("OTEL_PERF_ENABLED", "off")
    distro.setup()
    distro.PerfDistro().load_instrumentor(EntryPoint("x", lambda: 1 / 0))
    assert distro.pipeline() is None


@pytest.mark.usefixtures("fresh")
def test_a_mixture_of_distributions_is_said(monkeypatch, caplog):
    monkeypatch.setenv("OTEL_PYTHON_CONFIGURATOR", "theirs")
    monkeypatch.setenv("OTEL_PYTHON_DISTRO", "theirs")
    distro.PerfDistro().configure()
    distro.PerfConfigurator().configure()
    assert "set OTEL_PYTHON_CONFIGURATOR=otel_perf" in caplog.text
    assert "set OTEL_PYTHON_DISTRO=otel_perf" in caplog.text


@pytest.mark.usefixtures("fresh")
def test_a_greeting_that_cannot_be_written_is_left_out(monkeypatch, running):
    class Closed:
        def isatty(self):
            raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(sys, "stderr", Closed())
    distro._greet(running)


def test_a_missing_extra_names_its_command():
    error = MissingExtraError("otel-perf view", "view")
    assert str(error) == "otel-perf view needs an extra: pip install 'otel-perf[view]'"
    assert error.extra == "view"


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (["python", "/venv/bin/otel-perf", "health"], True),
        (["python", "-X", "dev", "-m", "otel_perf", "report"], True),
        (["python", r"C:\venv\Scripts\otel-perf.exe"], True),
        (["python", "-m", "app", "otel_perf"], False),
        (["python", "app.py", "otel-perf"], False),
        (["python", "-c", "otel-perf"], False),
        (["python", "-W", "otel-perf", "app.py"], False),
        ([], False),
    ],
)
def test_the_command_line_is_not_instrumented(words, own):
    assert distro.is_own_command(words) is own


def test_a_health_check_in_an_instrumented_environment_does_not_ask_itself(home):
    """GIVEN what an operator puts into a container WHEN nothing runs there THEN the check says so."""
    from opentelemetry.instrumentation import auto_instrumentation

    port = free_port()
    variables = {"OTEL_PERF_HEALTH_PORT": port, "PYTHONPATH": str(Path(auto_instrumentation.__file__).parent)}
    command = [sys.executable, "-m", "otel_perf", "health"]
    for more in ([], ["--port", str(port)]):
        done = subprocess.run(
            [*command, *more], env=programs.environment(home, **variables), capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stdout
        assert not home.exists()
