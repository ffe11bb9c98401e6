"""The thread that looks goes to sleep, ends, leaves nothing behind, and never touches what is not its own."""

import asyncio
import gc
import json
import os
import socket
import stat
import threading
import time
import types
import weakref

import pytest

from otel_perf.bottlenecks import frames, run_queue
from otel_perf.bottlenecks.place import DEPTH
from otel_perf.bottlenecks.stacks import of_thread
from otel_perf.bottlenecks.watchdog import Heartbeat
from tests.bottlenecks.conftest import MS, kept_of, wait_for

LINUX = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")  # noqa: PTH112


def flag(path, value):
    path.write_text(json.dumps({"flags": {"perf.bottlenecks": {"variants": {"v": value}, "defaultVariant": "v"}}}))


def slow_root(app):
    with app.tracer.start_as_current_span("slow"):
        time.sleep(0.12)


def block(seconds):
    time.sleep(seconds)


def test_it_sleeps_when_nothing_is_open(app):
    app = app()
    watchdog = app.watchdog
    slow_root(app)
    assert wait_for(lambda: watchdog._asleep, 3)
    with app.tracer.start_as_current_span("again"):
        assert not watchdog._asleep
        (root,) = app.processor.roots.values()
        assert wait_for(lambda: root.samples, 3)


def test_it_sleeps_when_a_loop_was_stopped_with_a_heartbeat_on_its_way(app):
    """GIVEN a loop that is run now and then and never closed, as synchronous wrappers do."""
    app = app()
    watchdog = app.watchdog
    loop = asyncio.new_event_loop()

    async def request():
        with app.tracer.start_as_current_span("request"):
            await asyncio.sleep(0.1)
            block(0.06)  # a heartbeat is sent meanwhile, and the loop stops before it answers

    try:
        for _ in range(3):
            loop.run_until_complete(request())
        assert wait_for(lambda: watchdog._asleep, 4)
    finally:
        loop.close()


def test_a_loop_that_stood_still_between_two_runs_was_not_blocked(app):
    app = app()
    loop = asyncio.new_event_loop()

    async def request():
        with app.tracer.start_as_current_span("request"):
            await asyncio.sleep(0.15)
            block(0.03)

    try:
        for _ in range(3):
            loop.run_until_complete(request())
            time.sleep(0.3)
    finally:
        loop.close()
    assert "loop_block" not in app.kinds()


@pytest.mark.alone
def test_a_loop_that_ends_with_its_block_was_blocked(app):
    """GIVEN asyncio.run for each request, whose last act is to block WHEN the loop stops at once THEN it was seen."""
    app = app()

    async def request():
        with app.tracer.start_as_current_span("request"):
            await asyncio.sleep(0.03)
            block(0.2)

    for _ in range(8):
        asyncio.run(request())
        time.sleep(0.1)
    blocked = [span for span, found in app.findings("loop_block")]
    assert len(blocked) == 8


def test_loops_that_were_closed_are_forgotten(app):
    """GIVEN an app that calls asyncio.run for each request THEN no loop stays."""
    app = app()
    watchdog = app.watchdog
    loops = []

    async def request():
        loops.append(weakref.ref(asyncio.get_running_loop()))
        with app.tracer.start_as_current_span("request"):
            await asyncio.sleep(0.03)

    for _ in range(20):
        asyncio.run(request())
    with app.tracer.start_as_current_span("later"):
        time.sleep(0.1)
    assert len(watchdog._hearts) <= 2
    gc.collect()
    assert sum(loop() is not None for loop in loops) <= 2


def test_a_block_does_not_keep_its_trace(app):
    """What the watchdog remembers of blocks is lines and times, and not the spans of 256 traces."""
    app = app()
    traces = set()

    async def request():
        with app.tracer.start_as_current_span("request") as span:
            traces.add(span.get_span_context().trace_id)
            for _ in range(10):
                app.tracer.start_span("step").end()
            await asyncio.sleep(0.05)
            block(0.2)
            await asyncio.sleep(0.05)

    asyncio.run(request())
    assert "loop_block" in app.kinds()
    assert wait_for(lambda: sum(len(root.ended) for root in kept_of(traces)) == 0, 1)


@LINUX
def test_turning_it_on_and_off_leaves_no_thread_and_no_file(app, tmp_path):
    path = tmp_path / "flags.json"
    flag(path, True)
    app = app(OTEL_PERF_FLAGS_FILE=str(path))

    def flip():
        flag(path, True)
        app.pipeline.reload()
        slow_root(app)
        app.flush()
        watchdog = app.watchdog
        assert wait_for(lambda: watchdog._asleep, 3)
        flag(path, False)
        app.pipeline.reload()

    flip()
    time.sleep(0.5)
    threads, files = len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        flip()
    assert wait_for(lambda: len(os.listdir("/proc/self/task")) <= threads, 1), "threads"
    assert wait_for(lambda: len(os.listdir("/proc/self/fd")) <= files, 1), "files"


@LINUX
def test_it_never_closes_what_the_app_has_opened_under_a_number_of_its_own(app):
    """GIVEN a daemon that closes every file it has inherited WHEN its next files get these numbers THEN they stay open."""
    app = app()
    watchdog = app.watchdog
    root = app.tracer.start_span("root")
    assert wait_for(lambda: watchdog._statm is not None, 3)
    numbers = [watchdog._statm._number, run_queue._own.file._number]
    one, other = socket.socketpair()
    try:
        for number in numbers:
            os.dup2(one.fileno(), number)
        time.sleep(0.2)
        root.end()
        app.pipeline.shutdown()
        assert [number for number in numbers if not _is_socket(number)] == []
    finally:
        one.close()
        other.close()
        for number in numbers:
            if _is_socket(number):
                os.close(number)


def _is_socket(number):
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False


@LINUX
def test_threads_that_come_and_go_leave_no_file_open(app):
    app = app()
    watchdog = app.watchdog
    files = len(os.listdir("/proc/self/fd"))

    def work():
        with app.tracer.start_as_current_span("request"):
            time.sleep(0.12)

    for _ in range(3):
        threads = [threading.Thread(target=work) for _ in range(15)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wait_for(lambda: watchdog._asleep, 3)
    assert len(os.listdir("/proc/self/fd")) <= files + 10


@pytest.mark.usefixtures("absorbing")
def test_a_look_that_fails_is_counted_and_the_next_one_is_made(app, monkeypatch):
    app = app()
    watchdog = app.watchdog
    original, failed = watchdog._sample, []

    def sample(*arguments):
        if len(failed) < 3:
            failed.append(1)
            raise RuntimeError("broken")
        original(*arguments)

    monkeypatch.setattr(watchdog, "_sample", sample)
    with app.tracer.start_as_current_span("root"):
        (root,) = app.processor.roots.values()
        assert wait_for(lambda: root.samples, 5)
    assert app.pipeline.guards["bottlenecks"].errors == 3


def test_a_block_that_is_over_is_known_before_the_next_look(app):
    """GIVEN a watchdog that looks seldom WHEN a request is looked at first THEN what blocked it is there, once."""
    watchdog = app().watchdog
    loop = types.SimpleNamespace()
    stack = of_thread(frames.threads(DEPTH)[threading.get_ident()])
    now = time.time_ns()
    watchdog._hearts[id(loop)] = Heartbeat(loop, 1, sent=now - 200 * MS, answered=now, stacks=[stack])
    (block,) = watchdog.seen()
    assert block.end == now
    watchdog._record(watchdog._hearts[id(loop)])
    assert watchdog.seen() == [block]
    watchdog._hearts.clear()
