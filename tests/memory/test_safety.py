"""Whatever a cache calls may use the cache: nothing hangs, nothing crashes, no entry is lost."""

import gc
import os
import signal
import sys
import threading
import time
from contextlib import suppress

import pytest

from otel_perf.memory import lookup
from otel_perf.memory.cached import cached
from otel_perf.memory.caches import LRUCache, TTLCache
from tests import alarms

PATIENCE = 30.0  # seconds after which a probe hangs


class Adapter:
    """What the probes do to a structure."""

    def __init__(self, made, store, read, write):
        self.made = made
        self.store = store
        self.read = read
        self.write = write

    def whole(self):
        """Its numbers fit its content."""
        policy = self.store.policy
        assert len(policy.entries) <= (self.store.max_entries or len(policy.entries))
        assert self.store.weight == sum(entry.weight for entry in policy.entries.values())
        assert self.store.max_bytes is None or self.store.weight <= self.store.max_bytes
        assert all(entry.key is key or entry.key == key for key, entry in policy.entries.items())
        if hasattr(policy, "_small"):
            queued = [entry for queue in (policy._small, policy._main) for entry in queue]
            alive = {id(entry) for entry in queued if policy.entries.get(entry.key) is entry}
            assert len(alive) == len(policy.entries)


def mapping(kind, **options):
    def make(**more):
        made = kind("probe", **{"max_entries": 8, **options, **more})
        return Adapter(made, made._store, lambda key: made.get(key), lambda key, value: made.__setitem__(key, value))

    return make


def function(**options):
    def make(**more):
        values = {}
        made = cached(**{"max_entries": 8, **options, **more})(lambda key: values.get(key, key))
        store = made.cache_info.__self__

        def write(key, value):
            values[key] = value
            made.cache_invalidate(key)
            made(key)

        return Adapter(made, store, made, write)

    return make


STRUCTURES = {
    "lru": mapping(LRUCache),
    "s3fifo": mapping(LRUCache, policy="s3fifo"),
    "ttl": mapping(TTLCache, ttl=60, jitter=0.5),
    "bytes": mapping(LRUCache, max_entries=None, max_bytes=10_000),
    "cached": function(),
    "cached ttl": function(ttl=60),
}


@pytest.fixture(params=STRUCTURES)
def make(request):
    return STRUCTURES[request.param]


def finishes(work):
    """Run it in a thread; fail if it does not end."""
    failed = []

    def run():
        try:
            work()
        except BaseException as error:  # to the test
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "it hangs"
    if failed:
        raise failed[0]


class Reentering:
    """Uses the structure in turn in every way; never deeper than once."""

    def __init__(self):
        self.adapter = None
        self.number = self.calls = 0
        self.inside = False

    def __call__(self):
        if self.inside or self.adapter is None:
            return
        self.inside = True
        try:
            self.calls += 1
            self.number += 1
            adapter, key = self.adapter, f"again {self.number % 5}"
            (
                lambda: adapter.read(key),
                lambda: adapter.write(key, self.number),
                lambda: adapter.store.remove(key),
                lambda: adapter.store.shrink(4),
                lambda: list(adapter.store.expire()),
                lambda: adapter.store.info(),
                lambda: adapter.store.clear() if self.number % 35 == 6 else None,
            )[self.number % 7]()
        finally:
            self.inside = False


class Key:
    """A key whose comparison and hash use the cache. All of them share one hash."""

    def __init__(self, name, again):
        self.name, self.again = name, again

    def __hash__(self):
        self.again()
        return 7

    def __eq__(self, other):
        self.again()
        return isinstance(other, Key) and self.name == other.name


def test_a_keys_own_comparison_may_use_the_cache(make):
    again = Reentering()
    adapter = again.adapter = make()

    def work():
        for number in range(400):
            adapter.write(Key(number % 11, again), number)
            adapter.read(Key(number % 7, again))

    finishes(work)
    assert again.calls > 400
    again.adapter = None
    adapter.whole()
    adapter.write(Key("last", again), 1)
    assert adapter.read(Key("last", again)) is not None


