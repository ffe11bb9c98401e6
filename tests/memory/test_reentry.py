"""Caches that are used again in the midst of themselves, at every line of theirs: the numbers fit the content."""

import itertools
import sys

import pytest

from otel_perf.memory import limited
from otel_perf.memory.caches import LRUCache, TTLCache

FOLDER = limited.__file__.rpartition("/")[0]


def use(cache, number):
    """In every way that changes something."""
    for step in range(3):
        cache[(step + number) % 13, "x"] = 1_000 + step
    cache.get((number % 5, "x"))
    cache.pop((number % 13, "x"), None)
    if number % 3 == 0:
        list(cache._store.expire())
    elif number % 3 == 1:
        cache.clear()
    else:
        cache._store.shrink(4)


def interrupted_at(line, work, again):
    """Do ``work``, and ``again`` before the given line of those that it runs of ours; whether there is one."""
    seen, before = itertools.count(1), sys.gettrace()
    reached = []

    def trace(frame, event, _argument):
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        if event == "line" and next(seen) == line:
            sys.settrace(None)
            reached.append(line)
            again()
            sys.settrace(trace)
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return bool(reached)


@pytest.mark.parametrize("ttl", [None, 60.0])
@pytest.mark.parametrize("policy", ["lru", "s3fifo", "fifo"])
def test_the_bytes_of_a_cache_are_those_of_its_entries(policy, ttl):
    options = {"max_bytes": 1_800, "policy": policy}
    for line in itertools.count(1):
        cache = LRUCache("c", **options) if ttl is None else TTLCache("c", ttl=ttl, **options)
        for number in range(40):
            cache[number % 13, "x"] = number

        def work(cache=cache):
            for number in range(40, 46):
                cache[number % 13, "x"] = number
                cache.get((number % 5, "x"))

        reached = interrupted_at(line, work, lambda cache=cache, line=line: use(cache, line))
        store = cache._store
        assert store.weight == sum(entry.weight for entry in store.policy.entries.values()) <= 1_800
        if not reached:
            break
    assert line > 200
