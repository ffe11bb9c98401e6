"""Health of real servers: whatever is wrong shows within two seconds, and is answered within 100 ms meanwhile."""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.e2e import programs
from tests.e2e.support import Running, environment, free_port, instrumented, listens, wait_for
from tests.store.receiver import Receiver
from tools.environments import ensure

APPS = Path(__file__).with_name("apps")
SOON = 2.0  # seconds
QUICK = 0.1


def ask(port, path):
    """Status, document and headers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=20) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def check(port, name):
    """The status of a check: of several processes, all of theirs."""
    return {entry["status"] for entry in ask(port, "healthz")[1]["checks"].get(name, [])}


def do(port, what, amount):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/do/{what}/{amount}", timeout=30) as answer:
        return int(answer.headers.get("X-Pid", 0))


class Asking:
    """Asks a port all the time, and notes how long each answer took."""

    def __init__(self, port):
        self.port = port
        self.took = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        while not self._over.wait(0.02):
            began = time.perf_counter()
            connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
            connection.request("GET", "/readyz")
            connection.getresponse().read()
            connection.close()
            self.took.append(time.perf_counter() - began)


@pytest.fixture
def uvicorn(home):
    """The app under uvicorn; starts it with variables and returns its port and that of its health."""
    stack = []

    def start(**variables):
        port, health = free_port(), free_port()
        command = [str(programs.BIN / "opentelemetry-instrument"), str(programs.BIN / "uvicorn"), "--port", str(port)]
        command += ["--app-dir", str(APPS), "--no-access-log", "healthy:app"]
        ours = {"OTEL_SERVICE_NAME": "shop", "OTEL_PERF_HEALTH_PORT": str(health), **variables}
        running = Running(
            command, environment(programs.BIN.parent, home, ours), home.parent, home.parent / "uvicorn.log"
        )
        running.__enter__()
        stack.append(running)
        running.wait_until_listening(port)
        wait_for(lambda: ask(health, "readyz")[0] == 200, what="it is ready")
        return port, health

    yield start
    for running in stack:
        running.__exit__(None, None, None)


@pytest.mark.alone
def test_what_is_wrong_shows_soon_and_is_answered_at_once(uvicorn, home):
    """A blocked loop, a dead receiver, memory at 95 %, a hanging check, a raising check; each goes over."""
    limit = 400_000_000
    receiver = Receiver()
    receiver.answer = lambda *_: (
        200,
        {"Connection": "close"},
        b"",
    )  # a connection that is kept would go on to be served
    with receiver.running():
        port, health = uvicorn(
            OTEL_PERF_MEMORY_LIMIT=str(limit), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_PERF_STORE_DELAY="100ms",
            OTEL_METRICS_EXPORTER="none", OTEL_LOGS_EXPORTER="none",
        )  # fmt: skip
        do(port, "span", 1)
        wait_for(lambda: receiver.requests, what="a span is sent")
    with Asking(health) as asking:  # from here on the receiver is gone
        do(port, "span", 1)
        wait_for(lambda: check(health, "delivery") == {"warn"}, SOON)
        assert ask(health, "readyz")[:1] == (200,)

        blocked = threading.Thread(target=do, args=(port, "block", 3.0))
        blocked.start()
        wait_for(lambda: ask(health, "readyz")[0] == 503, SOON)
        entry = ask(health, "healthz")[1]["checks"]["eventloop"][0]
        assert entry["status"] == "fail"
        assert "it is at do (healthy.py:" in entry["output"]
        assert ask(health, "livez")[0] == 200
        blocked.join()
        wait_for(lambda: ask(health, "readyz")[0] == 200, SOON)

        do(port, "grow", int(0.8 * limit))  # beside the 65 MB or so of the program
        wait_for(lambda: check(health, "memory") == {"fail"}, SOON)
        assert ask(health, "readyz")[0] == 200  # the operator may say otherwise
        do(port, "grow", 0)
        wait_for(lambda: check(health, "memory") == {"pass"}, SOON)

        do(port, "raise", "on")
        wait_for(lambda: ask(health, "readyz")[0] == 503, SOON)
        status, document, headers = ask(port, "health/healthz")  # as an ASGI app
        assert (status, headers["Content-Type"]) == (503, "application/health+json")
        assert document["checks"]["raises"][0]["output"] == "ConnectionError: no route to postgres://…@db/shop"
        do(port, "raise", "off")
        wait_for(lambda: ask(health, "readyz")[0] == 200, SOON)

        do(port, "hang", "on")
        wait_for(lambda: check(health, "hangs") == {"fail"}, SOON)
        assert do(port, "span", 1) == 0  # requests go on
    assert len(asking.took) > 100
    assert max(asking.took) < QUICK, sorted(asking.took)[-20:]


WORKERS = {"OTEL_SERVICE_NAME": "shop"}


def test_the_port_of_workers_answers_for_all_of_them(home):
    """gunicorn with two workers: their master has the port; the worst of them counts; who is killed is replaced."""
    port, health = free_port(), free_port()
    command = (
        "gunicorn", "--workers", "2", "--preload", "--control-socket", "gunicorn.ctl", "--chdir", str(APPS),
        "--bind", f"127.0.0.1:{port}", "healthy:application",
    )  # fmt: skip
    apps = ensure("apps")
    with instrumented(apps, home, *command, variables={**WORKERS, "OTEL_PERF_HEALTH_PORT": str(health)}) as server:
        server.wait_until_listening(port)
        wait_for(lambda: len(processes(health)) == 3, what="master and workers answer")
        wait_for(lambda: ask(health, "readyz")[0] == 200, what="all are ready")
        workers = processes(health) - {server.pid}
        assert (
            processes(health, "raises") == workers
        )  # the app's checks are not asked in the master, which has it loaded

        ill = do(port, "raise", "on")
        wait_for(lambda: ask(health, "readyz")[0] == 503, SOON, what="one of them is not ready")
        assert ask(health, "livez")[0] == 200
        seen = {}
        wait_for(lambda: seen.update(mounted(port)) or len(seen) == 2, what="both have answered for themselves")
        assert seen == {worker: 503 if worker == ill else 200 for worker in workers}
        environ = environment(apps, home, {"OTEL_PERF_HEALTH_PORT": str(health)})
        for variables, status in ((environ, 1), ({**environ, "OTEL_PERF_HEALTH_PORT": ""}, 1)):
            assert otel_perf_health(apps, variables).returncode == status

        os.kill(ill, signal.SIGKILL)
        wait_for(lambda: ill not in processes(health), SOON, what="who was killed does not count")
        wait_for(lambda: len(processes(health)) == 3 and ask(health, "readyz")[0] == 200, what="there is another one")
        for variables in (environ, {**environ, "OTEL_PERF_HEALTH_PORT": ""}):
            done = otel_perf_health(apps, variables, "--wait", "10s")
            assert (done.returncode, done.stdout.split()[1]) == (0, "shop")
        assert server.stop() == 0
    assert not listens(health)
    assert list(home.glob("health-*")) == []


def processes(port, name="disk"):
    """The ids of those that answer at the port of health, and have that check."""
    return {int(entry["componentId"]) for entry in ask(port, "healthz")[1]["checks"].get(name, [])}


def mounted(port):
    """Which worker answered what, of a mounted end point."""
    status, _, headers = ask(port, "health/readyz")
    return {int(headers["X-Pid"]): status}


def otel_perf_health(env, environ, *arguments):
    return subprocess.run(
        [env / "bin" / "otel-perf", "health", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_who_is_left_takes_the_port_over(home):
    """GIVEN a forked child that outlives its killed parent THEN it answers at the port."""
    health = free_port()
    program = """
import os, sys, time
pid = os.fork()
if pid == 0:
    sys.stdin.read()
    os._exit(0)
print(pid, flush=True)
time.sleep(60)
"""
    environ = programs.environment(home, OTEL_PERF_HEALTH_PORT=health, OTEL_PERF_BOTTLENECKS="off")
    with subprocess.Popen(
        programs.command(program), env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        child = int(parent.stdout.readline())
        wait_for(lambda: processes(health) == {parent.pid, child}, what="both answer at the port")
        parent.kill()
        parent.wait(20)
        wait_for(lambda: listens(health) and processes(health) == {child}, what="the child answers")
    wait_for(lambda: not listens(health), what="the child has ended")
