"""``@cached``: usable where ``functools.lru_cache`` was, and once for all that ask at the same time."""

import asyncio
import copy
import functools
import gc
import inspect
import pickle
import re
import threading
import time
import weakref

import pytest

from otel_perf.memory import cached as cached_module
from otel_perf.memory import dead, lookup
from otel_perf.memory.cached import cached
from tests.bottlenecks.conftest import in_threads
from tests.e2e.support import wait_for

KINDS = {"compiled": lookup.Cached, "python": lookup._Cached}


@pytest.fixture(params=KINDS, autouse=True)
def twin(request, monkeypatch):
    """Both twins of the look-up."""
    if request.param == "compiled" and not lookup.COMPILED:
        pytest.skip("otel_perf/memory/_lookup.c is not compiled here")
    monkeypatch.setattr(cached_module, "Cached", KINDS[request.param])
    if request.param == "python":
        monkeypatch.setattr("otel_perf.memory.limited.Entry", lookup._Entry)


class Counting:
    """A function that counts its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, *args, **keywords):
        self.calls.append((args, keywords))
        return len(self.calls)


def counted(**options):
    calls = Counting()

    @cached(**options)
    def function(*args, **keywords):
        return calls(*args, **keywords)

    function.calls = calls.calls
    return function


ARGUMENTS = [
    ((), {}), ((1,), {}), (("1",), {}), (((1,),), {}), ((1, 2), {}), (((1, 2),), {}), ((), {"a": 1}), ((1,), {"a": 1}),
    ((), {"a": 1, "b": 2}), ((), {"b": 2, "a": 1}), ((None,), {}), ((("a", 1),), {}), (("a", 1), {}), ((b"1",), {}),
]  # fmt: skip


def test_keys_tell_the_same_calls_apart_as_functools():
    ours = counted(max_entries=100)
    theirs_calls = Counting()
    theirs = functools.lru_cache(100)(theirs_calls)
    for _ in range(2):
        assert [ours(*args, **keywords) for args, keywords in ARGUMENTS] == [
            theirs(*args, **keywords) for args, keywords in ARGUMENTS
        ]
    assert ours.cache_info()[:4] == theirs.cache_info()


def test_typed_tells_types_apart():
    function = counted(typed=True)
    assert len({function(1), function(1.0), function(True), function(a=1), function(a=1.0)}) == 5
    assert function(1) == 1


def test_it_looks_like_the_function():
    @cached
    def add(a: int, b: int = 2) -> int:
        """Add."""
        return a + b

    assert (add.__name__, add.__doc__, add.__wrapped__(1)) == ("add", "Add.", 3)
    assert str(inspect.signature(add)) == "(a: int, b: int = 2) -> int"
    assert copy.copy(add) is add is copy.deepcopy(add)
    assert weakref.ref(add)() is add
    assert add.cache_parameters() == {"maxsize": 1024, "typed": False, "max_bytes": None, "ttl": None}


@cached
def in_a_module(x):
    return x


def test_it_can_be_pickled_by_name():
    assert pickle.loads(pickle.dumps(in_a_module)) is in_a_module


def test_errors_are_not_kept():
    calls = []

    @cached
    def fails(x):
        calls.append(x)
        raise KeyError(x)

    for _ in range(3):
        with pytest.raises(KeyError):
            fails(1)
    assert len(calls) == 3
    assert fails.cache_info().currsize == 0


def test_limits_hold_and_clear_begins_anew():
    function = counted(max_entries=10)
    for number in range(1_000):
        function(number)
    info = function.cache_info()
    assert (info.currsize, info.misses, info.evictions) == (10, 1_000, 990)
    function.cache_clear()
    assert function.cache_info()[:4] == (0, 0, 10, 0)


def test_bytes_are_a_limit():
    made = cached(max_bytes="100kB")(lambda n: bytes(n))
    for size in (10_000, 20_000, 30_000, 40_000, 50_000, 60_000):
        assert len(made(size)) == size
    assert 50_000 < made.cache_info().bytes <= 100_000
    assert len(made(200_000)) == 200_000
    assert made.cache_info().bytes <= 100_000


def test_what_expired_is_computed_anew():
    function = counted(ttl="1h")
    assert (function(1), function(1)) == (1, 1)
    function = counted(ttl="60ms")
    assert function(1) == 1
    wait_for(lambda: function(1) == 2)
    assert function.cache_info().expirations == 1


def test_one_result_can_be_dropped():
    function = counted()
    function(1, a=2)
    assert function.cache_invalidate(1, a=2)
    assert not function.cache_invalidate(1, a=2)
    assert function(1, a=2) == 2


# --- methods ---------------------------------------------------------------------------------------


class Table:
    def __init__(self, name):
        self.name, self.reads = name, 0

    @cached(max_entries=100)
    def read(self, row):
        self.reads += 1
        return f"{self.name}{row}"

    @cached
    async def fetch(self, row):
        self.reads += 1
        return f"{self.name}{row}"

    @classmethod
    @cached
    def kind(cls, x):
        return [cls.__name__, x]

    @staticmethod
    @cached
    def twice(x):
        return [x, x]

    @cached
    @staticmethod
    def thrice(x):
        return [x, x, x]

    __hash__ = None  # instances need not be hashable


def test_instances_have_results_of_their_own_and_are_not_kept():
    first, second = Table("a"), Table("b")
    assert [first.read(1), second.read(1), first.read(1), Table.read(second, 1)] == ["a1", "b1", "a1", "b1"]
    assert (first.reads, second.reads) == (1, 1)
    entries, gone = len(first.read.__func__.cache_info.__self__.entries), weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None
    second.read(2)
    assert len(second.read.__func__.cache_info.__self__.entries) == entries


def test_results_of_instances_that_are_gone_do_not_wait_for_a_miss():
    """GIVEN an instance that went and no call since WHEN the cleanup comes THEN its results go, one at a time."""

    class Kept:
        pass

    class Maker:
        @cached(max_entries=100)
        def make(self, _number):
            return Kept()

    list(dead())  # those of other tests
    first, second = Maker(), Maker()
    values = weakref.WeakSet(maker.make(number) for maker in (first, second) for number in range(5))
    del first
    gc.collect()
    assert len(values) == 10
    steps = dead()
    assert next(steps) == 1
    steps.close()  # the program ends, or there is no time: the next run goes on
    assert len(values) == 9
    assert sum(dead()) == 4
    gc.collect()
    assert len(values) == Maker.make.cache_info().currsize == 5
    assert sum(dead()) == 0


def test_many_instances_one_after_the_other_never_get_another_ones_result():
    for number in range(500):
        table = Table(str(number))  # likely at the address of the last one
        assert table.read(7) == f"{number}7"
        assert asyncio.run(table.fetch(7)) == f"{number}7" if number % 50 == 0 else True


def test_a_long_life_does_not_fill_up_with_keys_that_were_dropped():
    table = Table("t")
    for row in range(5_000):
        table.read(row)
    (token,) = [token for token in Table.read.tokens.values() if token.keys]
    assert len(token.keys) <= 2 * 100 + 16


def test_static_and_class_methods():
    class Derived(Table):
        pass

    assert Table.kind(1) is Table.kind(1)
    assert Derived.kind(1) == ["Derived", 1]
    assert Table.twice(1) is Table("x").twice(1)
    assert Table.thrice(1) is Table("x").thrice(1)


def test_an_instance_that_cannot_be_referred_to_weakly_is_told_so():
    class Slotted:
        __slots__ = ()

        @cached
        def read(self):
            return 1

    with pytest.raises(TypeError, match="Slotted cannot be referred to weakly; add '__weakref__'"):
        Slotted().read()


# --- at the same time ------------------------------------------------------------------------------


def test_threads_that_miss_together_compute_once():
    calls, gate = [], threading.Barrier(8)

    @cached
    def slow(x):
        calls.append(x)
        time.sleep(0.1)
        return object()

    results = []

    def work(_index):
        gate.wait()
        results.append(slow(1))

    in_threads(work, 8)
    assert calls == [1]
    assert len(set(map(id, results))) == 1


def waiting(function):
    """How many threads wait for what another one computes."""
    flights = function.cache_clear.__self__.flights
    return sum(len(flight.done._cond._waiters) for flight in list(flights.values()))


def test_threads_that_wait_get_the_error_and_the_next_call_tries_again():
    calls, gate, caught = [], threading.Barrier(4), []

    @cached
    def fails(x):
        calls.append(x)
        wait_for(lambda: len(calls) > 1 or waiting(fails) == 3, what="the others wait")
        raise ValueError("no")

    def work(_index):
        gate.wait()
        try:
            fails(1)
        except ValueError as error:
            caught.append(error)

    in_threads(work, 4)
    assert (len(calls), len(caught)) == (1, 4)
    with pytest.raises(ValueError, match="no"):
        fails(1)
    assert len(calls) == 2


def test_functions_that_wait_for_each_other_do_not_hang(monkeypatch):
    """GIVEN two functions that need each other's result in two threads WHEN patience ends THEN both compute."""
    monkeypatch.setattr(cached_module, "PATIENCE", 0.2)
    gate = threading.Barrier(2)
    nested = threading.local()

    @cached
    def f(x):
        if getattr(nested, "deep", 0) < 1:
            nested.deep = 1
            gate.wait()
            g(x)
        return "f"

    @cached
    def g(x):
        if getattr(nested, "deep", 0) < 1:
            nested.deep = 1
            gate.wait()
            f(x)
        return "g"

    results = []
    in_threads(lambda index: results.append((f, g)[index](1)), 2)
    assert sorted(results) == ["f", "g"]


