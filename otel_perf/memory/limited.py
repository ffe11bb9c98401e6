"""What caches are made of: entries within limits, expiry, and the numbers.

Any of a cache's methods may be called from any thread, from a signal handler, and from code that the cache itself
calls: a weigher, a callback, a key's ``__hash__`` and ``__eq__``, a finaliser. Foreign code runs outside of the lock
wherever it can be helped; where not (``__eq__``, the garbage collector), the lock is re-entrant and each step leaves
the cache whole. A child of ``fork`` has the entries and a lock of its own.
"""

from __future__ import annotations

import threading
import time
from math import inf
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from weakref import WeakSet

from otel_perf.core.chance import chance
from otel_perf.core.forks import on_fork
from otel_perf.core.guard import Guard
from otel_perf.core.settings import parse_duration, parse_size
from otel_perf.core.weak import alive
from otel_perf.memory.lookup import GONE, Entry
from otel_perf.memory.policies import POLICIES
from otel_perf.memory.queues import SLACK, Deadlines
from otel_perf.memory.weights import size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SWEEP: Final = 64  # entries dropped in one go under pressure
STEP: Final = 8  # and of those that have expired: some 0.03 ms
_guard = Guard("memory.caches")


class CacheInfo(NamedTuple):
    """Begins like the one of :func:`functools.lru_cache`."""

    hits: int
    misses: int
    maxsize: int | None  # limit of entries
    currsize: int  # entries
    max_bytes: int | None
    bytes: int  # 0 where nothing weighs the entries
    evictions: int
    expirations: int

    @property
    def hit_ratio(self) -> float:
        """Hits by all look-ups; 0 before the first."""
        return self.hits / (self.hits + self.misses) if self.hits else 0.0


