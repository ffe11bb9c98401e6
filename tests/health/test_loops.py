"""Event loops are known as they begin and end, and how late they answer."""

import asyncio
import threading
import time
from contextlib import ExitStack

import pytest
import uvloop

from otel_perf.core.threads import start_new_thread
from otel_perf.health import loops as module
from otel_perf.health.loops import Loops
from tests.e2e.support import wait_for

UNHEALTHY = 0.4  # seconds


@pytest.fixture
def loops(monkeypatch):
    monkeypatch.setattr(module, "SETTLED", 0.0)
    made = Loops()
    with ExitStack() as undo:
        made.install(undo)
        yield made


class App:
    """A loop that runs in a thread of its own."""

    def __init__(self, make):
        self.make = make
        self.start()

    def start(self):
        ready = threading.Event()
        self.thread = threading.Thread(target=self.run, args=(ready,))
        self.thread.start()
        assert ready.wait(5)

    def run(self, ready):
        async def main():
            self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
            ready.set()
            await self.over.wait()

        with asyncio.Runner(loop_factory=self.make) as runner:
            runner.run(main())

    def end(self):
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join(5)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def app(request, loops):
    made = App(request.param)
    loops.beat()  # uvloop was imported before
    yield made
    made.end()


def settled(loops):
    """Ask until it has answered in time."""
    wait_for(lambda: loops.check(UNHEALTHY)[0] == "healthy", timeout=5)


def test_no_loop_is_well(loops):
    assert loops.app_loop() is None
    assert loops.check(UNHEALTHY) == ("healthy", "no event loop runs")
    assert loops.stuck(UNHEALTHY) == ("healthy", "")


def test_a_loop_is_known_while_it_runs(loops, app):
    assert loops.app_loop() is app.loop
    settled(loops)
    wait_for(lambda: loops.check(UNHEALTHY) and list(loops.counted()), what="its answer is counted")
    app.end()
    wait_for(lambda: loops.beat() or loops.app_loop() is None, timeout=2)
    app.start()
    wait_for(lambda: loops.beat() or loops.app_loop() is app.loop, timeout=2, what="the next one is known")


def test_a_blocked_loop_is_degraded_then_unhealthy_and_named_with_its_line(loops, app):
    assert loops.app_loop() is app.loop
    settled(loops)
    release = threading.Event()

    def block_the_loop():
        release.wait(20)

    app.loop.call_soon_threadsafe(block_the_loop)
    for word in ("degraded", "unhealthy"):
        wait_for(lambda word=word: loops.check(UNHEALTHY)[0] == word, timeout=2)
    assert "block_the_loop (test_loops.py:" in loops.check(UNHEALTHY)[1]
    wait_for(lambda: loops.stuck(UNHEALTHY)[0] == "unhealthy", timeout=2)
    assert "has not answered" in loops.stuck(UNHEALTHY)[1]
    release.set()
    settled(loops)
    (counted,) = loops.counted()
    assert counted.maximum >= UNHEALTHY


def test_loops_of_checks_and_cleanup_tasks_are_not_the_apps(loops):
    found, done = [], threading.Event()

    async def look():
        found.append(loops.app_loop())

    def run():
        asyncio.run(look())
        done.set()

    start_new_thread(run, ())
    assert done.wait(5)
    assert found == [None]


def test_the_loop_of_a_thread_of_ours_is_not_the_apps(loops):
    found = []

    async def look():
        found.append(loops.app_loop())

    thread = threading.Thread(target=lambda: asyncio.run(look()), name="otel-perf-signals-nats")
    thread.start()
    thread.join()
    assert found == [None]


def test_the_main_threads_loop_is_the_apps(loops, app):
    async def main():
        return loops.app_loop() is asyncio.get_running_loop()

    assert loops.app_loop() is app.loop
    assert asyncio.run(main())
    assert loops.app_loop() is app.loop


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_loop_that_ran_before_is_found_and_nothing_is_left_behind(run):
    before = asyncio.events._set_running_loop
    made = Loops()

    async def main():
        with ExitStack() as undo:
            await asyncio.to_thread(made.install, undo)
            found = made.app_loop() is asyncio.get_running_loop()
        return found, made.app_loop()

    assert run(main()) == (True, None)
    assert asyncio.events._set_running_loop is before
    assert asyncio._set_running_loop is before


def test_a_closed_loop_is_forgotten(loops):
    closed = asyncio.new_event_loop()
    closed.close()
    loops.runs(closed, threading.get_ident())
    loops.beat()
    assert loops.app_loop() is None


def test_a_child_of_a_fork_knows_no_loop_of_its_parents(loops, app):
    assert loops.app_loop() is app.loop
    wait_for(lambda: loops.check(UNHEALTHY) and list(loops.counted()))
    loops.after_fork_in_child()
    assert loops.app_loop() is None
    assert list(loops.counted()) == []


def test_a_beat_costs_the_loop_little(loops, app):
    """Four times a second, so that it may take a while; it takes some microseconds."""
    assert loops.app_loop() is app.loop
    (heart,) = loops._hearts.values()
    began = time.thread_time()
    for _ in range(10_000):
        heart.beat()
    assert time.thread_time() - began < 0.5


def test_the_loop_of_a_request_is_not_the_apps_however_long_it_blocks(loops, app, monkeypatch):
    """GIVEN a young loop beside the main thread's THEN it counts once it has run for a while, from then on."""
    monkeypatch.setattr(module, "SETTLED", 3600.0)
    settled(loops)
    app.loop.call_soon_threadsafe(time.sleep, 0.55)
    ends = time.monotonic() + 0.6
    while time.monotonic() < ends:
        assert loops.app_loop() is None
        assert loops.check(UNHEALTHY) == ("healthy", "no event loop runs")
        assert loops.stuck(UNHEALTHY) == ("healthy", "")
        time.sleep(0.02)
    monkeypatch.setattr(module, "SETTLED", 0.8)
    wait_for(lambda: loops.app_loop() is app.loop, timeout=2)
    settled(loops)
    wait_for(lambda: loops.check(UNHEALTHY) == ("healthy", ""), timeout=2)
    release = threading.Event()
    app.loop.call_soon_threadsafe(release.wait, 20)
    wait_for(lambda: loops.check(UNHEALTHY)[0] == "unhealthy", timeout=2)
    release.set()


def test_a_loop_that_goes_on_running_is_known_when_it_is_turned_on_again():
    """uvloop's, which shows in no stack; one that has ended meanwhile is forgotten."""
    made = Loops()
    loop = uvloop.new_event_loop()

    def flip():
        with ExitStack() as undo:
            made.install(undo)
            return made.app_loop()

    async def main():
        with ExitStack() as undo:
            made.install(undo)
            made.runs(loop, threading.main_thread().ident)  # as it says while we are on
            assert made.app_loop() is loop
        assert made.app_loop() is None
        return await asyncio.to_thread(flip)

    assert loop.run_until_complete(main()) is loop
    assert flip() is None
    loop.close()
