"""Long pauses end, and preloaded workers share what their master loaded: with a real program and a real gunicorn."""

import json
import sys
import urllib.request

import pytest

from tests.e2e import programs
from tests.e2e.support import free_port, instrumented, wait_for
from tests.stored import logs, points
from tools.environments import ensure

PROGRAM = """
import functools, gc, json, time

@functools.lru_cache
def known(number):
    return number

known(1)
live = [[number] for number in range(300_000)]
for _ in range(40):
    work = [[number] for number in range(30_000)]
longest = 0.0
def watch(phase, info):
    global began, longest
    if phase == "start":
        began = time.perf_counter()
    elif info["generation"] == 2:
        longest = max(longest, time.perf_counter() - began)
frozen = gc.get_freeze_count()
gc.callbacks.insert(0, watch)
for _ in range(40):
    work = [[number] for number in range(30_000)]
time.sleep(1)
print(json.dumps({"frozen": frozen, "longest": longest}))
"""


def test_after_a_long_pause_there_are_no_more(home, tmp_path):
    (tmp_path / "service.py").write_text(PROGRAM)
    done = programs.run("import service", home, cwd=tmp_path, OTEL_PERF_GC_TUNING_PAUSE="5ms")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["frozen"] > 200_000
    tuned = [entry for entry in logs(home) if entry.event_name == "perf.gc.tuned"]
    freezes = [entry for entry in tuned if entry.attributes["perf.gc.tuned.action"] == "freeze"]
    assert freezes
    first = freezes[0].attributes
    assert first["perf.gc.tuned.pause.before"] >= 0.005
    assert first["perf.gc.tuned.pause.after"] < first["perf.gc.tuned.pause.before"] / 5
    assert freezes[0].body.startswith("garbage collection: what survived a full collection is frozen; one takes ")
    stored = points(home)
    pauses = [point for point in stored if point.name == "perf.gc.pause"]
    assert {point.attributes["cpython.gc.generation"] for point in pauses} == {0, 1, 2}
    # What was made before the freeze is found all the same.
    (cache,) = [point for point in stored if point.name == "perf.cache.misses"]
    assert cache.attributes["perf.cache.name"] == "service.known"


def test_turned_off_it_leaves_the_collector_alone(home):
    done = programs.run(PROGRAM, home, OTEL_PERF_GC_TUNING="off", OTEL_PERF_BOTTLENECKS="off")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert found["frozen"] == 0
    assert not [point for point in points(home) if point.name == "perf.gc.pause"]


APP = """
import gc, json, os
loaded = [[number] for number in range(700_000)]

def private():
    '''Bytes of this process's own, after a full collection that came by itself.'''
    full, kept = gc.get_stats()[2]["collections"], []
    while gc.get_stats()[2]["collections"] == full and len(kept) < 40:
        kept.append([[number] for number in range(20_000)])
    rollup = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    return int(rollup["Private_Dirty"].split()[0]) * 1024, gc.get_stats()[2]["collections"] - full

def application(environ, start_response):
    frozen = private()
    gc.unfreeze()
    body = json.dumps({"pid": os.getpid(), "frozen": frozen, "thawed": private()}).encode()
    gc.freeze()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
"""


@pytest.mark.alone  # once, beside others, a worker's memory was its own before it was thawed
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_preloaded_workers_share_what_their_master_loaded(home, tmp_path):
    """GIVEN an app of 55 MB in a master WHEN its workers collect THEN that is copied only once it is not frozen."""
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    command = (
        "gunicorn", "--workers", "2", "--preload", "--control-socket", "gunicorn.ctl", "--bind", f"127.0.0.1:{port}",
        "app:application",
    )  # fmt: skip
    with instrumented(ensure("apps"), home, *command) as server:
        server.wait_until_listening(port)
        answers = {}

        def asked():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as answer:
                found = json.load(answer)
            answers.setdefault(found["pid"], found)
            return len(answers) == 2

        wait_for(asked, what="both workers have answered")
        wait_for(lambda: _acts(home).count("freeze_child") == 2, what="both workers have told")
    for answer in answers.values():
        (frozen, collections), (thawed, more) = answer["frozen"], answer["thawed"]
        assert collections >= 1
        assert more >= 1
        assert frozen < thawed - 30_000_000, answer


def _acts(home):
    return [entry.attributes["perf.gc.tuned.action"] for entry in logs(home) if entry.event_name == "perf.gc.tuned"]