class Value:
    """A value that uses the cache when it goes."""

    def __init__(self, again):
        self.again = again
        self.cycle = self if id(self) % 32 == 0 else None  # some are left to the garbage collector

    def __del__(self):
        self.again()


def test_what_goes_may_use_the_cache(make):
    again = Reentering()
    adapter = again.adapter = make()

    def work():
        for number in range(2_000):
            adapter.write(number % 13, Value(again))
            adapter.read(number % 5)
        gc.collect()

    finishes(work)
    assert again.calls > 500
    again.adapter = None
    adapter.whole()


def test_the_garbage_collector_may_use_the_cache_anywhere(make):
    again = Reentering()
    adapter = again.adapter = make()
    thresholds = gc.get_threshold()

    def collected(_phase, _info):
        again()

    gc.callbacks.append(collected)
    gc.set_threshold(1, 1, 1)

    def work():
        for number in range(300):
            adapter.write((number % 13,), [number])
            adapter.read((number % 5,))

    try:
        finishes(work)
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(collected)
    assert again.calls > 300
    adapter.whole()


@pytest.mark.parametrize("how", ["weigher", "callback"])
def test_a_weigher_and_a_callback_may_use_the_cache(make, how):
    again = Reentering()
    options = {
        "weigher": {"weigher": lambda *_: again() or 10, "max_bytes": 10_000},
        "callback": {"on_evict": lambda *_: again()},
    }[how]
    adapter = again.adapter = make(**options)

    def work():
        for number in range(2_000):
            adapter.write(number % 997, bytes(2_000))

    finishes(work)
    assert again.calls > 100
    again.adapter = None
    adapter.whole()


def test_a_callback_that_blocks_keeps_nobody_else_out(make):
    blocked, go_on = threading.Event(), threading.Event()

    def wait(*_):
        blocked.set()
        go_on.wait(PATIENCE)

    adapter = make(on_evict=wait)
    thread = threading.Thread(target=lambda: [adapter.write(number, bytes(2_000)) for number in range(9)])
    thread.start()
    assert blocked.wait(PATIENCE)
    try:
        there = list(adapter.store.entries)
        finishes(lambda: [(adapter.read(key), adapter.store.info()) for key in there])
        finishes(lambda: adapter.store.remove(there[0]))
    finally:
        go_on.set()
        thread.join()
    adapter.whole()


def test_a_weigher_that_blocks_keeps_nobody_else_out(make):
    blocked, go_on = threading.Event(), threading.Event()

    def weigh(key, _value):
        if key in {"slow", ("slow",)}:
            blocked.set()
            go_on.wait(PATIENCE)
        return 1

    adapter = make(weigher=weigh, max_bytes=100)
    adapter.write("quick", 1)
    thread = threading.Thread(target=adapter.write, args=("slow", 1))
    thread.start()
    assert blocked.wait(PATIENCE)
    try:
        finishes(lambda: (adapter.read("quick"), adapter.write("other", 2)))
    finally:
        go_on.set()
        thread.join()
    adapter.whole()


