"""Collections that stay within a limit: a deque, a dictionary and a set; the queue is in ``priority_queue``.

What is one too many is dropped, the oldest by default, and counted; or it is refused. All are thread-safe, safe in
forked children, and may be used by what they call. Sizes, limits and drops are metrics: ``perf.collection.*``.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, MutableMapping, MutableSet
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from otel_perf.core.guard import Guard
from otel_perf.memory.limited import Store
from otel_perf.memory.lookup import GONE

if TYPE_CHECKING:
    from collections.abc import Callable

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

OVERFLOWS: Final = ("drop_oldest", "drop_newest", "raise")
_guard = Guard("memory.collections")


class LimitError(Exception):
    """A collection is full, and was made with ``overflow="raise"``."""


class Bounded(ABC):
    """What all of them have: a name, a limit, and the number of what was dropped."""

    def __init__(self, name: str, limit: int, overflow: str, on_drop: Callable[[Any], object] | None) -> None:
        self.name = name or type(self).__name__
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
            raise ValueError(f"{self.name}: limit={limit!r} must be a whole number of at least 1")
        if overflow not in OVERFLOWS:
            raise ValueError(f"{self.name}: overflow={overflow!r} is unknown; it must be one of {', '.join(OVERFLOWS)}")
        self.limit = limit
        self.overflow = overflow
        self.on_drop = on_drop
        self.dropped = 0

    def _refuse_text(self, items: object) -> None:
        """Somebody's name for it, most likely, and not letters to put in."""
        if isinstance(items, str):
            kind = type(self).__name__
            raise TypeError(f"{kind}({items!r}): a text is no items; write {kind}(name={items!r}, limit=…)")

    def _register(self) -> None:
        """It is complete: its numbers may be read."""
        bounded[id(self)] = self

    def _full(self) -> LimitError:
        return LimitError(f"{self.name} is full: {self.limit} items; take some out, or choose another overflow=")

    def _drop(self, item: Any) -> None:
        self.dropped += 1
        if self.on_drop is not None:
            with _guard:
                self.on_drop(item)

    def _weak_drop(self) -> Callable[[Any], None]:
        """As :meth:`_drop`, for what it is made of: in a cycle it would wait for the garbage collector."""
        reference = weakref.ref(self)

        return lambda item: None if (made := reference()) is None else made._drop(item)

    @abstractmethod
    def __len__(self) -> int: ...

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {len(self)} of {self.limit}, {self.dropped} dropped>"


bounded: weakref.WeakValueDictionary[int, Bounded] = weakref.WeakValueDictionary()
"""All that there are, by ``id()``."""


class BoundedDict(Bounded, MutableMapping[K, V], Generic[K, V]):
    """A dictionary of at most ``limit`` keys. ``on_drop`` is called with the key and value, as a tuple."""

    def __init__(
        self,
        name: str = "",
        *,
        limit: int,
        overflow: str = "drop_oldest",
        on_drop: Callable[[tuple[K, V]], object] | None = None,
    ) -> None:
        super().__init__(name, limit, overflow, on_drop)
        drop = self._weak_drop()
        self._store = Store(
            self.name, max_entries=limit, max_bytes=None, ttl=None, jitter=0.0, weigher=None, policy="fifo",
            on_evict=lambda key, value, _reason: drop((key, value)), priority=0, floor=limit, is_cache=False,
        )  # fmt: skip
        self._register()

    def __setitem__(self, key: K, value: V) -> None:
        store = self._store
        if self.overflow == "drop_oldest":
            store.put(key, value)
            return
        with store.lock:
            fits = key in store.entries or len(store.entries) < self.limit
            if fits:
                store.put(key, value)
        if not fits:
            if self.overflow == "raise":
                raise self._full()
            self._drop((key, value))

    def __getitem__(self, key: K) -> V:
        value = self._store.entries[key].value
        if value is GONE:  # another thread took it out just now
            raise KeyError(key)
        return value  # type: ignore[no-any-return]

    def __delitem__(self, key: K) -> None:
        if self._store.remove(key) is None:
            raise KeyError(key)

    def pop(self, key: K, *default: Any) -> Any:
        """Take ``key`` out, in one step."""
        entry = self._store.remove(key)
        if entry is None:
            if default:
                return default[0]
            raise KeyError(key)
        return entry.value

    def popitem(self) -> tuple[K, V]:
        """Take the oldest out. Raises ``KeyError`` when there is none."""
        entry = self._store.pop_victim()
        if entry is None:
            raise KeyError(f"{self.name} is empty")
        return entry.key, entry.value

    def clear(self) -> None:
        """Take all out; they are not counted as dropped."""
        self._store.clear()

    def __contains__(self, key: object) -> bool:
        return key in self._store.entries

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._store.entries))

    def __len__(self) -> int:
        return len(self._store.entries)


