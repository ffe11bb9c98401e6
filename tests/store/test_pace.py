"""The thread that sends keeps to its share of the time, unless somebody waits for it."""

import pytest

from otel_perf.store import pace
from otel_perf.store.pace import DUTY, EASY, LONGEST, LOOK, SHORTEST, Pace


class Time:
    """A clock that only sleeping and working move."""

    def __init__(self):
        self.now = self.worked = 0.0
        self.sleeps = []

    def monotonic(self):
        return self.now

    def thread_time(self):
        return self.worked

    def sleep(self, seconds):
        self.now += seconds
        self.sleeps.append(seconds)

    def work(self, seconds):
        self.now += seconds
        self.worked += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Time()
    monkeypatch.setattr(pace, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("worked", "rest"), [(0.0, SHORTEST), (0.01, 0.01 * (1 / DUTY - 1)), (0.05, 0.05 * (1 / DUTY - 1)), (60.0, LONGEST)]
)
def test_rests_are_as_long_as_the_work_before_them_asks(clock, worked, rest):
    paced = Pace(lambda: False)
    clock.work(worked)
    paced.rest()
    assert sum(clock.sleeps) == pytest.approx(rest)
    assert max(clock.sleeps) <= LOOK
    clock.sleeps.clear()
    paced.rest()
    assert sum(clock.sleeps) == pytest.approx(SHORTEST)


def test_it_is_easy_while_that_sends_more_than_comes_in():
    """Looks at a backlog of 100,000 items that 1,000 are added to between two looks, at first while nothing is taken."""
    paced = Pace(lambda: False)
    seen = []
    #                      sent at a tenth, then at a fiftieth, then 30,000 come, then few again; at last one is dropped
    for waiting, sent, dropped in [
        (100_000, 0, 0), (101_000, 0, 0), (52_000, 50_000, 0), (43_000, 60_000, 0), (44_000, 60_000, 0),
        (64_000, 70_000, 0), (44_000, 120_000, 0), (15_000, 150_000, 0), (14_500, 160_000, 0), (10_000, 165_000, 9),
    ]:  # fmt: skip
        paced.look(waiting, sent, dropped)
        seen.append(paced.easy)
    assert seen == [False, False, True, True, True, False, False, True, True, False]


def test_it_is_not_easy_while_all_is_sent_that_comes():
    paced = Pace(lambda: False)
    for sent in range(0, 1000, 100):
        paced.look(0, sent, 0)
        assert not paced.easy


def test_rests_are_longer_while_it_is_easy(clock):
    paced = Pace(lambda: False)
    paced.easy = True
    clock.work(0.01)
    paced.rest()
    assert sum(clock.sleeps) == pytest.approx(0.01 * (1 / EASY - 1))


def test_what_was_done_before_is_not_counted(clock):
    paced = Pace(lambda: False)
    clock.work(1.0)
    paced.begin()
    paced.rest()
    assert sum(clock.sleeps) == pytest.approx(SHORTEST)


def test_nobody_who_waits_waits_for_a_rest(clock):
    paced = Pace(lambda: clock.now >= 0.13)
    clock.work(0.1)
    paced.rest()
    assert clock.now == pytest.approx(0.13, abs=LOOK)
    clock.work(0.1)
    clock.sleeps.clear()
    paced.rest()
    assert clock.sleeps == []
