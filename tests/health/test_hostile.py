"""What a hostile reviewer found, each in processes of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUIET = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}


def run(code, home, *, before="", **variables):
    """What a program prints that has started the distribution."""
    start = f"import os, sys, time\n{before}\nimport otel_perf as perf\nperf.setup()\n"
    environ = {"PATH": "", "PYTHONPATH": str(ROOT), "OTEL_PERF_HOME": str(home), **QUIET, **variables}
    done = subprocess.run(
        [sys.executable, "-c", start + code], env=environ, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.split("\n")[:-1]


ARBITER = """
import os
class Arbiter:
    def __init__(self, app):
        self.app = app
    def setup(self):
        self.app()
    def spawn_worker(self):
        pid = os.fork()
        if pid:
            os.waitpid(pid, 0)
            return
        self.app()
        os._exit(0)
"""
APP = """
from gunicorn.arbiter import Arbiter
def app():
    import otel_perf as perf
    from otel_perf.health import present
    perf.setup()
    perf.health.check("db", critical=True)(lambda: False)
    time.sleep(0.4)
    print("db" in {check["name"] for check in perf.health.status()["checks"]}, perf.health.status()["ready"], flush=True)
"""


def test_a_worker_that_begins_with_us_asks_the_apps_checks_and_a_master_does_not(home, tmp_path):
    """GIVEN an app that calls ``setup`` in a worker, and one that does so in gunicorn's master with ``--preload``."""
    (tmp_path / "gunicorn").mkdir()
    (tmp_path / "gunicorn" / "__init__.py").touch()
    (tmp_path / "gunicorn" / "arbiter.py").write_text(ARBITER)
    for method, asked in (("spawn_worker", "True False"), ("setup", "False")):
        code = f"import time\n{APP}\nArbiter(app).{method}()\nimport os; os._exit(0)"
        environ = {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OTEL_PERF_HOME": str(home), **QUIET}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=30, check=True
        )
        assert done.stdout.startswith(asked), (method, done.stdout, done.stderr)
