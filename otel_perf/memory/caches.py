"""Caches with limits in entries and bytes, expiry, and statistics: mappings for users."""

from __future__ import annotations

import time
from collections.abc import MutableMapping
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from otel_perf.memory.limited import CacheInfo, Store, time_to_live
from otel_perf.memory.lookup import GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_MISSING: Any = object()


class LRUCache(MutableMapping[K, V], Generic[K, V]):
    """A mapping that drops what was not used for longest when it is full.

    ``max_entries`` and ``max_bytes`` (``"64MB"``) are its limits, one of them at least. Entries are weighed by
    ``weigher(key, value)`` (bytes), or else by :func:`~otel_perf.memory.weights.size_of`, when there is a limit of
    bytes; one that would not fit alone is not stored. ``on_evict(key, value, reason)`` is called, outside of the lock,
    for what the cache drops by itself: reason ``"size"``, ``"expired"`` or ``"pressure"``; what it raises is logged.
    When memory is short, caches of the lowest ``priority`` give theirs back first, and none goes below ``floor``
    entries before all are there. ``policy="s3fifo"`` keeps what is used often instead, even under scans.

    A look-up that hits costs as much as five of ``functools.lru_cache``. Thread-safe, re-entrant, safe in forked
    children. Iterating sees the keys of the moment at which it began. Raises ``ValueError`` for a limit that is none; a
    key has to be hashable.
    """

    def __init__(
        self,
        name: str = "",
        *,
        max_entries: int | None = None,
        max_bytes: int | str | None = None,
        weigher: Callable[[K, V], int] | None = None,
        on_evict: Callable[[K, V, str], object] | None = None,
        policy: str = "lru",
        priority: int = 0,
        floor: int = 0,
    ) -> None:
        self._store = Store(
            name or type(self).__name__, max_entries=max_entries, max_bytes=max_bytes, ttl=None, jitter=0.0,
            weigher=weigher, on_evict=on_evict, policy=policy, priority=priority, floor=floor,
        )  # fmt: skip

    def __getitem__(self, key: K) -> V:
        # No lock: each step is one of a dictionary's or of an object's own. Nothing is called between reading a count
        # and writing it, where CPython would change threads.
        store = self._store
        entry = store.entries.get(key)
        if entry is not None and (entry.deadline == inf or store.clock() < entry.deadline):
            value = entry.value
            if value is not GONE:  # another thread removed it just now
                store.touch(entry)
                store.hits += 1
                return value  # type: ignore[no-any-return]
        store.misses += 1
        if entry is not None:
            store.drop_expired(entry)
        raise KeyError(key)

    def __setitem__(self, key: K, value: V) -> None:
        self._store.put(key, value)

    def __delitem__(self, key: K) -> None:
        if self._store.remove(key) is None:
            raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return self._store.find(key) is not None

    def __len__(self) -> int:
        return len(self._store.entries)

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._store.entries))

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | D) -> V | D: ...
    def get(self, key: K, /, default: Any = None) -> Any:
        """The value of ``key``, or ``default``; counted as a hit or a miss."""
        try:
            return self[key]
        except KeyError:
            return default

    def pop(self, key: K, default: Any = _MISSING) -> Any:
        """Take ``key`` out; what it was, or ``default``, or ``KeyError``. Not counted."""
        entry = self._store.remove(key)
        if entry is not None and (entry.deadline == inf or self._store.clock() < entry.deadline):
            return entry.value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Take the entry out that would be dropped next. Raises ``KeyError`` when there is none."""
        entry = self._store.pop_victim()
        if entry is None:
            raise KeyError(f"cache {self._store.name!r} is empty")
        return entry.key, entry.value

    def setdefault(self, key: K, default: Any = None) -> Any:
        """The value of ``key``, which is ``default`` from now on if there was none; one step for all threads."""
        with self._store.lock:
            entry = self._store.find(key)
            if entry is not None:
                return entry.value
            self._store.put(key, default)
            return default

    def peek(self, key: K, default: Any = None) -> Any:
        """The value of ``key`` or ``default``; not counted, and its turn to be dropped stays as it was."""
        entry = self._store.find(key)
        value = GONE if entry is None else entry.value
        return default if value is GONE else value

    def clear(self) -> None:
        """Drop all entries."""
        self._store.clear()

    def resize(self, max_entries: int | None = None, max_bytes: int | str | None = None) -> None:
        """Change the limits that are given; drops what is over them."""
        self._store.resize(max_entries, max_bytes)

    def cache_info(self) -> CacheInfo:
        """Hits, misses, limits, entries, bytes, evictions, expirations."""
        return self._store.info()

    @property
    def name(self) -> str:
        """As in ``perf.cache.name``."""
        return self._store.name

    def __repr__(self) -> str:
        info = self.cache_info()
        kept = f"{info.currsize} entries" if info.maxsize is None else f"{info.currsize} of {info.maxsize} entries"
        return f"<{type(self).__name__} {self.name!r} {kept}, {info.hit_ratio:.0%} hits>"


class TTLCache(LRUCache[K, V]):
    """An :class:`LRUCache` whose entries live for ``ttl`` (seconds, or like ``"5m"``), less up to ``jitter`` of it.

    The jitter keeps what was stored together from expiring together. An expired entry is not returned; it is dropped
    when it is asked for, by the cleanup, or when its turn comes. ``clock`` gives seconds that do not step back.
    """

    def __init__(  # noqa: PLR0913 - what users can set
        self,
        name: str = "",
        *,
        ttl: float | str,
        jitter: float = 0.0,
        max_entries: int | None = None,
        max_bytes: int | str | None = None,
        weigher: Callable[[K, V], int] | None = None,
        on_evict: Callable[[K, V, str], object] | None = None,
        policy: str = "lru",
        priority: int = 0,
        floor: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = Store(
            name or type(self).__name__, max_entries=max_entries, max_bytes=max_bytes, ttl=ttl, jitter=jitter,
            weigher=weigher, on_evict=on_evict, policy=policy, priority=priority, floor=floor, clock=clock,
        )  # fmt: skip

    def put(self, key: K, value: V, ttl: float | str | None = None) -> None:
        """Store with a time to live of its own."""
        self._store.put(key, value, None if ttl is None else time_to_live(self.name, ttl))
