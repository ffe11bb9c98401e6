"""Measures caches in this process, interleaved, and prints JSON. Arguments: ROUNDS, or ``memory`` and a name."""

from __future__ import annotations

import asyncio
import bisect
import functools
import gc
import itertools
import json
import random
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import thread_time
from typing import Any, Final

import async_lru
import cachebox
import cachetools
import moka_py
import theine

from otel_perf import LRUCache, TTLCache, cached

ENTRIES: Final = 10_000
CALLS: Final = 20_000
FRESH: Final = 5_000
WAITING: Final = 200
MEMORY: Final = 200_000
UNIVERSE, KEPT = 100_000, 5_000

Get, Put = Callable[[Any], Any], Callable[[Any, Any], Any]


class Locked:
    """cachetools as its documentation has it for threads."""

    def __init__(self, cache: Any) -> None:
        self.cache, self.lock = cache, threading.Lock()

    def get(self, key: Any) -> Any:
        """As a dictionary's."""
        with self.lock:
            return self.cache.get(key)

    def put(self, key: Any, value: Any) -> None:
        """Store."""
        with self.lock:
            self.cache[key] = value


def item(cache: Any) -> tuple[Get, Put]:
    """How a mapping is read and written."""
    return cache.get, cache.__setitem__


def theines(size: int) -> tuple[Get, Put]:
    """How theine's cache is."""
    cache = theine.Cache(size)

    def get(key: Any) -> Any:
        value, found = cache.get(key)
        return value if found else None

    return get, cache.set


def moka(size: int) -> tuple[Get, Put]:
    """How moka's cache is."""
    cache = moka_py.Moka(size)
    return cache.get, cache.set


def locked(cache: Any) -> tuple[Get, Put]:
    """How a cache with a lock is."""
    made = Locked(cache)
    return made.get, made.put


MAPPINGS: Final[dict[str, Callable[[int], tuple[Get, Put]]]] = {
    "LRUCache": lambda size: item(LRUCache("lru", max_entries=size)),
    "LRUCache s3fifo": lambda size: item(LRUCache("s3fifo", max_entries=size, policy="s3fifo")),
    "TTLCache": lambda size: item(TTLCache("ttl", max_entries=size, ttl=86_400)),
    "cachetools.LRUCache + lock": lambda size: locked(cachetools.LRUCache(size)),
    "cachetools.TTLCache + lock": lambda size: locked(cachetools.TTLCache(size, 86_400)),
    "cachebox.LRUCache": lambda size: item(cachebox.LRUCache(size)),
    "theine.Cache": theines,
    "moka_py.Moka": moka,
}
DECORATORS: Final[dict[str, Callable[[int], Callable[[Any], Any]]]] = {
    "functools.lru_cache": functools.lru_cache,
    "@cached": lambda size: cached(max_entries=size),
    "@cached with ttl": lambda size: cached(max_entries=size, ttl=86_400),
    "cachetools.cached, lock, info": lambda size: cachetools.cached(
        cachetools.LRUCache(size), lock=threading.Lock(), info=True
    ),
    "cachebox.cached": lambda size: cachebox.cached(cachebox.LRUCache(size)),
    "theine.Memoize": lambda size: theine.Memoize(size, None),
    "moka_py.cached": lambda size: moka_py.cached(maxsize=size),
}
COROUTINES: Final[dict[str, Callable[[], Callable[[Any], Any]]]] = {
    "@cached": lambda: cached(max_entries=ENTRIES),
    "async_lru.alru_cache": lambda: async_lru.alru_cache(maxsize=ENTRIES),
    "cachebox.cached": lambda: cachebox.cached(cachebox.LRUCache(ENTRIES)),
    "theine.Memoize": lambda: theine.Memoize(ENTRIES, None),
}
KEYS: Final = [f"user:{number}" for number in range(ENTRIES)]


def interleaved(subjects: dict[str, Callable[[], Callable[[], int]]], rounds: int) -> dict[str, list[float]]:
    """CPU ns of each operation by subject, a figure a round. A subject prepares, and returns what is measured."""
    found: dict[str, list[float]] = {name: [] for name in subjects}
    chance, order = random.Random(5), list(subjects)
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            measured = subjects[name]()
            began = thread_time()
            number = measured()
            found[name].append((thread_time() - began) / number * 1e9)
    return found


def hits_of(get: Get) -> Callable[[], Callable[[], int]]:
    """Read what is there."""
    chosen = random.Random(1).choices(KEYS, k=CALLS)

    def hits() -> int:
        for key in chosen:
            get(key)
        return CALLS

    return lambda: hits


def misses_of(get: Get, put: Put | None) -> Callable[[], Callable[[], int]]:
    """Read what is not there, and write it."""
    number = itertools.count()

    def prepare() -> Callable[[], int]:
        keys = [f"new:{next(number)}" for _ in range(FRESH)]

        def misses() -> int:
            for key in keys:
                if get(key) is None and put is not None:
                    put(key, 1)
            return FRESH

        return misses

    return prepare