class BoundedSet(Bounded, MutableSet[T], Generic[T]):
    """A set of at most ``limit`` items."""

    def __init__(
        self,
        items: Iterable[T] = (),
        name: str = "",
        *,
        limit: int,
        overflow: str = "drop_oldest",
        on_drop: Callable[[T], object] | None = None,
    ) -> None:
        super().__init__(name, limit, overflow, on_drop)
        self._refuse_text(items)
        drop = self._weak_drop()
        self._items: BoundedDict[T, None] = BoundedDict(
            self.name, limit=limit, overflow=overflow, on_drop=lambda pair: drop(pair[0])
        )
        bounded.pop(id(self._items), None)  # it is counted as the set
        self._register()
        for item in items:
            self.add(item)

    @classmethod
    def _from_iterable(cls, items: Iterable[Any]) -> Any:
        return set(items)  # of operators like &

    def add(self, value: T) -> None:
        """Put it in, if it is not; it keeps its age otherwise."""
        self._items[value] = None

    def discard(self, value: T) -> None:
        """Take it out, if it is in."""
        self._items.pop(value, None)

    def clear(self) -> None:
        """Take all out; they are not counted as dropped."""
        self._items.clear()

    def __contains__(self, value: object) -> bool:
        return value in self._items

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class BoundedDeque(Bounded, Generic[T]):
    """A deque of at most ``limit`` items; ``drop_oldest`` drops at the other end, as ``collections.deque`` does."""

    def __init__(
        self,
        items: Iterable[T] = (),
        name: str = "",
        *,
        limit: int,
        overflow: str = "drop_oldest",
        on_drop: Callable[[T], object] | None = None,
    ) -> None:
        super().__init__(name, limit, overflow, on_drop)
        self._refuse_text(items)
        self._items: deque[T] = deque()
        self._register()
        self.extend(items)

    def append(self, item: T) -> None:
        """Put it in at the right. Raises :class:`LimitError` if it is full, with ``overflow="raise"``."""
        self._put(item, self._items.append, self._items.popleft)

    def appendleft(self, item: T) -> None:
        """Put it in at the left."""
        self._put(item, self._items.appendleft, self._items.pop)

    def extend(self, items: Iterable[T]) -> None:
        """Put them in at the right, one by one."""
        for item in items:
            self.append(item)

    def extendleft(self, items: Iterable[T]) -> None:
        """Put them in at the left, one by one."""
        for item in items:
            self.appendleft(item)

    def pop(self) -> T:
        """Take the right one out. Raises ``IndexError`` when there is none."""
        return self._items.pop()

    def popleft(self) -> T:
        """Take the left one out. Raises ``IndexError`` when there is none."""
        return self._items.popleft()

    def clear(self) -> None:
        """Take all out; they are not counted as dropped."""
        self._items.clear()

    def _put(self, item: T, put: Callable[[T], None], drop: Callable[[], T]) -> None:
        # Each step is one of the deque's own: threads may each see one item too many for a moment, and then drop it.
        if self.overflow != "drop_oldest" and len(self._items) >= self.limit:
            if self.overflow == "raise":
                raise self._full()
            self._drop(item)
            return
        put(item)
        while len(self._items) > self.limit:
            try:
                dropped = drop()
            except IndexError:
                return
            self._drop(dropped)

    def __getitem__(self, index: int) -> T:
        return self._items[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._items.copy())

    def __len__(self) -> int:
        return len(self._items)