def test_a_function_that_asks_for_itself_in_the_same_thread_computes():
    depth = []

    @cached
    def odd(x):
        depth.append(x)
        return odd(x) + 1 if len(depth) < 3 else 0

    assert odd(1) == 2


def test_when_the_computing_task_is_cancelled_the_first_in_line_computes_for_all():
    """GIVEN ten tasks that wait for one WHEN that is cancelled, and the next one, too THEN the third one computes."""
    calls = []

    @cached
    async def slow(x):
        calls.append(x)
        await asyncio.sleep(0.05 if len(calls) > 2 else 10)
        return object()

    async def main():
        tasks = [asyncio.create_task(slow(1)) for _ in range(10)]
        for task in tasks[:2]:
            await asyncio.sleep(0.02)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
        assert len(set(map(id, results[2:]))) == 1

    asyncio.run(main())
    assert calls == [1, 1, 1]
    assert slow.cache_info().misses == 10


def test_a_task_that_waits_may_be_cancelled_without_harm_to_the_others():
    @cached
    async def slow(x):
        await asyncio.sleep(0.05)
        return x + 1

    async def main():
        first, second, third = (asyncio.create_task(slow(1)) for _ in range(3))
        await asyncio.sleep(0.01)
        second.cancel()
        assert await first == await third == 2
        with pytest.raises(asyncio.CancelledError):
            await second

    asyncio.run(main())


