"""``pytest --otel-perf`` in a project of its own: findings per test, and tests that fail on them."""

import subprocess
import sys

import pytest

from tests.e2e import programs

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


def run(project, *options):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options]
    environ = programs.environment(project / "home")
    del environ["OTEL_PERF_HOME"]
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
    ],
)
def test_wrong_options_are_wrong_usage(option, complaint, project):
    done = run(project, *option)
    assert done.returncode == 4
    assert complaint in done.stderr


def test_without_the_option_nothing_of_ours_is_started(project):
    (project / "test_it.py").write_text(
        TESTS + "\n\ndef test_modules():\n    import sys\n    assert 'otel_perf.pipeline' not in sys.modules\n"
    )
    done = run(project, "-k", "quick or modules")
    assert "2 passed" in done.stdout
    assert "otel-perf" not in done.stdout
