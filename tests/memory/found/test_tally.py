"""What caches counted since they were found."""

import functools
import gc
import os
import threading

from otel_perf.memory.cache_metrics import Numbers
from otel_perf.memory.found.functions import Functools
from otel_perf.memory.found.tally import Tally


def double(number):
    return 2 * number


def test_what_a_cache_had_before_it_was_found_is_not_counted():
    cached = functools.lru_cache(double)
    cached(1), cached(1), cached(2)
    watched = Functools(cached, "double")
    tally = Tally(lambda: [watched])
    assert list(tally()) == [("double", 0, 0)]
    cached(1), cached(3)
    assert list(tally()) == list(tally()) == [("double", 1, 1)]


def test_what_one_had_stays_when_it_is_cleared_or_gone():
    caches = [functools.lru_cache(double), functools.lru_cache(double)]
    watched = [Functools(cached, "double") for cached in caches]
    tally = Tally(lambda: watched)
    for cached in caches:
        cached(1), cached(1)
    assert list(tally()) == [("double", 2, 2)]
    caches[0].cache_clear()
    caches[0](1)
    assert list(tally()) == [("double", 2, 3)]
    del caches[1], cached
    gc.collect()
    assert list(tally()) == [("double", 2, 3)]


def test_who_comes_while_another_reads_gets_what_was_there_and_counts_nothing_twice():
    inside, go_on = threading.Event(), threading.Event()

    class Slow:
        name = "slow"

        def numbers(self):
            inside.set()
            go_on.wait(10)
            return Numbers(hits=5, misses=3)

    slow = Slow()
    known = []
    tally = Tally(lambda: known)
    known.append(slow)
    reader = threading.Thread(target=tally)
    reader.start()
    assert inside.wait(10)
    assert list(tally()) == []
    child = os.fork()
    if child == 0:  # the other thread, which reads, is not here
        go_on.set()
        os._exit(0 if list(tally()) == [("slow", 5, 3)] else 1)
    go_on.set()
    reader.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert list(tally()) == [("slow", 5, 3)]


def test_names_without_end_are_counted_together():
    class Known:
        def __init__(self, name):
            self.name = name

        def numbers(self):
            return Numbers(hits=1)

    caches = [Known("old")]
    tally = Tally(lambda: caches)
    caches += [Known(f"c{number}") for number in range(500)]
    found = list(tally())
    assert len(found) == 201
    assert ("old", 0, 0) in found
    assert sum(hits for _, hits, _ in found) == 500
