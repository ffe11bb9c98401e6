"""An app whose caches want three times the memory that there is: it serves all, and is under the limit all the time."""

import json
import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e import programs
from tests.e2e.support import default_signals
from tests.stored import logs

LIMIT = 300 * 2**20
ENTRIES = 3 * LIMIT // 20_000

PROGRAM = """
import json, sys, time
from pathlib import Path
kind, entries = sys.argv[1], int(sys.argv[2])
if kind == "plain":
    pages, products = {}, {}
else:
    import otel_perf
    pages = otel_perf.LRUCache("pages", max_entries=10**6)
    products = otel_perf.LRUCache("products", max_bytes="10GB", priority=1, floor=100)

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def answer(cache, key, size):
    found = cache.get(key)
    if found is None:
        found = cache[key] = bytes([key % 256]) * size
    return found

served, most = 0, 0
for number in range(entries):
    page, product = answer(pages, number, 19_000), answer(products, number // 10, 10_000)
    assert page[0] == number % 256 and product[0] == number // 10 % 256
    served += 1
    if number % 50 == 0:
        most = max(most, resident())
        time.sleep(0.005)  # 200 MB/s
print(json.dumps({"served": served, "most": most}))
"""


@contextmanager
def group():
    """A memory group of its own with the limit, in which a command is started; none where that cannot be made."""
    places = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            places["memory.limit_in_bytes"] = Path("/sys/fs/cgroup/memory") / path.lstrip("/")
        elif not controllers:
            places["memory.max"] = Path("/sys/fs/cgroup") / path.lstrip("/")
    for name, parent in places.items():
        folder = parent / f"otel-perf-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / name).write_text(str(LIMIT))
        except OSError:
            folder.rmdir()
            continue
        try:
            yield folder
        finally:
            for pid in (folder / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            folder.rmdir()
        return
    yield None


def run(kind, home, folder, **variables):
    """How it ended, and what it said."""

    def enter():
        default_signals()
        if folder is not None:
            (folder / "cgroup.procs").write_text("0")

    done = subprocess.run(
        programs.command(PROGRAM, kind, str(ENTRIES)),
        env=programs.environment(home, **variables), capture_output=True, text=True, timeout=120, check=False,
        preexec_fn=enter,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.alone  # it grows as quickly as it can: who looks too seldom sees no level before the last
def test_caches_give_back_and_the_events_tell_the_story(home):
    with group() as folder:
        limit = {} if folder else {"OTEL_PERF_MEMORY_LIMIT": str(LIMIT)}
        status, out, err = run("ours", home, folder, **limit)
    assert status == 0
    assert all(" stepped down: memory pressure is critical" in line for line in err.splitlines())
    said = json.loads(out)
    assert said["served"] == ENTRIES
    assert said["most"] < LIMIT
    told = [record.attributes for record in logs(home) if record.event_name == "perf.memory.pressure"]
    story = [(event["perf.memory.pressure.action"], event["perf.memory.pressure.level"]) for event in told]
    assert story[0] in {("level", "moderate"), ("level", "high")}  # where it grew too quickly to be seen in between
    assert ("level", "high") in story
    shrunk = [event for event in told if event["perf.memory.pressure.action"] == "shrink_caches"]
    assert shrunk
    assert story.index(("level", "high")) < story.index(("shrink_caches", "high"))
    assert "pages" in shrunk[0]["perf.memory.pressure.caches"]
    assert all(event["perf.memory.pressure.cost"] < 5 for event in shrunk)


def test_the_same_app_with_dictionaries_is_killed_or_goes_over(home):
    with group() as folder:
        status, out, _ = run("plain", home, folder)
    assert status == -signal.SIGKILL if folder else json.loads(out)["most"] > 2 * LIMIT