def test_coroutines_that_wait_for_each_other_do_not_hang(monkeypatch):
    monkeypatch.setattr(cached_module, "PATIENCE", 0.1)
    started = []

    @cached
    async def f(x):
        started.append("f")
        await asyncio.sleep(0.01)
        if len(started) < 4:
            await g(x)
        return "f"

    @cached
    async def g(x):
        started.append("g")
        await asyncio.sleep(0.01)
        if len(started) < 4:
            await f(x)
        return "g"

    async def main():
        return await asyncio.wait_for(asyncio.gather(f(1), g(1)), 5)

    assert asyncio.run(main()) == ["f", "g"]


def test_tasks_that_miss_together_compute_once():
    calls = []

    @cached(max_entries=10)
    async def slow(x):
        calls.append(x)
        await asyncio.sleep(0.05)
        return object()

    async def main():
        results = await asyncio.gather(*(slow(1) for _ in range(200)))
        assert len(set(map(id, results))) == 1
        assert await slow(1) is results[0]

    assert inspect.iscoroutinefunction(slow)
    asyncio.run(main())
    asyncio.run(main_again(slow))
    assert calls == [1]


async def main_again(slow):
    await slow(1)


def test_a_cancelled_task_does_not_cancel_those_that_wait_for_it():
    calls = []

    @cached
    async def slow(x):
        calls.append(x)
        await asyncio.sleep(0 if len(calls) > 1 else 60)
        return x

    async def main():
        first = asyncio.ensure_future(slow(1))
        await asyncio.sleep(0.01)
        others = [asyncio.ensure_future(slow(1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        first.cancel()
        assert await asyncio.gather(*others) == [1, 1, 1]
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main())


def test_an_error_of_a_coroutine_reaches_all_that_wait_and_is_not_kept():
    calls = []

    @cached
    async def fails(x):
        calls.append(x)
        await asyncio.sleep(0.02)
        raise OSError("down")

    async def main():
        found = await asyncio.gather(*(fails(1) for _ in range(5)), return_exceptions=True)
        assert [str(error) for error in found] == ["down"] * 5

    asyncio.run(main())
    asyncio.run(main())
    assert calls == [1, 1]


# --- what is refused -------------------------------------------------------------------------------


def test_generators_are_refused():
    with pytest.raises(TypeError, match="generator, which can be read once"):

        @cached
        def numbers():
            yield 1


def test_a_limit_in_place_of_the_function_is_refused():
    with pytest.raises(TypeError, match="options are given by name"):
        cached(100)


def test_arguments_that_cannot_be_keys_are_refused_like_functools_does():
    function = counted()
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        function([1])
    assert function(1) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_entries": 0}, "max_entries=0 must be at least 1"),
        ({"max_entries": -1}, "max_entries=-1 must be at least 1"),
        ({"max_bytes": 0}, "max_bytes=0 must be at least 1"),
        ({"max_bytes": "much"}, "max_bytes='much' is not a size"),
        ({"ttl": 0}, "ttl=0 must be more than 0"),
        ({"ttl": -1}, "ttl=-1 must be more than 0"),
        ({"ttl": 1, "jitter": 1}, "jitter=1 must be from 0 to less than 1"),
        ({"floor": -1}, "floor=-1 must be 0 or more entries"),
    ],
)
def test_a_wrong_option_is_named_with_the_function(options, message):
    with pytest.raises(ValueError, match=f"cache '{__name__}.*Counting': {re.escape(message)}"):
        cached(**options)(type("Counting", (Counting,), {"__module__": __name__, "__qualname__": "Counting"}))