def operations(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Hits and misses of all, by kind of operation."""
    hits, misses = {}, {}
    for name, make in MAPPINGS.items():
        get, put = make(ENTRIES)
        for key in KEYS:
            put(key, 1)
        hits[name] = hits_of(get)
        misses[name] = misses_of(*make(ENTRIES))
    decorated, computed = {}, {}
    for name, decorator in DECORATORS.items():
        function = decorator(ENTRIES)(lambda _key: 1)
        for key in KEYS:
            function(key)
        decorated[name] = hits_of(function)
        computed[name] = misses_of(decorator(ENTRIES)(lambda _key: 1), None)
    return {
        "hit": interleaved(hits, rounds),
        "miss": interleaved(misses, rounds),
        "decorated hit": interleaved(decorated, rounds),
        "decorated miss": interleaved(computed, rounds),
    }


async def coroutines(rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, int]]:
    """Hits; many that miss together, each; and how often those computed."""
    together: dict[str, list[float]] = {name: [] for name in COROUTINES}
    hits: dict[str, list[float]] = {name: [] for name in COROUTINES}
    computed = dict.fromkeys(COROUTINES, 0)
    functions = {}
    for name, make in COROUTINES.items():

        async def compute(_key: Any, name: str = name) -> int:
            computed[name] += 1
            await asyncio.sleep(0)
            return 1

        functions[name] = make()(compute)
        await functions[name]("known")
    fresh = itertools.count()
    for _ in range(rounds):
        for name, function in functions.items():
            began = thread_time()
            for _ in range(2_000):
                await function("known")
            hits[name].append((thread_time() - began) / 2_000 * 1e9)
            key = f"new {next(fresh)}"
            began = thread_time()
            await asyncio.gather(*(function(key) for _ in range(WAITING)))
            together[name].append((thread_time() - began) / WAITING * 1e9)
    return hits, together, computed


def ratios() -> dict[str, list[float]]:
    """Hits in a hundred, of a Zipf distribution with scans and without."""
    chance = random.Random(11)
    sums = list(itertools.accumulate(1 / (number + 1) ** 0.9 for number in range(UNIVERSE)))
    names = list(range(UNIVERSE))
    chance.shuffle(names)
    asked: list[tuple[int, int]] = []
    scanned = itertools.count(10**7)
    for _ in range(10):
        asked += [(names[bisect.bisect(sums, chance.random() * sums[-1])], 1) for _ in range(40_000)]
        asked += [(next(scanned), 0) for _ in range(10_000)]
    makers = {
        **MAPPINGS,
        "cachebox.LFUCache": lambda size: item(cachebox.LFUCache(size)),
        "@cached": function_of(lambda size: cached(max_entries=size)),
        "functools.lru_cache": function_of(functools.lru_cache),
    }
    return {
        name: [hit_ratio(make(KEPT), trace) for trace in (asked, [one for one in asked if one[1]])]
        for name, make in makers.items()
    }


def function_of(decorator: Callable[[int], Callable[[Any], Any]]) -> Callable[[int], tuple[Get, Put]]:
    """A decorated function as get and put: what was not there is put in by the look-up."""

    def make(size: int) -> tuple[Get, Put]:
        computed: list[Any] = []
        function = decorator(size)(lambda key: computed.append(key) or 1)

        def get(key: Any) -> Any:
            computed.clear()
            function(key)
            return None if computed else 1

        return get, lambda _key, _value: None

    return make


def hit_ratio(cache: tuple[Get, Put], asked: list[tuple[int, int]]) -> float:
    """Hits in a hundred of those that count."""
    get, put = cache
    hits = counted = 0
    for key, counts in asked:
        if get(key) is None:
            put(key, 1)
        else:
            hits += counts
        counted += counts
    return 100 * hits / counted


def memory(name: str) -> float:
    """Bytes of resident memory for each entry."""
    keys = [f"user:{number}" for number in range(MEMORY)]

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    if name in DECORATORS:
        function = DECORATORS[name](MEMORY)(lambda _key: True)
    else:
        _, put = MAPPINGS[name](MEMORY)

        def function(key: Any) -> Any:
            return put(key, True)

    gc.collect()
    before = resident()
    for key in keys:
        function(key)
    gc.collect()
    return (resident() - before) / MEMORY


def threads() -> dict[str, list[float]]:
    """CPU ns of an operation, nine reads to a write, by eight threads at once."""
    found: dict[str, list[float]] = {}
    keys = [f"k{number}" for number in range(2 * ENTRIES)]
    for name, make in MAPPINGS.items():
        figures = []
        for _ in range(3):
            get, put = make(ENTRIES)
            spent: list[float] = []
            gate = threading.Barrier(8)

            def work(seed: int, get: Get = get, put: Put = put, gate: Any = gate, spent: list[float] = spent) -> None:
                chance = random.Random(seed)
                asked = [(keys[int(chance.random() ** 2 * 2 * ENTRIES)], chance.random() < 0.1) for _ in range(10_000)]
                gate.wait()
                began = thread_time()
                for key, writes in asked:
                    if writes:
                        put(key, 1)
                    else:
                        get(key)
                spent.append(thread_time() - began)

            running = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
            for thread in running:
                thread.start()
            for thread in running:
                thread.join()
            figures.append(sum(spent) / 80_000 * 1e9)
        found[name] = figures
    return found


def main() -> None:
    """Measure and print."""
    if sys.argv[1] == "memory":
        print(json.dumps(memory(sys.argv[2])))
        return
    rounds = int(sys.argv[1])
    gc.collect()
    gc.freeze()
    found: dict[str, Any] = dict(operations(rounds))
    found["async hit"], found["async together"], found["computed"] = asyncio.run(coroutines(rounds))
    found["threads"] = threads()
    found["ratio"] = ratios()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
