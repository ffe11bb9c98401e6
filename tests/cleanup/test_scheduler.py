"""Cleanup tasks run when they are due, in slices, and one that fails is given up after some tries."""

import asyncio
import os
import statistics
import threading
import time
from itertools import pairwise
from types import SimpleNamespace

import pytest

from otel_perf.cleanup import scheduler as module
from otel_perf.cleanup.metrics import Totals
from otel_perf.cleanup.scheduler import DUTY, SLICE, TRIES, Scheduler
from otel_perf.core import activity, cleaning
from otel_perf.core.cleaning import cleanup_task, register
from tests.bottlenecks.conftest import wait_for


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("tasks", "changed"):
        monkeypatch.setattr(cleaning, name, [])
    monkeypatch.setattr(activity, "sources", [])
    monkeypatch.setattr(module, "JITTER", 0.0)


@pytest.fixture
def told():
    return []


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def scheduler(told, clock):
    made = Scheduler(told.append, clock)
    made._ended, made._bell = False, threading.Lock()  # as if its thread were there
    return made


def until(scheduler, clock, seconds):
    """Let time pass, and run what is due."""
    end = clock.now + seconds
    while clock.now < end:
        wait = scheduler.step()
        clock.now = min(end, clock.now + max(wait, 0.001))


def test_a_task_runs_as_often_as_it_wants(scheduler, clock, told):
    runs = []
    register("often", lambda: runs.append(clock.now), 10)
    register("seldom", lambda: 5, 45)
    until(scheduler, clock, 100)
    assert [round(at) for at in runs] == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert [(run.task.name, run.amount) for run in told if run.task.name == "seldom"] == [("seldom", 5)] * 2


def test_one_that_was_taken_back_does_not_run(scheduler, clock, told):
    remove = register("gone", lambda: None, 10)
    until(scheduler, clock, 15)
    remove()
    remove()
    until(scheduler, clock, 50)
    assert len(told) == 1


def test_a_generator_runs_in_slices_with_rests(told, monkeypatch):
    """GIVEN 0.2 s of work in small steps WHEN it is run THEN slices are short and take a twentieth of the time."""
    # A thread that loses its CPU within a slice makes that longer, and not the slices fewer.
    monkeypatch.setattr(module, "time", SimpleNamespace(**{**vars(time), "perf_counter": time.thread_time}))

    def sweep():
        until = time.thread_time
        for _ in range(2_000):
            end = until() + 0.00001
            while until() < end:
                pass
            yield 1

    register("sweep", sweep, 0.001)
    real = Scheduler(told.append)
    real._bell = threading.Lock()
    while not told:
        real.step()
        time.sleep(0.001)
    run = told[0]
    assert run.amount == 2_000
    assert run.slices >= run.busy / (3 * SLICE)
    assert run.busy / run.seconds < 2 * DUTY


def test_a_coroutine_function_runs_in_slices_and_may_wait(told):
    seen = []

    async def sweep():
        await asyncio.sleep(0.01)
        for _ in range(2_000):
            end = time.perf_counter() + 0.00001
            while time.perf_counter() < end:
                pass
            await asyncio.sleep(0)
        seen.append(asyncio.get_running_loop())
        return 7

    register("sweep", sweep, 0.001)
    real = Scheduler(told.append)
    real._bell = threading.Lock()
    while not told:
        real.step()
        time.sleep(0.001)
    (run,) = told
    assert (run.outcome, run.amount, len(seen)) == ("done", 7, 1)
    assert run.slices > 50
    assert run.busy / run.seconds < 2 * DUTY


def test_one_that_fails_is_tried_later_and_later_then_parked(scheduler, clock, told):
    tries = []

    def fails():
        tries.append(clock.now)
        raise OSError("no")

    register("fails", fails, 10)
    until(scheduler, clock, 5_000)
    assert len(tries) == TRIES
    assert [round(later - earlier) for earlier, later in pairwise(tries)] == [20, 40, 80, 160]
    assert [run.outcome for run in told] == ["failed"] * (TRIES - 1) + ["parked"]
    assert str(told[-1].error) == "no"


def test_one_that_gets_well_again_is_as_often_as_before(scheduler, clock, told):
    tries = []

    def unsteady():
        tries.append(clock.now)
        if len(tries) % 3:
            raise OSError

    register("unsteady", unsteady, 10)
    until(scheduler, clock, 2_000)
    assert "parked" not in {run.outcome for run in told}


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt])
def test_a_task_does_not_end_the_program(scheduler, clock, told, raised):
    def ends():
        raise raised

    register("ends", ends, 10)
    until(scheduler, clock, 15)
    assert told[0].outcome == "failed"