@pytest.mark.parametrize("weigh", [lambda *_: 1 / 0, lambda *_: -1, lambda *_: "heavy"])
def test_a_weigher_that_fails_costs_the_caller_nothing(absorbing, weigh):
    function = counted(max_bytes=100, weigher=weigh)
    assert [function(1), function(1)] == [1, 2]  # it is not kept
    assert function.cache_info().currsize == 0


def test_a_callback_that_fails_costs_the_caller_nothing(absorbing):
    function = counted(max_entries=1, on_evict=lambda *_: 1 / 0)
    assert [function(number) for number in (1, 2, 3, 3)] == [1, 2, 3, 3]
    assert function.cache_info().evictions == 2


def test_eight_threads_get_their_own_results_within_the_limit():
    @cached(max_entries=50, ttl=0.02, jitter=0.9)
    def double(number):
        return [number, number]

    most = []

    def work(index):
        for number in range(3_000):
            key = number * (index + 1) % 120
            assert double(key) == [key, key]
            if number % 11 == 0:
                double.cache_invalidate(key)
            most.append(double.cache_info().currsize)

    in_threads(work, 8)
    info = double.cache_info()
    assert max(most) <= 50 + 8
    assert info.currsize <= 50
    assert info.hits + info.misses >= 8 * 3_000
