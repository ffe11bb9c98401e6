"""What a collection or a registry of singletons calls may use it: nothing hangs, nothing is lost, no limit is passed."""

import gc
import os
import signal
import sys
import threading
import time
from contextlib import suppress

import pytest

from otel_perf.memory.collections import BoundedDeque, BoundedDict, BoundedSet
from otel_perf.memory.priority_queue import BoundedPriorityQueue
from otel_perf.memory.singletons import Singletons
from tests import alarms
from tests.memory.test_safety import PATIENCE, Key, Reentering, Value, finishes

LIMIT = 8


class Adapter:
    """What the probes do to a structure."""

    def __init__(self, made, write, read, take):
        self.made, self.write, self.read, self.take = made, write, read, take

    def ways(self, number):
        """What code that is called may do to it."""
        made, item = self.made, f"again {number % 5}"
        return (
            lambda: self.write(item),
            lambda: self.read(item),
            lambda: self.take(item),
            lambda: len(made),
            lambda: repr(made),
            lambda: made.clear() if number % 36 == 5 else None,
        )

    def whole(self):
        """Its parts fit each other."""
        made = self.made
        assert len(made) <= LIMIT
        if isinstance(made, BoundedPriorityQueue):
            heap = made._heap
            assert all(heap[(at - 1) // 2][:2] <= heap[at][:2] for at in range(1, len(heap)))
        elif not isinstance(made, BoundedDeque):
            policy = (made._items if isinstance(made, BoundedSet) else made)._store.policy
            queued = {id(entry) for entry in policy._order if policy.entries.get(entry.key) is entry}
            assert len(queued) == len(policy.entries) == len(made)


def one(name, **options):
    if name == "dict":
        made = BoundedDict("probe", limit=LIMIT, **options)
        return Adapter(made, lambda item: made.__setitem__(item, item), made.get, lambda item: made.pop(item, None))
    if name == "set":
        made = BoundedSet((), "probe", limit=LIMIT, **options)
        return Adapter(made, made.add, made.__contains__, made.discard)
    if name == "deque":
        made = BoundedDeque((), "probe", limit=LIMIT, **options)
        return Adapter(made, made.append, lambda _item: list(made), lambda _item: made.pop() if len(made) else None)
    made = BoundedPriorityQueue("probe", limit=LIMIT, **options)
    priorities = iter(range(10**9))

    def take(_item):
        try:
            return made.get_nowait()
        except IndexError:
            return None

    return Adapter(made, lambda item: made.put(item, next(priorities) * 7 % 11), lambda _item: len(made), take)


@pytest.fixture(params=["dict", "set", "deque", "queue"])
def make(request):
    return lambda **options: one(request.param, **options)


@pytest.fixture(params=["dict", "set"])
def make_keyed(request):
    return lambda **options: one(request.param, **options)


class Again(Reentering):
    """Uses the collection in turn in every way."""

    def __call__(self):
        if self.inside or self.adapter is None:
            return
        self.inside = True
        try:
            self.calls += 1
            self.number += 1
            ways = self.adapter.ways(self.number)
            ways[self.number % len(ways)]()
        finally:
            self.inside = False


@pytest.fixture
def again():
    return Again()


def test_a_keys_own_comparison_may_use_it(make_keyed, again):
    adapter = again.adapter = make_keyed()

    def work():
        for number in range(400):
            adapter.write(Key(number % 11, again))
            adapter.read(Key(number % 7, again))

    finishes(work)
    assert again.calls > 400
    again.adapter = None
    adapter.whole()


def test_what_goes_may_use_it(make, again):
    adapter = again.adapter = make()

    def work():
        for _ in range(2_000):
            adapter.write(Value(again))
        gc.collect()

    finishes(work)
    assert again.calls > 500
    again.adapter = None
    adapter.whole()


def test_the_garbage_collector_may_use_it_anywhere(make, again):
    adapter = again.adapter = make()
    thresholds = gc.get_threshold()

    def collected(_phase, _info):
        again()

    gc.callbacks.append(collected)
    gc.set_threshold(1, 1, 1)

    def work():
        for number in range(600):
            adapter.write((number % 13,))
            adapter.read((number % 5,))

    try:
        finishes(work)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collected)
    assert again.calls > 300
    adapter.whole()


def test_the_callback_may_use_it(make, again):
    adapter = again.adapter = make(on_drop=lambda _item: again())
    finishes(lambda: [adapter.write(number) for number in range(2_000)])
    assert again.calls > 100
    again.adapter = None
    adapter.whole()


def test_a_callback_that_blocks_keeps_nobody_else_out(make):
    blocked, go_on = threading.Event(), threading.Event()

    def wait(_item):
        blocked.set()
        go_on.wait(PATIENCE)

    adapter = make(on_drop=wait)
    thread = threading.Thread(target=lambda: [adapter.write(number) for number in range(LIMIT + 1)])
    thread.start()
    assert blocked.wait(PATIENCE)
    try:
        finishes(lambda: (adapter.read(3), len(adapter.made), adapter.take(3), adapter.write("other")))
    finally:
        go_on.set()
        thread.join()
    adapter.whole()


def test_a_signal_handler_may_use_it(make, again):
    adapter = again.adapter = make()
    before = signal.signal(signal.SIGALRM, lambda *_: again())
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        deadline, number = time.monotonic() + PATIENCE, 0
        while again.calls < 300 and time.monotonic() < deadline:
            number += 1
            adapter.write((number % 13, "x"))
            adapter.read((number % 5, "x"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        alarms.restore(before)
    assert again.calls >= 300
    again.adapter = None
    for number in range(20):  # an order that was disturbed mends itself
        adapter.write(("last", number))
    adapter.whole()


def test_a_signal_handler_that_raises_leaves_it_whole(make):
    adapter = make()

    def interrupt(*_):
        raise KeyboardInterrupt

    trace = sys.gettrace()
    sys.settrace(None)  # coverage's, which may be interrupted where no other program may
    before = signal.signal(signal.SIGALRM, interrupt)
    number = interrupted = 0
    deadline = time.monotonic() + PATIENCE
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while interrupted < 200 and time.monotonic() < deadline:
            try:
                while True:
                    number += 1
                    adapter.write((number % 13, "x"))
            except KeyboardInterrupt:
                interrupted += 1
    except KeyboardInterrupt:
        pass
    finally:
        while True:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                alarms.restore(before)
                break
            except KeyboardInterrupt:
                pass
        sys.settrace(trace)
    finishes(lambda: [adapter.write(("last", number)) for number in range(20)])
    assert len(adapter.made) == LIMIT
    adapter.whole()


def test_a_fork_inside_of_what_it_calls(make):
    pids = []

    def fork(_item):
        if not pids:
            pids.append(os.fork())

    adapter = make(on_drop=fork)
    for number in range(30):
        adapter.write((number, "x"))
    if pids[0] == 0:
        os._exit(len(adapter.made) - LIMIT)
    assert os.waitpid(pids[0], 0)[1] == 0
    adapter.whole()


@pytest.mark.parametrize("wrong", [[1], {}])
def test_a_key_that_cannot_be_one_is_refused(make_keyed, wrong):
    adapter = make_keyed()
    adapter.write("a")
    for use in (lambda: adapter.write(wrong), lambda: wrong in adapter.made):
        with pytest.raises(TypeError, match="unhashable type"):
            use()
    assert list(adapter.made) == ["a"]
    adapter.whole()


# --- priorities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["high", None, float("nan"), 1j])
def test_a_priority_that_is_no_number_is_named_and_breaks_nothing(wrong):
    queue = BoundedPriorityQueue("p", limit=2)
    queue.put("a", 1)
    for _ in range(2):
        with pytest.raises(TypeError, match=r"p: priority=.* must be a number"):
            queue.put("b", wrong)
        queue.put("c", 2.5)
    assert [queue.get_nowait() for _ in range(len(queue))] == ["a", "c"]


def test_nothing_that_is_put_while_it_is_full_is_lost(again):
    """GIVEN a full queue WHEN the collector puts and gets in the midst THEN each item was got, dropped, or is there."""
    dropped, got, put = [], [], []
    queue = BoundedPriorityQueue("p", limit=LIMIT, on_drop=dropped.append)
    numbers = iter(range(10**9))

    def collected(_phase, _info):
        if again.inside:
            return
        again.inside = True
        item = next(numbers)
        if item % 3:
            put.append(item)
            queue.put(item, item * 7 % 11)
        elif len(queue):
            got.append(queue.get_nowait())
        again.inside = False

    thresholds = gc.get_threshold()
    gc.callbacks.append(collected)
    gc.set_threshold(1, 1, 1)
    try:
        for _ in range(1_000):
            item = next(numbers)
            put.append(item)
            queue.put(item, [item * 5 % 13][0])
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collected)
    rest = [queue.get_nowait() for _ in range(len(queue))]
    assert sorted([*dropped, *got, *rest]) == sorted(put)
    assert queue.dropped == len(dropped)


# --- singletons ------------------------------------------------------------------------------------


class Thing:
    closed = 0

    def close(self):
        self.closed += 1


@pytest.fixture
def registry():
    made = Singletons()
    made._at_exit = True  # the tests' process is not the app's
    for name in "abc":
        made.register(name, Thing, close="close")
    return made


def use(registry, number):
    """In turn in every way."""
    name = "abc"[number % 3]
    (
        lambda: registry.get(name),
        lambda: registry.close(name),
        lambda: name in registry,
        lambda: registry.ping(),
    )[number % 4]()


def test_the_garbage_collector_may_use_the_registry_anywhere(registry, again):
    thresholds, calls = gc.get_threshold(), []

    def collected(_phase, _info):
        if not again.inside:
            again.inside = True
            calls.append(1)
            with suppress(RuntimeError):  # this very thread is making it: "singletons need each other"
                use(registry, len(calls))
            again.inside = False

    gc.callbacks.append(collected)
    gc.set_threshold(1, 1, 1)

    def work():
        for number in range(300):
            assert isinstance(registry.get("abc"[number % 3]), Thing)
            if number % 5 == 0:
                registry.close("abc"[number % 3])

    try:
        finishes(work)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collected)
    assert len(calls) > 100
    registry.close()
    assert not any(name in registry for name in "abc")


def test_what_is_made_again_while_all_are_closed_stays(registry):
    closed = []
    registry.register("again", object, close=lambda _instance: closed.append("again") or registry.get("again"))
    registry.register("new", object, close=lambda _instance: closed.append("new"))
    registry.register("maker", object, close=lambda _instance: closed.append("maker") or registry.get("new"))
    registry.get("again"), registry.get("maker")
    finishes(registry.close)
    assert closed == ["maker", "new", "again"]
    assert "again" in registry


def test_a_signal_handler_may_use_the_registry(registry):
    calls = []

    def handle(*_):
        calls.append(1)
        with suppress(RuntimeError):  # the thread that it interrupted is making it: "singletons need each other"
            use(registry, len(calls))

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        deadline, number = time.monotonic() + PATIENCE, 0
        while len(calls) < 200 and time.monotonic() < deadline:
            number += 1
            name = "abc"[number % 3]
            registry.get(name)
            registry.close(name)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        alarms.restore(before)
    assert len(calls) >= 200
    assert all(isinstance(registry.get(name), Thing) for name in "abc")


def test_keys_may_use_the_registry(registry, again):
    again.adapter = type("Ways", (), {"ways": lambda _self, number: (lambda: use(registry, number),)})()
    for number in range(20):
        registry.register(Key(number, again), object)
    for number in range(20):
        assert registry.get(Key(number, again)) is registry.get(Key(number, again))
    assert again.calls > 100


def test_a_close_that_blocks_keeps_nobody_else_out(registry):
    blocked, go_on = threading.Event(), threading.Event()
    registry.register("slow", object, close=lambda _instance: (blocked.set(), go_on.wait(PATIENCE)))
    registry.get("slow")
    thread = threading.Thread(target=registry.close, args=("slow",))
    thread.start()
    assert blocked.wait(PATIENCE)
    try:
        finishes(lambda: (registry.get("a"), registry.close("a"), registry.get("slow")))
    finally:
        go_on.set()
        thread.join()


def test_a_factory_may_fork(registry):
    pids = []

    def fork():
        pids.append(os.fork())
        return Thing()

    registry.register("forking", fork, close="close")
    made = registry.get("forking")
    if pids[0] == 0:
        os._exit(0 if registry.get("forking") is made and isinstance(registry.get("a"), Thing) else 1)
    assert os.waitpid(pids[0], 0)[1] == 0
    assert registry.get("forking") is made


def test_eight_threads_that_get_and_close_make_and_close_each_once(registry):
    made, lock = [], threading.Lock()

    class Counted(Thing):
        def __init__(self):
            with lock:
                made.append(self)

    registry.register("counted", Counted, close="close")

    def work():
        for number in range(500):
            assert isinstance(registry.get("counted"), Counted)
            if number % 10 == 0:
                registry.close("counted")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    registry.close()
    assert {thing.closed for thing in made} == {1}
