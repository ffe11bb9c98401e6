"""Caches of the app are found without a change to it, and what they counted stays counted."""

import functools
import gc

from otel_perf.memory import cache_metrics
from otel_perf.memory.cache_metrics import HITS, LIMIT, MISSES, SIZE
from otel_perf.memory.cached import cached
from otel_perf.memory.caches import LRUCache
from otel_perf.memory.found import functions, shared

HERE = __name__


@functools.lru_cache(maxsize=2)
def before(x):
    return x


def test_the_undo_puts_it_back(found):
    assert functools._lru_cache_wrapper is not functions._original
    found.undo.close()
    assert functools._lru_cache_wrapper is functions._original


def test_functions_from_before_and_after_are_found(found):
    before.cache_clear()
    for x in (1, 2, 1, 3):
        before(x)

    @functools.cache
    def after(x):
        return x

    after(1), after(1)
    assert found.all_of(f"{HERE}.before") == [1, 3, 1, 2, 2, 0.25]
    assert found.all_of(f"{HERE}.test_functions_from_before_and_after_are_found.<locals>.after") == [
        1, 1, 0, 1, None, 0.5,
    ]  # fmt: skip


def test_libraries_functions_are_left_out(found):
    assert not [name for name in found(HITS) if name.startswith(("re.", "typing.", "otel_perf.bottlenecks"))]


def test_what_asks_for_the_type_of_a_cached_function_gets_its_answer(found):
    @functools.lru_cache
    def function(x):
        return x

    assert isinstance(function, functools._lru_cache_wrapper)
    assert not isinstance(len, functools._lru_cache_wrapper)
    assert type(function) is functions._original


def test_a_cached_method_in_place_is_found(found):
    class Shop:
        @functools.lru_cache(maxsize=8)  # noqa: B019 - as many do
        def price(self, x):
            return x

    shop = Shop()
    assert shop.price(1) == shop.price(1) == 1
    assert found(HITS)[Shop.price.__wrapped__.__module__ + "." + Shop.price.__qualname__] == 1


def test_ours_are_found_and_summed_up_by_name(found):
    @cached(max_entries=5, name="products")
    def product(x):
        return x

    for x in (1, 1, 2):
        product(x)
    other = LRUCache("products", max_entries=10)
    other["a"] = 1
    other.get("a"), other.get("b")
    assert found.all_of("products") == [2, 3, 0, 3, 15, 0.4]


def test_what_is_gone_stays_counted_and_is_no_size(found):
    cache = LRUCache("short-lived", max_entries=10)
    cache["a"] = 1
    cache.get("a"), cache.get("b")
    assert found.all_of("short-lived") == [1, 1, 0, 1, 10, 0.5]
    del cache
    gc.collect()
    assert found.all_of("short-lived") == [1, 1, 0, 0, None, 0.5]
    again = LRUCache("short-lived", max_entries=10)
    again.get("c")
    assert found(MISSES)["short-lived"] == 2


def test_many_names_are_told_apart_up_to_a_limit(found, monkeypatch):
    monkeypatch.setattr(cache_metrics, "NAMES", 5)
    caches = [LRUCache(f"cache {number}", max_entries=1) for number in range(20)]
    assert len(found(SIZE)) == 6
    assert found(LIMIT)["other"] >= 10
    assert len(caches) == 20


def test_a_library_that_was_compiled_is_no_app_of_ours():
    """Cython's functions have the file of their source as it was called where they were built."""
    import cachetools

    def known():
        return 1

    known.__code__ = known.__code__.replace(co_filename="src/cachetools/known.pyx")
    known.__module__ = cachetools.__name__
    assert shared.name_of(known) is None
    known.__module__ = __name__
    assert shared.name_of(known) == f"{__name__}.{known.__qualname__}"
