"""Caches of cachetools, with the real library."""

import functools
import gc
from contextlib import ExitStack
from types import ModuleType

import cachetools
import pytest
from wrapt import notify_module_loaded

from otel_perf.memory.cache_metrics import HITS, SIZE
from otel_perf.memory.found.cachetools import CachetoolsCaches
from otel_perf.memory.singletons import Singletons

HERE = __name__


def test_the_undo_puts_it_back(found):
    assert "getting" in repr(vars(cachetools.Cache)["__getitem__"].__code__)
    found.undo.close()
    assert "getting" not in repr(vars(cachetools.Cache)["__getitem__"].__code__)


def test_a_cache_that_ours_makes_for_the_app_is_the_apps(found):
    registry = Singletons()
    registry.register("prices", functools.partial(cachetools.LRUCache, 2), close=lambda _cache: None)
    registry.get("prices").get("x")
    assert sum(value for name, value in found(SIZE).items() if name.startswith(f"{HERE}:")) == 0
    assert [name for name in found(SIZE) if name.startswith(f"{HERE}:")]
    registry.close()


def test_caches_of_cachetools_are_counted(found):
    cache = cachetools.LRUCache(2)
    ((name),) = [name for name in found(SIZE) if name.startswith(f"{HERE}:")]
    cache["a"], cache["b"], cache["c"] = 1, 2, 3
    assert (cache["c"], cache.get("c"), cache.get("x"), cache.get("x", 7)) == (3, 3, None, 7)
    with pytest.raises(KeyError):
        cache["a"]
    assert found.all_of(name) == [2, 3, 1, 2, 2, 0.4]

    @cachetools.cached(cachetools.TTLCache(10, 60))
    def function(x):
        return x

    function(1), function(1)
    assert sum(value for key, value in found(HITS).items() if key.startswith(f"{HERE}:")) == 3
    del cache
    gc.collect()
    assert found(HITS)[name] == 2


def test_a_cache_of_an_unknown_make_breaks_nothing(found):
    class Odd(cachetools.LRUCache):
        def __getitem__(self, key):
            return 42

    odd = Odd(5)
    assert odd["x"] == 42
    assert found(HITS) is not None


def test_a_module_that_is_not_cachetools_breaks_nothing(found):
    """Another library of that name, that is imported now."""
    module = ModuleType("cachetools")
    notify_module_loaded(module)
    assert "Cache" not in vars(module)
    with pytest.raises(AttributeError):
        CachetoolsCaches().install(module, ExitStack())