def test_a_signal_handler_may_use_the_cache(make):
    again = Reentering()
    adapter = again.adapter = make()
    before = signal.signal(signal.SIGALRM, lambda *_: again())
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    try:
        deadline = time.monotonic() + PATIENCE
        number = 0
        while again.calls < 300 and time.monotonic() < deadline:
            number += 1
            adapter.write((number % 13, "x"), number)
            adapter.read((number % 5, "x"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        alarms.restore(before)
    assert again.calls >= 300
    again.adapter = None
    adapter.whole()


def test_a_signal_handler_that_raises_leaves_the_cache_whole(make, monkeypatch):
    """GIVEN that any step may be the last WHEN Ctrl-C comes again and again THEN only the count of bytes may drift."""
    adapter = make()
    monkeypatch.setattr(sys, "unraisablehook", lambda _what: None)  # an interrupt in a finaliser, which goes nowhere

    def interrupt(*_):
        raise KeyboardInterrupt

    trace = sys.gettrace()
    sys.settrace(None)  # coverage's: between two steps of a ``with`` a traced program may be interrupted, and no other
    before = signal.signal(signal.SIGALRM, interrupt)
    number = interrupted = 0
    deadline = time.monotonic() + PATIENCE
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
    try:
        while interrupted < 200 and time.monotonic() < deadline:
            try:
                while True:
                    number += 1
                    adapter.write((number % 13, "x"), number)
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
    finishes(lambda: adapter.write(("last", "x"), 1))
    assert adapter.read(("last", "x")) is not None
    assert len(adapter.store.entries) <= 8 or adapter.store.max_entries is None
    adapter.store.clear()
    assert adapter.store.weight == 0


def test_a_fork_while_threads_write(make):
    """GIVEN threads in the midst of everything WHEN the process forks THEN each child has a cache that works."""
    adapter = make()
    stop = threading.Event()

    def work(index):
        sys.settrace(None)  # coverage's own lock may be held at a fork
        number = 0
        while not stop.is_set():
            number += 1
            adapter.write((index, number % 11), number)
            adapter.read((index, number % 5))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    statuses = []
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                signal.alarm(10)
                adapter.write(("child", 0), 1)
                found = adapter.read(("child", 0)) is not None
                adapter.store.shrink(0)
                os._exit(0 if found and not adapter.store.entries else 1)
            statuses.append(os.waitpid(pid, 0)[1])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert statuses == [0] * 20
    adapter.whole()


def test_a_fork_inside_of_what_the_cache_calls(make):
    pids = []

    def fork(*_):
        if not pids:
            pids.append(os.fork())

    adapter = make(on_evict=fork)
    for number in range(30):
        adapter.write((number, "x"), bytes(2_000))
    adapter.write(("last", "x"), 1)
    found = adapter.read(("last", "x")) is not None
    if pids[0] == 0:
        os._exit(0 if found else 1)
    assert os.waitpid(pids[0], 0)[1] == 0
    assert found
    adapter.whole()


def test_who_reads_what_is_being_removed_gets_the_value_or_nothing(make):
    """GIVEN that a removed entry has no value any more WHEN others read it just then THEN they never see that."""
    adapter, stop, wrong = make(), threading.Event(), []

    def remove():
        while not stop.is_set():
            for key in range(4):
                adapter.store.remove(key)
                adapter.write(key, key)

    def read():
        while not stop.is_set():
            wrong.extend(found for key in range(4) if type(found := adapter.read(key)) not in {int, type(None)})

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.00001)
    threads = [threading.Thread(target=work) for work in (remove, remove, read, read)]
    try:
        for thread in threads:
            thread.start()
        time.sleep(0.5)
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()
    assert not wrong
    adapter.whole()


@pytest.mark.skipif(not lookup.COMPILED, reason="otel_perf/memory/_lookup.c is not compiled here")
def test_the_compiled_look_up_leaks_nothing():
    """GIVEN hits, misses, errors and keywords WHEN they are over THEN every reference was given back."""
    value, key = object(), "a key of its own"
    made = cached(max_entries=4)(lambda *_args, **_keywords: value)

    class Unhashable:
        __hash__ = None

    def use():
        for _ in range(50):
            made(key)
            made(key, 1, a=key)
            made(number := object(), b=number)
            with suppress(TypeError):
                made(Unhashable())
        made.cache_clear()

    use()
    before = sys.getrefcount(value), sys.getrefcount(key), len(gc.get_objects())
    use()
    gc.collect()
    after = sys.getrefcount(value), sys.getrefcount(key)
    assert after == before[:2]
    assert len(gc.get_objects()) <= before[2] + 10
