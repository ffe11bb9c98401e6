"""What a hostile reviewer found, each in processes of its own."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.e2e.support import free_port

pytestmark = pytest.mark.alone  # answers within a second, however busy we are; not however busy the machine is

ROOT = Path(__file__).parents[2]
QUIET = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}


def run(code, home, *, before="", **variables):
    """What a program prints that has started the distribution."""
    start = f"import os, sys, time\n{before}\nimport otel_perf as perf\nperf.setup()\n"
    environ = {"PATH": "", "PYTHONPATH": str(ROOT), "OTEL_PERF_HOME": str(home), **QUIET, **variables}
    done = subprocess.run(
        [sys.executable, "-c", start + code], env=environ, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


ARBITER = """
import importlib.util
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


ASK = r"""
import socket, threading
def get(path="/livez", timeout=5.0):
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout) as s:
        s.settimeout(timeout)
        s.sendall(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        found = b""
        while more := s.recv(65536):
            found += more
    return int(found.split()[1]), time.monotonic() - began < 1.0
port = int(os.environ["OTEL_PERF_HEALTH_PORT"])
"""
IDLE = "idle = [socket.create_connection(('127.0.0.1', port)) for _ in range({})]\ntime.sleep(0.1)\nprint(*get())\n"


def test_an_app_with_a_default_timeout_does_not_make_one_client_hold_up_the_others(home):
    before = "import socket\nsocket.setdefaulttimeout(10)"
    code = ASK + "socket.setdefaulttimeout(10)\n" + IDLE.format(1)
    for early in ("", before):
        assert run(code, home, before=early, OTEL_PERF_HEALTH_PORT=str(free_port())) == ["200 True"]


def test_gevent_that_patches_after_the_start_does_not_either(home):
    assert importlib.util.find_spec("gevent")  # not imported here: much is left out where it is
    code = ASK + IDLE.format(1) + "import gevent.monkey\ngevent.monkey.patch_all()\n" + IDLE.format(1)
    done = run(code + "os._exit(sys.stdout.flush() or 0)", home, OTEL_PERF_HEALTH_PORT=str(free_port()))
    assert done == ["200 True"] * 2


def test_a_hundred_clients_that_say_nothing_hold_up_nobody(home):
    assert run(ASK + IDLE.format(100), home, OTEL_PERF_HEALTH_PORT=str(free_port())) == ["200 True"]


def test_who_closes_all_descriptors_keeps_the_connections_of_its_own(home):
    """GIVEN an app whose listening socket has the number of ours THEN each has its own clients."""
    code = """
from otel_perf.health import present
number = present.running[-1]._publish.__self__._server._listener.fileno()
os.closerange(3, 256)
while (held := os.open("/dev/null", os.O_RDONLY)) < number:
    pass
os.close(held)
app = socket.create_server(("127.0.0.1", 0))
assert app.fileno() == number
print(get()[0])
def serve():
    while True:
        client, _ = app.accept()
        client.recv(9999)
        client.sendall(b"HTTP/1.1 299 APP\\r\\n\\r\\n")
        client.close()
threading.Thread(target=serve, daemon=True).start()
own, port = port, app.getsockname()[1]
print({get()[0] for _ in range(20)})
port = own
for _ in range(100):
    try:
        print(get()[0])
        break
    except OSError:
        time.sleep(0.05)
"""
    assert run(ASK + code, home, OTEL_PERF_HEALTH_PORT=str(free_port()), OTEL_PERF_STORE="off", OTEL_PERF_SIGNALS="off") == [
        "200", "{299}", "200",
    ]  # fmt: skip


