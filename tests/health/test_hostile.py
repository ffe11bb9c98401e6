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


def test_checks_beside_requests_that_have_loops_of_their_own(home):
    """GIVEN asyncio.run for each request, in threads, as Flask does THEN the asynchronous check stays well."""
    seen = run(
        """
import asyncio
from concurrent.futures import ThreadPoolExecutor
@perf.health.check("db", critical=True, every=0.05)
async def db():
    await asyncio.sleep(0.02)
ends = time.monotonic() + 1.5
def requests():
    while time.monotonic() < ends:
        asyncio.run(asyncio.sleep(0.01))
pool = ThreadPoolExecutor(2)
done = [pool.submit(requests) for _ in range(2)]
seen = set()
while time.monotonic() < ends:
    seen |= {(c["status"], c["reason"]) for c in perf.health.status()["checks"] if c["name"] == "db"}
    time.sleep(0.01)
print(sorted(seen - {("unknown", "")}))
""",
        home,
    )
    assert seen == ["[('healthy', '')]"]


def test_a_check_that_wants_to_end_the_app_does_not(home):
    assert run(
        """
import asyncio
@perf.health.check("x", every=0.1)
async def x():
    sys.exit(3)
async def main():
    for _ in range(50):
        await asyncio.sleep(0.05)
        found = [c for c in perf.health.status()["checks"] if c["name"] == "x"]
        if found and found[0]["reason"]:
            return found[0]["reason"]
print(asyncio.run(main()))
""",
        home,
    ) == ["RuntimeError: it raised SystemExit(3)"]
