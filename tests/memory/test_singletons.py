"""Singletons are made once, whoever asks, and closed once, in the reverse order."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

from otel_perf.memory import singletons as module
from otel_perf.memory.singletons import Singletons
from tests.bottlenecks.conftest import in_threads


class Pool:
    made = 0

    def __init__(self):
        type(self).made += 1
        self.closed = 0

    def close(self):
        self.closed += 1


@pytest.fixture(autouse=True)
def _anew():
    Pool.made = 0


@pytest.fixture
def registry():
    registry = Singletons()
    registry._at_exit = True  # the tests' process is not the app's
    return registry


def test_one_is_made_when_it_is_asked_for_first(registry):
    registry.register(Pool)
    assert (Pool in registry, Pool.made) == (False, 0)
    assert registry.get(Pool) is registry.get(Pool)
    assert (Pool in registry, Pool.made) == (True, 1)


def test_threads_that_ask_together_get_the_same(registry):
    def slow():
        time.sleep(0.1)
        return Pool()

    registry.register("pool", slow)
    gate, found = threading.Barrier(8), []

    def work(_index):
        gate.wait()
        found.append(registry.get("pool"))

    in_threads(work, 8)
    assert len(set(map(id, found))) == Pool.made == 1


def test_tasks_and_threads_that_ask_together_get_the_same(registry):
    async def slow():
        await asyncio.sleep(0.1)
        return Pool()

    registry.register("pool", slow)
    found = []

    def in_a_loop(_index):
        async def main():
            found.extend(await asyncio.gather(*(registry.aget("pool") for _ in range(20))))

        asyncio.run(main())

    in_threads(in_a_loop, 4)
    assert (len(found), len(set(map(id, found))), Pool.made) == (80, 1, 1)


def test_what_a_factory_raises_reaches_all_and_the_next_call_tries_again(registry):
    failing = [True]

    def factory():
        time.sleep(0.05)
        if failing[0]:
            raise OSError("down")
        return 1

    registry.register("it", factory)
    gate, caught = threading.Barrier(4), []

    def work(_index):
        gate.wait()
        try:
            registry.get("it")
        except OSError as error:
            caught.append(error)

    in_threads(work, 4)
    assert len(caught) == 4
    failing[0] = False
    assert registry.get("it") == 1


def test_a_cancelled_task_leaves_the_making_to_another(registry):
    begun = []

    async def slow():
        begun.append(1)
        await asyncio.sleep(0 if len(begun) > 1 else 60)
        return Pool()

    registry.register("pool", slow)

    async def main():
        first = asyncio.ensure_future(registry.aget("pool"))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(registry.aget("pool"))
        await asyncio.sleep(0.01)
        first.cancel()
        assert isinstance(await second, Pool)
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main())


def test_those_that_need_each_other_are_named(registry):
    registry.register("a", lambda: registry.get("b"))
    registry.register("b", lambda: registry.get("c"))
    registry.register("c", lambda: registry.get("a"))
    with pytest.raises(RuntimeError, match="singletons need each other: a → a"):
        registry.get("a")


def test_threads_that_need_each_other_do_not_hang(registry):
    gate = threading.Barrier(2)

    def make(other):
        def factory():
            gate.wait()
            return registry.get(other)

        return factory

    registry.register("a", make("b"))
    registry.register("b", make("a"))
    errors = []

    def work(index):
        try:
            registry.get("ab"[index])
        except RuntimeError as error:
            errors.append(str(error))

    in_threads(work, 2)
    assert errors
    assert all(error.startswith("singletons need each other: ") for error in errors)


def test_tasks_that_need_each_other_do_not_hang(registry):
    async def a():
        await asyncio.sleep(0.01)
        return await registry.aget("b")

    async def b():
        await asyncio.sleep(0.01)
        return await registry.aget("a")

    registry.register("a", a)
    registry.register("b", b)

    async def main():
        return await asyncio.wait_for(
            asyncio.gather(registry.aget("a"), registry.aget("b"), return_exceptions=True), 10
        )

    assert [type(error) for error in asyncio.run(main())] == [RuntimeError] * 2


def test_waiting_in_the_loop_that_makes_it_is_refused(registry):
    async def slow():
        await asyncio.sleep(0.05)
        return 1

    registry.register("it", lambda: 1)
    registry.register("slow", slow)
    with pytest.raises(RuntimeError, match="is made by a coroutine function"):
        registry.get("slow")
    with pytest.raises(LookupError, match="singleton 'other' is not registered"):
        registry.get("other")


def test_the_last_made_is_closed_first_and_once(registry):
    order = []
    for name in "abc":
        registry.register(name, object, close=lambda _instance, name=name: order.append(name))
    for name in "bca":
        registry.get(name)
    in_threads(lambda _index: registry.close(), 4)
    registry.close()
    assert order == ["a", "c", "b"]


def test_closing_goes_on_after_an_error_and_tells_of_all(registry):
    told = []
    module.closed.append(lambda *what: told.append(what))
    try:
        registry.register("bad", object, close=lambda _instance: 1 / 0)
        registry.register("pool", Pool, close="close")
        pool = registry.get("pool")
        registry.get("bad")
        with pytest.raises(ExceptionGroup) as caught:
            registry.close()
    finally:
        module.closed.clear()
    (error,) = caught.value.exceptions
    assert isinstance(error, ZeroDivisionError)
    assert error.__notes__ == ["when singleton bad was closed"]
    assert pool.closed == 1
    assert [(name, type(error)) for name, _, error in told] == [("bad", ZeroDivisionError), ("pool", type(None))]


def test_coroutine_functions_close_in_both_ways(registry):
    order = []

    async def close(instance):
        await asyncio.sleep(0)
        order.append(instance)

    registry.register("a", lambda: "a", close=close)
    registry.register("b", lambda: "b", close=close)
    registry.get("a"), registry.get("b")
    registry.close("b")
    asyncio.run(registry.aclose())
    assert order == ["b", "a"]
    registry.get("a")

    async def main():
        with pytest.raises(ExceptionGroup, match="could not be closed"):
            registry.close()

    asyncio.run(main())


def test_health(registry):
    async def lost(_instance):
        raise ConnectionError("lost")

    registry.register("good", object, ping=lambda _instance: True)
    registry.register("tired", object, ping=lambda _instance: False)
    registry.register("lost", object, ping=lost)
    registry.register("never asked for", object, ping=lambda _instance: False)
    registry.register("without", object)
    for name in ("good", "tired", "lost", "without"):
        registry.get(name)
    expected = {"good": "None", "tired": "the ping of tired returned False", "lost": "lost"}
    assert {name: str(error) for name, error in registry.ping().items()} == expected
    assert {name: str(error) for name, error in asyncio.run(registry.aping()).items()} == expected


def test_a_test_puts_another_in_its_place(registry):
    registry.register(Pool)
    real = registry.get(Pool)
    with registry.override(Pool, "fake") as fake:
        assert registry.get(Pool) == fake == "fake"
    assert registry.get(Pool) is real
    with registry.override("unknown", 1):
        assert registry.get("unknown") == 1
    with pytest.raises(LookupError):
        registry.get("unknown")


def test_a_weak_one_goes_with_its_last_user(registry):
    registry.register(Pool, weak=True)
    pool = registry.get(Pool)
    gone = weakref.ref(pool)
    assert registry.get(Pool) is pool
    del pool
    gc.collect()
    assert gone() is None
    assert registry.get(Pool) is not None
    assert Pool.made == 2


def test_a_child_makes_its_own(registry):
    registry.register(Pool, close="close")
    pool = registry.get(Pool)
    pid = os.fork()
    if pid == 0:
        other = registry.get(Pool)
        registry.close()
        os._exit(0 if other is not pool and (other.closed, pool.closed) == (1, 0) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert registry.get(Pool) is pool


def test_wrong_uses_are_named(registry):
    registry.register(Pool)
    with pytest.raises(
        ValueError, match=r"singleton Pool is registered already; to replace it in a test: override\(\)"
    ):
        registry.register(Pool)
    with pytest.raises(ValueError, match="singleton 'x' needs factory="):
        registry.register("x")
    registry.unregister(Pool)
    registry.register(Pool)


def test_one_that_was_never_closed_is_warned_of_and_closed():
    program = """
from otel_perf.memory.singletons import singletons
singletons.register("pool", object, close=lambda instance: print("closed"))
singletons.register("plain", object)
singletons.get("pool"); singletons.get("plain")
"""
    done = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "closed\n"
    assert "singletons were never closed: pool; call singletons.close() when the program ends" in done.stderr