def test_workers_of_another_user_count(home):
    """GIVEN gunicorn started as root with ``--user nobody`` THEN its port is not ready before their checks are well."""
    if os.getuid() != 0:
        pytest.skip("only root can start programs as somebody else")
    code = """
import types
sys.modules["gunicorn.arbiter"] = types.ModuleType("gunicorn.arbiter")
print(get("/readyz")[0], flush=True) if time.sleep(0.3) is None else 0
ready, go = os.pipe()
pid = os.fork()
if pid == 0:
    os.setgid(65534)
    os.setuid(65534)
    well = []
    perf.health.check("db", critical=True, every=0.1)(lambda: bool(well))
    os.read(ready, 1)
    well.append(1)
    time.sleep(30)
def until(path, what, code):
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(f"GET {path} HTTP/1.1\\r\\n\\r\\n".encode())
            found = b""
            while more := s.recv(65536):
                found += more
        if what in found and int(found.split()[1]) == code:
            return code
        time.sleep(0.05)
    return found
print(until("/readyz", b'"db"', 503), flush=True)
os.write(go, b"x")
print(until("/readyz", b'"db"', 200), flush=True)
os.kill(pid, 9)
"""
    home.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory(dir="/tmp") as tmp:  # pytest's are for its user alone
        Path(tmp).chmod(0o1777)
        assert run(ASK + code, home, TMPDIR=tmp, OTEL_PERF_HEALTH_PORT=str(free_port())) == ["503", "503", "200"]


def test_internal_errors_do_not_take_the_port_away(home):
    """GIVEN a fault in each look THEN the port goes on, and who is asked is asked all the same."""
    code = """
from otel_perf import distro
from otel_perf.health import present
runner = present.running[-1]
def fail(*_):
    raise RuntimeError("a fault")
real, runner._made = runner._made, fail
for _ in range(15):
    runner.news("disk")
    time.sleep(0.05)
print(distro.pipeline().features["health"].on, *get())
print(time.monotonic() - runner.report["made"] < 1)
runner._made = real
runner._tell = fail
perf.health.check("db", every=0.1)(lambda: False)
time.sleep(0.5)
print(*get(), [c["status"] for c in perf.health.status()["checks"] if c["name"] in {"db", "disk"}])
"""
    assert run(ASK + code, home, OTEL_PERF_HEALTH_PORT=str(free_port())) == [
        "True 200 True", "True", "200 True ['healthy', 'unhealthy']",
    ]  # fmt: skip


def test_a_look_under_way_while_it_is_turned_off_does_not_listen_again(home):
    code = """
from otel_perf import distro
from otel_perf.core import health
from otel_perf.core.rollout import Decision
pipeline = distro.pipeline()
state = pipeline.features["health"]
def flip(share):
    with pipeline._lock:
        state.decision = Decision(share, "x")
        pipeline._turn([state])
under_way, release = threading.Event(), threading.Event()
def slow():
    under_way.set()
    release.wait(5)
remove = health.register("slow", slow, quick=True)
under_way.wait(5)
flip(0.0)
remove()
release.set()
time.sleep(0.3)
try:
    print(*get())
except ConnectionRefusedError:
    print("off")
flip(1.0)
print(*get())
"""
    assert run(ASK + code, home, OTEL_PERF_HEALTH_PORT=str(free_port())) == ["off", "200 True"]


def test_a_full_disk_for_a_while_changes_nothing(home):
    """GIVEN a while in which nothing can be written, there or in the fallback THEN the file is soon as new as ever."""
    code = """
from otel_perf.health import files, publisher
from otel_perf.core.home import Home
publisher.REFRESH, publisher.RETRY = publisher.REFRESH / 10, publisher.RETRY / 10
place, full, write = Home(os.environ), [], os.write
def limited(handle, data):
    if full and data.startswith(b'{"status"'):
        full.append(1)
        raise OSError(28, "No space left on device")
    return write(handle, data)
os.write = limited
def age():
    (report,) = files.read(place)
    return time.monotonic() - report["made"]
time.sleep(1.2)
full.append(0)
while len(full) < 2:
    time.sleep(0.01)
full.clear()
time.sleep(1.0)
print(age() < 0.9, list(place.path.glob("*.part")))
"""
    assert run(code, home) == ["True []"]
