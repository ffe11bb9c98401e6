"""Work on every structure of ``memory``, for tests of what it leaves behind."""

from contextlib import suppress

from otel_perf.memory.cached import cached
from otel_perf.memory.caches import LRUCache, TTLCache
from otel_perf.memory.collections import BoundedDeque, BoundedDict, BoundedSet
from otel_perf.memory.priority_queue import BoundedPriorityQueue
from otel_perf.memory.singletons import Singletons

LIMIT = 100


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Value:
    """Somewhat larger than what the allocator's noise is."""

    def __init__(self):
        self.body = bytes(200)

    def close(self):
        self.body = b""


def mapping(cache, expire=None):
    def work(number):
        key = "key", number % 250
        cache[key] = Value()
        cache.get(("key", number * 7 % 250))
        if number % 5 == 0:
            cache.pop(key, None)
        if number % 1_000 == 0:
            cache.clear()
        if expire is not None and number % 200 == 0:
            expire()

    return work


def with_expiry(policy):
    clock = Clock()
    cache = TTLCache("soaked", ttl=50, jitter=0.5, max_entries=LIMIT, clock=clock, policy=policy)

    def expire():
        clock.now += 30
        for _ in cache._store.expire():
            pass

    return mapping(cache, expire)


def function():
    made = cached(max_entries=LIMIT, ttl=1)(lambda _number: Value())
    return lambda number: (made(number % 250), number % 5 or made.cache_invalidate(number % 250))


class Owner:
    @cached(max_entries=LIMIT)
    def make(self, _number):
        return Value()


def method():
    owners = [Owner() for _ in range(5)]

    def work(number):
        if number % 50 == 0:
            owners[number % 5] = Owner()
        owners[number % 5].make(number % 60)

    return work


def collection(made, add, take):
    def work(number):
        add(number)
        if number % 3 == 0:
            with suppress(LookupError):
                take()
        if number % 1_000 == 0:
            made.clear()

    return work


def singletons():
    registry = Singletons()
    registry._at_exit = True  # the tests' process is not the app's

    def work(number):
        key = f"key {number % 10}"
        registry.register(key, Value, close="close", weak=number % 2 == 0)
        registry.get(key)
        registry.unregister(key)

    return work


def all_of_them():
    """By name, a function of a number that uses it once or a few times."""
    table, items = BoundedDict(limit=LIMIT), BoundedSet(limit=LIMIT)
    line, queue = BoundedDeque(limit=LIMIT), BoundedPriorityQueue(limit=LIMIT)
    return {
        "lru": mapping(LRUCache("soaked", max_entries=LIMIT)),
        "s3fifo": mapping(LRUCache("soaked", max_bytes="50kB", policy="s3fifo")),
        "ttl": with_expiry("lru"),
        "ttl s3fifo": with_expiry("s3fifo"),
        "function": function(),
        "method": method(),
        "dict": collection(table, lambda number: table.__setitem__(number % 250, Value()), table.popitem),
        "set": collection(items, lambda number: items.add(("item", number % 250)), items.pop),
        "deque": collection(line, lambda _number: line.append(Value()), line.popleft),
        "queue": collection(queue, lambda number: queue.put(Value(), number % 7), queue.get_nowait),
        "singletons": singletons(),
    }
