"""Orders of entries, from which those that are gone are taken out bit by bit.

An entry that is removed stays in its order, as a place without a value (:data:`~otel_perf.memory.lookup.GONE`), until
its turn comes, or until :meth:`tidy` comes across it. Making an order of a million anew would stop everything for
half a second; so it has two parts, and what is left of one moves to the other, a few entries at a time. Each step is
one of a built-in type's and compares numbers only: nothing foreign is called. Who uses them every time reaches into
the parts, since a call costs more than what is done there.
"""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from math import ceil, frexp, ldexp
from typing import TYPE_CHECKING, Any, Final

from otel_perf.memory.lookup import GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SLACK: Final = 64  # places of entries that are gone, beside as many as there are entries
STEPS: Final = 4  # entries that are looked at in one go: more than come in meanwhile
BUCKETS: Final = 1_000  # of entries by their deadlines, from which it is looked for those that are over
_FINENESS: Final = 9  # a time to live is 256 to 512 times as long as its buckets; as a power of two
_FINEST: Final = -10  # about a millisecond; likewise


class Line:
    """First in, first out: those in ``first`` come before those in ``rest``, where new ones are appended."""

    __slots__ = ("first", "rest")

    def __init__(self, entries: Iterable[Any] = ()) -> None:
        self.first: deque[Any] = deque()
        self.rest: deque[Any] = deque(entries)

    def __len__(self) -> int:
        return len(self.first) + len(self.rest)

    def __iter__(self) -> Iterator[Any]:
        return iter([*self.first.copy(), *self.rest.copy()])

    def tidy(self) -> None:
        """Look at a few: those that are there come behind those that were looked at before."""
        first, rest = self.first, self.rest
        for _ in range(STEPS):
            try:
                entry = rest.popleft()
            except IndexError:  # all were looked at; what comes now goes behind them
                self.first, self.rest = rest, first
                return
            if entry.value is not GONE:
                first.append(entry)


class Heap:
    """The least place first: that which an entry had when it was queued, although it may have a later one by now.

    ``old`` and ``new`` are heaps of places: numbers that no other entry has, and the entry. New ones go to ``new``.
    """

    __slots__ = ("new", "old", "place")

    def __init__(self, place: Callable[[Any], tuple[Any, ...]], entries: Iterable[Any] = ()) -> None:
        self.place = place  # of an entry
        self.old: list[Any] = []
        self.new = [place(entry) for entry in entries]
        heapify(self.new)

    def __len__(self) -> int:
        return len(self.old) + len(self.new)

    def pop(self) -> Any:
        """Take the first place out; ``None`` if there is none."""
        old, new = self.old, self.new
        try:
            return heappop(old if old and not (new and new[0] < old[0]) else new)
        except IndexError:
            return None

    def tidy(self) -> None:
        """Look at a few: those that are there are queued with the places that they have now."""
        if not self.old:
            self.old, self.new = self.new, self.old
        old, new = self.old, self.new
        for _ in range(STEPS):
            try:
                entry = old.pop()[-1]  # the last of a heap, which is one without it, too
            except IndexError:
                return
            if entry.value is not GONE:
                heappush(new, self.place(entry))


class Deadlines:
    """Entries by when they expire, in buckets; a bucket ends up to a 256th of their time to live after they do.

    A heap of a million costs twenty look-ups all over the memory for each entry that is taken out; a bucket one, next
    to the last. There are some 500 buckets for entries that live about as long; those that are over stand in a line of
    their own. Where there is no call, CPython lets nothing come in between: so a bucket changes its place.
    """

    __slots__ = ("_buckets", "_most", "_over", "queued")

    def __init__(self, entries: Iterable[Any] = (), now: float = 0.0) -> None:
        self._buckets: dict[float, list[Any]] = {}  # by when they end
        self._over: deque[list[Any]] = deque()  # those that are taken apart
        self._most = BUCKETS
        self.queued = 0  # entries; not exact where a step was interrupted
        for entry in entries:
            self.add(entry, now)

    def __len__(self) -> int:
        return sum(map(len, [*self._over.copy(), *list(self._buckets.values())]))

    def add(self, entry: Any, now: float) -> None:
        """Queue ``entry`` by its deadline; that it is queued already does no harm."""
        deadline = entry.deadline
        width = max(frexp(deadline - now)[1] - _FINENESS, _FINEST)
        try:
            end = ldexp(ceil(ldexp(deadline, -width)), width)
        except OverflowError:  # never, by any clock
            end = deadline
        bucket = self._buckets.get(end)
        if bucket is None:
            if len(self._buckets) >= self._most:  # nobody takes what is over
                self._set_aside(now)
            bucket = self._buckets.setdefault(end, [])
        bucket.append(entry)
        self.queued += 1
        if self._buckets.get(end) is not bucket:  # what interrupted us took it apart
            self.add(entry, now)

    def take(self, now: float) -> Any:
        """Take an entry out that had expired by ``now``, or would have but for a later deadline; else ``None``."""
        while True:
            entry = self._next()
            if entry is not None:
                self.queued -= 1
                return entry
            if not self._set_aside(now):
                self.queued = len(self)
                return None

    def tidy(self, now: float) -> None:
        """Look at a few: those that are there are queued with the deadlines that they have now."""
        for _ in range(STEPS):
            entry = self._next()
            if entry is None:
                for end in self._buckets:  # what is queued meanwhile goes into new ones, behind the others
                    bucket = self._buckets[end]
                    del self._buckets[end]
                    self._over.append(bucket)
                    break
                entry = self._next()
                if entry is None:
                    return
            self.queued -= 1
            if entry.value is not GONE:
                self.add(entry, now)

    def _next(self) -> Any:
        """An entry of the buckets that are taken apart, if there is one."""
        while self._over:
            bucket = self._over[0]
            try:
                return bucket.pop()
            except IndexError:
                if self._over and self._over[0] is bucket:
                    del self._over[0]
        return None

    def _set_aside(self, now: float) -> bool:
        """Line up the buckets that are over, the first one first; whether there is one. 0.2 ms for a thousand."""
        ends = sorted([end for end in list(self._buckets) if end <= now])
        for end in ends:
            if end in self._buckets:
                bucket = self._buckets[end]
                del self._buckets[end]
                self._over.append(bucket)
        self._most = 2 * len(self._buckets) + BUCKETS
        return bool(ends)