class Store:
    """The entries of a cache, its limits and its numbers. Caches are made of it; it is not for users."""

    def __init__(  # noqa: PLR0913 - what users can set
        self,
        name: str,
        *,
        max_entries: int | None,
        max_bytes: int | str | None,
        ttl: float | str | None,
        jitter: float,
        weigher: Callable[[Any, Any], int] | None,
        on_evict: Callable[[Any, Any, str], object] | None,
        policy: str,
        priority: int,
        floor: int,
        clock: Callable[[], float] = time.monotonic,
        is_cache: bool = True,
    ) -> None:
        self.name = name
        self.is_cache = is_cache  # what is in it can be had again
        self.max_entries = _limit(name, "max_entries", max_entries)
        self.max_bytes = None if max_bytes is None else _limit(name, "max_bytes", _parsed(name, max_bytes))
        self.ttl = None if ttl is None else time_to_live(name, ttl)
        if self.max_entries is None and self.max_bytes is None:
            raise ValueError(f"cache {name!r} has no limit; give it max_entries=, max_bytes= or both")
        if not 0.0 <= jitter < 1.0:
            raise ValueError(f"cache {name!r}: jitter={jitter!r} must be from 0 to less than 1, a share of the ttl")
        if policy not in POLICIES:
            raise ValueError(f"cache {name!r}: policy={policy!r} is unknown; it must be one of {', '.join(POLICIES)}")
        if not isinstance(floor, int) or floor < 0:
            raise ValueError(f"cache {name!r}: floor={floor!r} must be 0 or more entries")
        if not isinstance(priority, int):
            raise TypeError(f"cache {name!r}: priority={priority!r} must be a whole number")
        self.jitter = jitter
        self.weigher = weigher if weigher is not None or self.max_bytes is None else _size
        self.on_evict = on_evict
        self.priority = priority
        self.floor = floor
        self.clock = clock
        self.policy = POLICIES[policy](self.max_entries)
        self.entries = self.policy.entries
        self.touch = self.policy.touch
        self.lock: Any = threading.RLock()
        self.hits = self.misses = self.evictions = self.expirations = 0
        self.weight = 0
        self._deadlines = Deadlines()
        self.counted: Any = None  # counts hits elsewhere
        self.squeezed: int | None = None  # the limit of entries while memory is short
        stores.add(self)

    # --- reading and writing ------------------------------------------------------------------------

    def find(self, key: Any) -> Any:
        """The live entry of ``key``, or ``None``; an expired one is dropped."""
        entry = self.entries.get(key)
        if entry is None or entry.deadline == inf or self.clock() < entry.deadline:
            return entry
        self.drop_expired(entry)
        return None

    def put(self, key: Any, value: Any, ttl: float | None = None) -> bool:
        """Store; whether it fits. Raises what the weigher raises, before anything is changed."""
        weight = 0 if self.weigher is None else self._weigh(key, value)
        if ttl is None:
            ttl = self.ttl
        now = 0.0 if ttl is None else self.clock()
        deadline = inf if ttl is None else self._deadline(ttl, now)
        fits = self.max_bytes is None or weight <= self.max_bytes
        dropped: list[tuple[Any, str]] = []
        old_value: Any = None  # its finaliser runs when the lock is free
        with self.lock:
            if fits:
                new = Entry(key, value, deadline, weight)
                entry = self.policy.add(new)
                if entry is new:
                    self.weight += weight
                    if deadline != inf:
                        self._queue_deadline(entry, now)
                else:
                    old_value = entry.value
                    self.weight += weight - entry.weight
                    sooner = deadline < entry.deadline
                    entry.value, entry.weight, entry.deadline = value, weight, deadline
                    if sooner:  # it is queued for later than it now expires
                        self._queue_deadline(entry, now)
                    self.policy.touch(entry)
            else:
                old = self.entries.get(key)
                if old is not None and self._remove(old):
                    old_value, old.value = old.value, GONE  # the order, which still has it, may then let go of it
            self._shrink_to_limits(dropped, new if fits else None)
        del old_value
        self._tell(dropped)
        return fits

    def remove(self, key: Any) -> Any:
        """Take the entry of ``key`` out and return it; ``None`` if there is none."""
        with self.lock:
            entry = self.entries.get(key)
            return _apart(entry) if self._remove(entry) else None

    def pop_victim(self) -> Any:
        """Take the entry out that would go next, and return it; ``None`` if there is none."""
        with self.lock:
            entry = self.policy.victim()
            if entry is None:
                return None
            self.weight -= entry.weight
            return entry if entry.deadline == inf else _apart(entry)

    def resize(self, max_entries: int | None, max_bytes: int | str | None) -> None:
        """Change the limits that are given."""
        dropped: list[tuple[Any, str]] = []
        entries = _limit(self.name, "max_entries", max_entries)
        weight = None if max_bytes is None else _limit(self.name, "max_bytes", _parsed(self.name, max_bytes))
        if weight is not None and self.weigher is None:
            raise ValueError(f"cache {self.name!r} does not weigh its entries; make it with max_bytes= or weigher=")
        with self.lock:
            self.max_entries = self.max_entries if entries is None else entries
            self.max_bytes = self.max_bytes if weight is None else weight
            self._shrink_to_limits(dropped)
        self._tell(dropped)

    def clear(self) -> None:
        """Drop all entries; the callback is not called."""
        nested = self.lock._is_owned()
        with self.lock:
            dropped = self.policy.clear()
            if nested:  # what we are in the midst of counts its own entry
                self.weight -= sum([entry.weight for entry in dropped])
            else:
                self.weight = sum(entry.weight for entry in list(self.entries.values()))  # an interrupt may cost one
            left = [entry for entry in list(self.entries.values()) if entry.deadline != inf]
            self._deadlines = Deadlines(left, self.clock() if left else 0.0)
        del dropped

    def expire(self) -> Iterator[int]:
        """Drop what has expired, a few entries at a time; yields how many bytes each step has freed.

        Costs next to nothing for what has not: entries are queued by their deadlines, or by those that they had once.
        """
        most = STEP if self.on_evict is None else 1  # nobody knows what a callback takes
        while True:
            weight = 0
            taken: list[Any] = []
            dropped: list[tuple[Any, str]] = []
            with self.lock:
                now = self.clock()
                while len(taken) < most and (entry := self._deadlines.take(now)) is not None:
                    taken.append(entry)
                    if entry.deadline > now:
                        if entry.value is not GONE:  # it was stored anew since it was queued
                            self._deadlines.add(entry, now)
                    elif self._remove(entry):
                        self.expirations += 1
                        weight += entry.weight
                        dropped.append((_apart(entry), "expired"))
            self._tell(dropped)
            if not taken:
                return
            del entry, taken, dropped  # their finalisers run now that the lock is free
            yield weight

    def shrink(self, entries: int) -> int:
        """Drop entries until so many are left; how many bytes that freed, as far as entries are weighed."""
        dropped: list[tuple[Any, str]] = []
        freed = 0
        while len(self.entries) > max(entries, 0):
            entry = self.pop_victim()
            if entry is None:
                break
            self.evictions += 1
            freed += entry.weight
            dropped.append((entry, "pressure"))
            del entry
            if len(dropped) >= SWEEP:  # so that others get their turn
                self._tell(dropped)
                dropped = []
        self._tell(dropped)
        return freed

    def info(self) -> CacheInfo:
        """The numbers of now."""
        hits = self.hits if self.counted is None else self.counted.hits
        return CacheInfo(
            hits, self.misses, self.max_entries, len(self.entries), self.max_bytes, self.weight,
            self.evictions, self.expirations,
        )  # fmt: skip

    # --- inside -------------------------------------------------------------------------------------

    def _remove(self, entry: Any) -> bool:
        if entry is None or not self.policy.remove(entry):
            return False
        self.weight -= entry.weight
        self.policy.tidy()
        return True

    def drop_expired(self, entry: Any) -> None:
        """Drop ``entry`` if it has expired."""
        with self.lock:
            if entry.deadline > self.clock() or not self._remove(entry):
                return
            self.expirations += 1
            gone = _apart(entry)
        self._tell([(gone, "expired")])

    def _shrink_to_limits(self, dropped: list[tuple[Any, str]], new: Any = None) -> None:
        most = self.max_entries
        if self.squeezed is not None:
            most = self.squeezed if most is None else min(most, self.squeezed)
        while (most is not None and len(self.entries) > most) or (
            self.max_bytes is not None and self.weight > self.max_bytes
        ):
            entry = self.policy.victim()
            if entry is new and entry is not None and self.entries:  # others are not queued: a step was interrupted
                self.policy.put_back(entry)
                entry = self.policy.victim()
            if entry is None:
                return
            self.weight -= entry.weight
            self.evictions += 1
            dropped.append((entry, "size"))

    def _queue_deadline(self, entry: Any, now: float) -> None:
        deadlines = self._deadlines
        deadlines.add(entry, now)
        if deadlines.queued > 2 * len(self.entries) + SLACK:
            deadlines.tidy(now)

    def _deadline(self, ttl: float, now: float) -> float:
        if self.jitter:
            ttl *= 1.0 - chance.random() * self.jitter  # what was stored together expires apart
        return now + ttl

    def _weigh(self, key: Any, value: Any) -> int:
        weight = self.weigher(key, value)  # type: ignore[misc]
        if not isinstance(weight, int) or weight < 0:
            raise ValueError(f"cache {self.name!r}: its weigher returned {weight!r}; it must return bytes, 0 or more")
        return weight

    def _tell(self, dropped: list[tuple[Any, str]]) -> None:
        """Call back for what was dropped, which has no value from then on: it is still queued by its deadline."""
        if self.on_evict is not None:
            for entry, reason in dropped:
                with _guard:
                    self.on_evict(entry.key, entry.value, reason)
        for entry, _ in dropped:
            if entry.deadline != inf:
                entry.value = GONE


def _size(key: Any, value: Any) -> int:
    return size_of(key) + size_of(value)


def _limit(name: str, field: str, value: int | None) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"cache {name!r}: {field}={value!r} must be at least 1; for no such limit leave it out")
    return value


def _parsed(name: str, value: int | str) -> int:
    try:
        return parse_size(value)
    except ValueError:
        raise ValueError(f"cache {name!r}: max_bytes={value!r} is not a size; write bytes or like '64MB'") from None


def time_to_live(name: str, value: float | str) -> float:
    """Seconds from what a user gave for a cache. Raises ``ValueError``."""
    try:
        ttl = parse_duration(value)
    except ValueError:
        ttl = -1.0
    if not 0.0 < ttl < inf:
        raise ValueError(f"cache {name!r}: ttl={value!r} must be more than 0; write seconds or like '5m'")
    return ttl


def _apart(entry: Any) -> Any:
    """What ``entry`` was; where it is still queued it has no value any more."""
    copy = Entry(entry.key, entry.value, entry.deadline, entry.weight)
    entry.value = GONE
    return copy


stores: WeakSet[Store] = WeakSet()


def _reset_locks() -> None:
    for store in alive(stores):
        store.lock = threading.RLock()


on_fork(child=_reset_locks)
