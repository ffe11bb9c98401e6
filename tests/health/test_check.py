"""The decorator, and what it is where nobody asks."""

import subprocess
import sys

import pytest

import otel_perf as perf
from otel_perf.core import health

pytestmark = pytest.mark.usefixtures("alone")


def test_the_function_stays_as_it_is():
    def db():
        return "up"

    assert perf.health.check("db", critical=True, live=True, timeout="500ms", every="1m")(db) is db
    (found,) = health.checks
    assert (found.name, found.critical, found.live, found.timeout, found.every) == ("db", True, True, 0.5, 60.0)
    assert not found.quick
    perf.health.remove("db")
    assert health.checks == []


@pytest.mark.parametrize("options", [{"timeout": 0}, {"timeout": "soon"}, {"every": -1}, {"every": "inf"}])
def test_a_wrong_time_is_an_error_that_names_it(options):
    ((field, value),) = options.items()
    with pytest.raises(ValueError, match=rf"health.check\('db'\): {field}={value!r} must be more than 0"):
        perf.health.check("db", **options)


def test_what_cannot_be_called_is_no_check():
    with pytest.raises(TypeError, match=r"health\.check\('db'\): 5 cannot be called"):
        perf.health.check("db")(5)


def test_a_module_that_is_loaded_again_replaces_its_checks_and_only_its_own():
    def load():
        def db():
            """The same place each time."""

        perf.health.check("db")(db)
        return db

    load()
    perf.health.check("db")(lambda: None)
    perf.health.check("db")(lambda: None)
    last = load()
    assert len(health.checks) == 3
    assert health.checks[-1].call is last


def test_another_health_system_is_a_check_like_any_other():
    class Theirs:
        def status(self):
            return {"status": "fail", "output": "their queue"}

    perf.health.check("theirs")(Theirs().status)
    from otel_perf.health.runner import answered

    assert answered(health.checks[0]) == (health.UNHEALTHY, "their queue")


def test_where_nobody_asks_all_is_well():
    perf.health.check("db")(lambda: 1 / 0)
    assert perf.health.status() == {"status": "healthy", "live": True, "ready": True, "started": True, "checks": []}


def test_without_an_sdk_everything_can_be_called(tmp_path):
    program = """
import sys
sys.modules["opentelemetry.sdk"] = None
import otel_perf as perf

@perf.health.check("db", critical=True)
def db():
    raise SystemExit(5)

perf.health.on_change(print)
said = []
body = perf.health.wsgi_app({"REQUEST_METHOD": "GET", "PATH_INFO": "/readyz"}, lambda *given: said.append(given))
assert said[0][0] == "200 OK", said
assert b"health is off" in body[0]
assert perf.health.status()["ready"]
try:
    perf.health.nonsense
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "module 'otel_perf.health' has no attribute 'nonsense'\n"), done.stderr
