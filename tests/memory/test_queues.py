"""Deadlines: whatever comes in the midst of a step, what is queued comes out, and nothing grows."""

import itertools
import random

import pytest

from otel_perf.memory.lookup import GONE, Entry
from otel_perf.memory.queues import BUCKETS, Deadlines


def entry(deadline):
    return Entry(deadline, "value", deadline)


def taken(deadlines, now):
    return list(iter(lambda: deadlines.take(now), None))


@pytest.mark.parametrize("ttl", [1e-6, 0.001, 0.2, 1.0, 60.0, 86_400.0, 1e9, 1e308])
def test_what_expires_comes_out_a_256th_of_its_time_later_at_most(ttl):
    entries = [entry(ttl * (1 + number / 100)) for number in range(50)]
    deadlines = Deadlines(entries, 0.0)
    assert taken(deadlines, ttl * 0.999) == []
    late = max(ttl / 256, 0.001)
    for number in range(50):
        now = ttl * (1 + number / 100)
        assert all(found.deadline <= now for found in taken(deadlines, now))
        assert len(deadlines) <= sum(other.deadline > now - 2 * late for other in entries)
    assert {found.deadline for found in taken(deadlines, max(4 * ttl, 2 * late))} <= {
        found.deadline for found in entries
    }
    assert (len(deadlines), deadlines.queued) == (0, 0)


def test_buckets_that_nobody_looks_at_do_not_make_a_step_long():
    """GIVEN short times to live, and no sweep WHEN entries come for minutes THEN there are few buckets to look at."""
    deadlines = Deadlines()
    for number in range(20_000):
        now = number / 50
        deadlines.add(entry(now + 0.2), now)
        assert len(deadlines._buckets) <= BUCKETS + 100
    assert len(taken(deadlines, 1_000.0)) == 20_000
    assert not deadlines._over


def test_those_that_are_gone_go_as_fast_as_others_come():
    """GIVEN few that live long WHEN others come and go, each in a bucket of its own THEN their places go, too."""
    chance = random.Random(1)
    deadlines = Deadlines([entry(1e6 + number) for number in range(400)], 0.0)
    for number in range(20_000):
        now = number * 0.7
        made = entry(now + chance.choice((0.2, 3.0, 90.0)))
        deadlines.add(made, now)
        made.value = GONE
        if deadlines.queued > 2 * 400 + 64:
            deadlines.tidy(now)
        assert deadlines.queued == len(deadlines) <= 2.5 * 400 + 64


def test_one_that_is_stored_anew_is_queued_again_by_tidying():
    deadlines = Deadlines([entry(10.0) for _ in range(10)], 0.0)
    moved = [entry(10.0) for _ in range(10)]
    for one in moved:
        deadlines.add(one, 0.0)
        one.deadline = 500.0
    for _ in range(20):
        deadlines.tidy(1.0)
    assert len(deadlines) == 20
    assert len(taken(deadlines, 11.0)) == 10
    assert set(map(id, taken(deadlines, 600.0))) == set(map(id, moved))


def test_nothing_is_lost_however_steps_come_in_each_others_midst():
    """GIVEN any order of adding, taking and tidying THEN each entry comes out once it is over, and at last all have."""
    chance = random.Random(7)
    for _ in range(50):
        deadlines, inside, now = Deadlines(), set(), 0.0
        for number in itertools.count():
            step = chance.random()
            if step < 0.6 and number < 500:
                made = entry(now + chance.choice((0.01, 1.0, 50.0)) * (1 + chance.random()))
                deadlines.add(made, now)
                inside.add(made)
            elif step < 0.8:
                deadlines.tidy(now)
            else:
                now += chance.random() * 20
                for found in taken(deadlines, now):
                    if found.deadline > now:
                        deadlines.add(found, now)
                    else:
                        inside.remove(found)
            if number >= 500 and not inside:
                break
        assert len(deadlines) == 0
