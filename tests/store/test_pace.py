"""The thread that sends keeps to its share of the time, unless somebody waits for it."""

import time

import pytest

from otel_perf.store import pace
from otel_perf.store.pace import DUTY, SHORTEST, Pace


@pytest.fixture
def slept(monkeypatch):
    found = []
    monkeypatch.setattr(pace.time, "sleep", found.append)
    return found


def work(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_rests_are_as_long_as_the_work_before_them_asks(slept):
    paced = Pace(lambda: False)
    work(0.02)
    paced.rest()
    paced.rest()
    assert slept[0] >= 0.02 * (1 / DUTY - 1)
    assert slept[1] == SHORTEST


def test_what_was_done_before_is_not_counted(slept):
    paced = Pace(lambda: False)
    work(0.02)
    paced.begin()
    paced.rest()
    assert slept == [SHORTEST]


def test_nobody_who_waits_waits_for_a_rest(slept):
    paced = Pace(lambda: True)
    work(0.01)
    paced.rest()
    assert slept == []
