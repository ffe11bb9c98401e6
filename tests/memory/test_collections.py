"""Bounded collections stay within their limits, count what they drop, and lose nothing else."""

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from otel_perf.memory.collections import (
    BoundedDeque,
    BoundedDict,
    BoundedSet,
    LimitError,
    bounded,
)
from otel_perf.memory.priority_queue import BoundedPriorityQueue
from tests.bottlenecks.conftest import in_threads

ADDERS = {
    BoundedDict: lambda made, item: made.__setitem__(item, item),
    BoundedSet: lambda made, item: made.add(item),
    BoundedDeque: lambda made, item: made.append(item),
    BoundedPriorityQueue: lambda made, item: made.put(item),
}
KINDS = list(ADDERS)


def content(made):
    if isinstance(made, BoundedPriorityQueue):
        return [item for _, _, item in sorted(made._heap)]
    return list(made)


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


# What is left of 0, 1, 2 where two fit; of a queue of equals, the one that would be got last is dropped.
LEFT = {"drop_oldest": [1, 2], "drop_newest": [0, 1], "raise": [0, 1]}


@pytest.mark.parametrize("overflow", LEFT)
def test_what_is_one_too_many(kind, overflow):
    dropped = []
    made = kind(limit=2, overflow=overflow, on_drop=dropped.append)
    for item in (0, 1):
        ADDERS[kind](made, item)
    if overflow == "raise":
        with pytest.raises(LimitError, match=f"{kind.__name__} is full: 2 items"):
            ADDERS[kind](made, 2)
    else:
        ADDERS[kind](made, 2)
    expected = [0, 1] if kind is BoundedPriorityQueue else LEFT[overflow]
    assert content(made) == expected
    assert made.dropped == len(dropped) == (overflow != "raise")
    assert repr(made) == f"<{kind.__name__} '{kind.__name__}' 2 of 2, {made.dropped} dropped>"


def test_they_are_known_by_name_as_long_as_they_live(kind):
    made = kind(name="a name of its own", limit=3)
    ADDERS[kind](made, 1)
    assert [id(other) for other in bounded.values() if other.name == "a name of its own"] == [id(made)]
    gc.disable()  # what is large does not wait for it
    try:
        del made
    finally:
        gc.enable()
    assert not [other for other in bounded.values() if other.name == "a name of its own"]


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3", None, True])
def test_a_limit_that_is_none_is_named(kind, limit):
    with pytest.raises(ValueError, match=r"users: limit=.* must be a whole number of at least 1"):
        kind(name="users", limit=limit)


def test_an_overflow_that_is_none_is_named(kind):
    with pytest.raises(
        ValueError, match="overflow='drop' is unknown; it must be one of drop_oldest, drop_newest, raise"
    ):
        kind(name="users", limit=1, overflow="drop")


def test_a_callback_that_raises_loses_nothing(kind, absorbing):
    made = kind(limit=2, on_drop=lambda _item: 1 / 0)
    for item in range(5):
        ADDERS[kind](made, item)
    assert (len(made), made.dropped) == (2, 3)


def test_a_callback_may_use_the_collection(kind):
    made = kind(
        limit=2, on_drop=lambda _item: len(made) and made.dropped < 5 and ADDERS[kind](made, made.dropped + 100)
    )
    for item in range(5):
        ADDERS[kind](made, item)
    assert len(made) <= 2


def test_eight_threads_lose_nothing(kind):
    dropped = []
    made = kind(limit=50, on_drop=dropped.append)

    def work(index):
        for number in range(1_000):
            ADDERS[kind](made, (index, number))
            if len(made) > 50 + 8:
                raise AssertionError(len(made))

    in_threads(work, 8)
    assert len(made) == 50
    assert len(dropped) == made.dropped == 7_950
    gone = {item[0] if kind is BoundedDict else item for item in dropped}
    assert gone | set(content(made)) == {(index, number) for index in range(8) for number in range(1_000)}


def test_a_child_goes_on_while_threads_write(kind):
    made, stop = kind(limit=20), threading.Event()

    def work():
        sys.settrace(None)  # coverage's own lock may be held at a fork
        number = 0
        while not stop.is_set():
            number += 1
            ADDERS[kind](made, number)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    statuses = []
    try:
        for _ in range(15):
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                ADDERS[kind](made, -1)
                made.clear()
                os._exit(len(made))
            statuses.append(os.waitpid(pid, 0)[1])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert statuses == [0] * 15


# --- each as what it is ----------------------------------------------------------------------------


def test_a_dictionary():
    made = BoundedDict("d", limit=3)
    made.update(a=1, b=2, c=3)
    made["a"] = 10  # keeps its age
    made["d"] = 4
    assert dict(made) == {"b": 2, "c": 3, "d": 4}
    assert (made["b"], made.get("a"), "a" in made, made.pop("b"), made.pop("b", 0)) == (2, None, False, 2, 0)
    assert made.popitem() == ("c", 3)
    del made["d"]
    for wrong in (lambda: made["x"], lambda: made.pop("x"), made.popitem, lambda: made.__delitem__("x")):
        with pytest.raises(KeyError):
            wrong()
    assert made.setdefault("e", 5) == 5
    assert made == {"e": 5}


