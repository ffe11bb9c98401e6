"""The app's functions with ``cachebox.cached``, with the real library."""

import asyncio
import gc
import sysconfig
import threading

import cachebox
import cachebox.utils
import pytest
from cachebox import cached

from otel_perf.memory.cache_metrics import EVICTIONS, LIMIT, SIZE
from otel_perf.memory.found import cachebox as finding

HERE = __name__
PLAIN = dict(vars(cachebox.utils))


def test_the_library_still_makes_its_wrappers_so():
    assert [name for name in finding.BUILDERS if name not in PLAIN] == []


@pytest.mark.parametrize("lock", [None, threading.Lock])
def test_a_function_is_counted(found, lock):
    @cached(cachebox.LRUCache(2), lock=lock)
    def price(x):
        return x

    name = f"{HERE}.{price.__qualname__}"
    assert [price(x) for x in (1, 2, 1, 3)] == [1, 2, 1, 3]
    assert found.asked(name) == (1, 3) == price.cache_info()[:2]
    assert found(LIMIT)[name] == 2
    assert not [metric for metric in (SIZE, EVICTIONS) if name in found(metric)]
    del price
    gc.collect()
    assert found.asked(name) == (1, 3)
    assert name not in found(LIMIT)


def test_a_coroutine_function_and_a_method_with_a_cache_for_each_instance_are_counted(found):
    class Shop:
        def __init__(self):
            self.cache = cachebox.LRUCache(0)

        @cached(lambda self: self.cache)
        async def price(self, x):
            return x

    async def main():
        for shop in (Shop(), Shop()):
            assert [await shop.price(x) for x in (1, 1, 2)] == [1, 1, 2]

    asyncio.run(main())
    assert found.asked(f"{HERE}.{Shop.price.__qualname__}") == (2, 4)
    assert f"{HERE}.{Shop.price.__qualname__}" not in found(LIMIT)


def test_a_cache_without_a_limit_has_none(found):
    @cached({})
    def price(x):
        return x

    assert price(1) == 1
    assert found.asked(f"{HERE}.{price.__qualname__}") == (0, 1)
    assert f"{HERE}.{price.__qualname__}" not in found(LIMIT)


def test_reading_waits_for_nothing_that_a_key_does(found):
    asked, go_on = threading.Event(), threading.Event()

    class Key:
        def __hash__(self):
            return 7

        def __eq__(self, other):
            asked.set()
            return go_on.wait(30) and self is other

    @cached(cachebox.LRUCache(2), key_maker=lambda key: key)
    def price(key):
        return 1

    price(Key())
    thread = threading.Thread(target=price, args=(Key(),))
    thread.start()
    assert asked.wait(30)
    try:
        assert found.asked(f"{HERE}.{price.__qualname__}") == (0, 1)  # the cache is locked now
    finally:
        go_on.set()
        thread.join()


def test_a_librarys_function_is_left_out(found):
    source = "from cachebox import cached\n@cached({})\ndef function(x):\n    return x\n"
    namespace = {"__name__": "library"}
    exec(compile(source, f"{sysconfig.get_path('purelib')}/library.py", "exec"), namespace)
    assert namespace["function"](1) == 1
    assert found.asked("library.function") == (None, None)


def test_the_undo_puts_everything_back(found):
    assert dict(vars(cachebox.utils)) != PLAIN
    found.undo.close()
    assert dict(vars(cachebox.utils)) == PLAIN