def test_one_that_takes_too_long_is_ended(told):
    closed = []

    def endless():
        try:
            while True:
                yield
        finally:
            closed.append(True)

    async def waits():
        try:
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    register("endless", endless, 0.001, deadline=0.1)
    register("waits", waits, 0.001, deadline=0.1)
    real = Scheduler(told.append)
    real._bell = threading.Lock()
    while {run.task.name for run in told} != {"endless", "waits"}:
        real.step()
        time.sleep(0.001)
    assert {run.outcome for run in told} == {"late"}
    assert str(told[0].error) == "it took longer than its deadline of 0.1 s"
    assert len(closed) == len(told)


def test_an_exclusive_one_waits_for_a_moment_without_work(scheduler, clock, told):
    busy = True
    activity.sources.append(lambda: busy)
    register("stops all", lambda: None, 10, exclusive=True)
    register("other", lambda: None, 10)
    until(scheduler, clock, 15)
    assert {run.task.name for run in told} == {"other"}
    busy = False
    until(scheduler, clock, 1)
    assert {run.task.name for run in told} == {"other", "stops all"}


def test_an_exclusive_one_does_not_wait_for_ever(scheduler, clock, told):
    activity.sources.append(lambda: True)
    register("stops all", lambda: told.append(clock.now), 10, exclusive=True)
    until(scheduler, clock, 25)
    assert told[0] == pytest.approx(20, abs=0.2)


def test_the_thread_comes_with_the_first_task_and_goes_at_the_end(told):
    before = set(os.listdir("/proc/self/task"))  # those of tests before it may yet end

    def begun():
        return set(os.listdir("/proc/self/task")) - before

    made = Scheduler(told.append)
    cleaning.changed.append(made.wake)
    made.start()
    assert not begun()
    ran = threading.Event()
    register("task", ran.set, 0.01)
    assert ran.wait(5)
    pid = os.fork()
    if pid == 0:
        ran.clear()
        made.start()
        os._exit(0 if ran.wait(5) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    made.end()
    made.end()
    assert wait_for(lambda: not begun(), 5)
    register("later", ran.set, 0.01)
    assert not begun()


def test_the_decorator_leaves_the_function_as_it_is():
    @cleanup_task(every="30s", deadline="5s", exclusive=True)
    def sweep():
        yield 1

    assert list(sweep()) == [1]
    (task,) = cleaning.tasks
    assert (task.name, task.every, task.deadline, task.exclusive) == (
        f"{__name__}.test_the_decorator_leaves_the_function_as_it_is.<locals>.sweep", 30, 5, True,
    )  # fmt: skip


@pytest.mark.parametrize("every", [0, -1, "never", float("inf")])
def test_a_wrong_time_is_named(every):
    with pytest.raises(ValueError, match=r"@cleanup_task: every=.* must be more than 0; write seconds or like '30s'"):
        cleanup_task(every=every)


def test_an_asynchronous_generator_is_refused():
    with pytest.raises(TypeError, match="write a coroutine function"):

        @cleanup_task(every=1)
        async def sweep():
            yield


def test_totals(scheduler, clock, told):
    totals = Totals()
    register("a", lambda: None, 10)
    until(scheduler, clock, 35)
    for run in told:
        totals.add(run)
    assert list(totals.runs()) == [(3, {"task": "a", "outcome": "done"})]
    ((seconds, labels),) = totals.time()
    assert labels == {"task": "a"}
    assert seconds == pytest.approx(statistics.fsum(run.busy for run in told))


def test_begun_anew_while_it_rests_there_is_one_thread(told):
    """GIVEN a thread that rests between two slices WHEN the feature is turned off and on THEN it does not go on."""
    threads = []

    def sweep():
        while True:
            threads.append(threading.get_ident())
            end = time.perf_counter() + 0.0002
            while time.perf_counter() < end:
                pass
            yield 1

    register("sweep", sweep, 0.001)
    real = Scheduler(told.append)
    real.start()
    try:
        assert wait_for(lambda: threads)
        real.end()
        real.start()
        assert wait_for(lambda: len(set(threads)) > 1)
        begun = len(threads)
        assert wait_for(lambda: len(threads) > begun + 20)  # the first one has rested out by then, and would go on
        assert len(set(threads[begun + 10 :])) == 1
    finally:
        real.end()