def test_a_set():
    made = BoundedSet([1, 2, 3, 2], "s", limit=3)
    made.add(4)
    assert made == {2, 3, 4}
    assert made & {2, 9} == {2}
    assert made | {9} == {2, 3, 4, 9}
    made.discard(9)
    made.remove(2)
    made -= {3}
    assert (set(made), len(made), made.dropped) == ({4}, 1, 1)
    made.clear()
    assert not made


def test_a_deque():
    made = BoundedDeque(range(5), "q", limit=3)
    assert (list(made), made[0], made[-1], len(made), made.dropped) == ([2, 3, 4], 2, 4, 3, 2)
    made.appendleft(9)
    made.extendleft([8])
    assert list(made) == [8, 9, 2]
    assert (made.pop(), made.popleft()) == (2, 8)
    made.clear()
    with pytest.raises(IndexError):
        made.pop()


def test_a_priority_queue_gives_the_first_of_the_least():
    made = BoundedPriorityQueue("p", limit=4)
    for priority, item in ((5, "e"), (1, "a"), (3, "c"), (1, "b"), (9, "never"), (0, "first")):
        made.put(item, priority)
    assert [made.get() for _ in range(4)] == ["first", "a", "b", "c"]
    assert made.dropped == 2
    with pytest.raises(IndexError):
        made.get_nowait()
    with pytest.raises(TimeoutError, match=r"p was empty for 0\.05 s"):
        made.get(timeout=0.05)


def test_threads_and_tasks_that_wait_get_what_comes_once():
    made, got, lock = BoundedPriorityQueue("p", limit=1_000), [], threading.Lock()

    def thread(_index):
        while True:
            item = made.get(timeout=20)
            if item is None:
                return
            with lock:
                got.append(item)

    def loop():
        async def task():
            while (item := await made.aget()) is not None:
                got.append(item)

        async def main():
            await asyncio.gather(*(task() for _ in range(5)))

        asyncio.run(main())

    threads = [threading.Thread(target=thread, args=(index,)) for index in range(3)]
    threads += [threading.Thread(target=loop) for _ in range(2)]
    for started in threads:
        started.start()
    for number in range(500):
        made.put(number)
        if number % 50 == 0:
            time.sleep(0.002)
    for _ in range(13):
        made.put(None, 10)
    for started in threads:
        started.join(30)
        assert not started.is_alive()
    assert sorted(got) == list(range(500))


def test_one_that_gave_up_waiting_takes_no_wake_up_with_it():
    made = BoundedPriorityQueue("p", limit=10)

    async def main():
        tasks = [asyncio.ensure_future(made.aget()) for _ in range(4)]
        await asyncio.sleep(0.01)
        made.put("a")
        tasks[0].cancel()  # after it was woken
        tasks[1].cancel()
        await asyncio.sleep(0.01)
        made.put("b")
        assert sorted(await asyncio.wait_for(asyncio.gather(*tasks[2:]), 5)) == ["a", "b"]

    asyncio.run(main())
    with pytest.raises(TimeoutError):
        made.get(timeout=0.01)
    assert not made._waiting


# --- against plain models --------------------------------------------------------------------------

ITEMS = st.integers(0, 9)


class AgainstModels(RuleBasedStateMachine):
    @initialize(limit=st.integers(1, 6))
    def begin(self, limit):
        self.limit, self.number = limit, 0
        self.dict, self.set = BoundedDict(limit=limit), BoundedSet(limit=limit)
        self.deque, self.queue = BoundedDeque(limit=limit), BoundedPriorityQueue(limit=limit)
        self.keys, self.items, self.entries = {}, deque(maxlen=limit), []

    @rule(item=ITEMS, value=ITEMS)
    def add(self, item, value):
        self.dict[item] = value
        self.set.add(item)
        self.deque.append(item)
        self.queue.put((item, self.number), value)
        if item not in self.keys and len(self.keys) == self.limit:
            del self.keys[next(iter(self.keys))]
        self.keys[item] = value
        self.items.append(item)
        self.entries = sorted([*self.entries, (value, self.number, item)])[: self.limit]
        self.number += 1

    @rule(item=ITEMS)
    def take(self, item):
        assert self.dict.pop(item, None) == self.keys.pop(item, None)
        self.set.discard(item)
        if self.items:
            assert self.deque.popleft() == self.items.popleft()
        if self.entries:
            _, number, item = self.entries.pop(0)
            assert self.queue.get_nowait() == (item, number)

    @rule(item=ITEMS)
    def add_left(self, item):
        self.deque.appendleft(item)
        self.items.appendleft(item)

    @invariant()
    def same(self):
        if hasattr(self, "dict"):
            assert dict(self.dict) == self.keys
            assert list(self.set) == list(self.keys)
            assert list(self.deque) == list(self.items)
            assert len(self.queue) == len(self.entries)


AgainstModels.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAgainstModels = AgainstModels.TestCase


@pytest.mark.parametrize("kind", [BoundedSet, BoundedDeque])
def test_a_name_in_the_place_of_the_items_is_refused(kind):
    with pytest.raises(TypeError, match=r"a text is no items; write Bounded\w+\(name='users', limit=…\)"):
        kind("users", limit=10)
