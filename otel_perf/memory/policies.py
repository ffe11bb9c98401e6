"""Which entry a full cache drops.

A policy owns the dictionary of the entries and the order in which they would go. Its methods are called under the
cache's lock, but what they call may re-enter the cache in the same thread: a key's ``__eq__``, a finaliser that the
garbage collector runs, a signal handler, which may also raise. So each step is one of a built-in type's and leaves
everything as another call may find it: an entry may be queued and gone, which is seen when its turn comes, or there
and not queued, for which the queues are made anew when they are too short. Only plain dictionaries are asked for keys:
they stand it when a comparison changes them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from heapq import heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from otel_perf.memory.queues import SLACK, Heap, Line

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL: Final = 0.05  # share of the entries that are on trial
TRIES: Final = 3  # times that an entry that was hit is passed over, at most
REMEMBERED: Final = 4_096  # keys that were dropped on trial, where there is no limit of entries
_MASK: Final = 2**64 - 1


class Policy(ABC):
    """Not thread-safe; see the module."""

    def __init__(self) -> None:
        self.entries: dict[Any, Any] = {}

    def add(self, entry: Any) -> Any:
        """Put ``entry`` in, if its key is not; the entry that is in now."""
        found = self.entries.setdefault(entry.key, entry)
        if found is entry:
            self._queue(entry)
        return found

    def remove(self, entry: Any) -> bool:
        """Take exactly this entry out; whether it was in."""
        found = self.entries.pop(entry.key, None)
        if found is entry:
            return True
        if found is not None:  # a newer one, put in by what the look-up called
            self.entries.setdefault(entry.key, found)
        return False

    def tidy(self) -> None:
        """One was removed: take a few of those that are gone out of the order, if there are many."""
        if self._queued() > 2 * len(self.entries) + SLACK:
            self._tidy()

    def victim(self) -> Any:
        """Take the next entry to drop out, and return it; ``None`` if there is none."""
        if self._queued() < len(self.entries):  # a step was interrupted
            self._queue_anew()
        found = self._next()
        if found is None and self.entries:
            self._queue_anew()
            found = self._next()
        return found

    def put_back(self, entry: Any) -> None:
        """``entry`` was dropped although it is the newest: have all in the order, and it last."""
        self.entries.setdefault(entry.key, entry)
        self._queue_anew()

    def clear(self) -> list[Any]:
        """Take all entries out, and return them; one by one, since what goes may look."""
        taken = [entry for entry in list(self.entries.values()) if self.remove(entry)]
        self._queue_anew()
        return taken

    @abstractmethod
    def touch(self, entry: Any) -> None:
        """The entry was used."""

    @abstractmethod
    def _queue(self, entry: Any) -> None:
        """Have a new entry in the order."""

    @abstractmethod
    def _queued(self) -> int:
        """Entries in the order, those included that are gone."""

    @abstractmethod
    def _tidy(self) -> None:
        """Look at a few of them."""

    @abstractmethod
    def _queue_anew(self) -> None:
        """Have exactly the entries that are there in the order."""

    @abstractmethod
    def _next(self) -> Any:
        """As :meth:`victim`, of those that are queued."""


class Fifo(Policy):
    """The oldest entry goes, used or not."""

    def __init__(self, max_entries: int | None = None) -> None:
        super().__init__()
        self._order = Line()

    def touch(self, entry: Any) -> None:
        """Nothing."""

    def _queue(self, entry: Any) -> None:
        self._order.rest.append(entry)

    def _queued(self) -> int:
        return len(self._order)

    def _tidy(self) -> None:
        self._order.tidy()

    def _queue_anew(self) -> None:
        self._order = Line(list(self.entries.values()))  # a dictionary keeps them as they came

    def _next(self) -> Any:
        while True:
            line = self._order
            try:
                entry: Any = (line.first or line.rest).popleft()
            except IndexError:
                return None
            there = self.entries.get(entry.key) is entry
            if there and self.remove(entry):
                return entry


class Lru(Policy):
    """The least recently used entry goes.

    A use only stamps the entry. A heap has each entry with a stamp that it had once; what comes out on top with an
    older stamp than it has goes back with that. So what comes out with its own stamp has the least of all.
    """

    def __init__(self, max_entries: int | None = None) -> None:
        super().__init__()
        self._stamp = count(1).__next__
        self._heap = Heap(_place)

    def touch(self, entry: Any) -> None:
        """A stamp."""
        entry.used = self._stamp()

    def _queue(self, entry: Any) -> None:
        entry.used = stamp = self._stamp()
        heappush(self._heap.new, (stamp, entry))

    def _queued(self) -> int:
        return len(self._heap)

    def _tidy(self) -> None:
        self._heap.tidy()

    def _queue_anew(self) -> None:
        self._heap = Heap(_place, list(self.entries.values()))

    def _next(self) -> Any:
        while True:
            place = self._heap.pop()
            if place is None:
                return None
            stamp, entry = place
            there = self.entries.get(entry.key) is entry
            if there:
                if entry.used != stamp:
                    heappush(self._heap.new, (entry.used, entry))
                elif self.remove(entry):
                    return entry


class S3Fifo(Policy):
    """Entries that are used once go first, so that a scan does not push out what is used often.

    S3-FIFO (Yang et al., "FIFO Queues are All You Need for Cache Eviction", SOSP 2023). New entries are on trial in a
    small queue; one that was used there moves to the main queue, where uses earn it another round. A key that was
    dropped on trial and comes again goes to the main queue at once: a table of hashes remembers it.
    """

    def __init__(self, max_entries: int | None = None) -> None:
        super().__init__()
        self._small = Line()
        self._main = Line()
        # 4 bytes an entry; of two keys with one place the later is remembered.
        self._dropped = array("Q", bytes(8 * max(64, (max_entries or 2 * REMEMBERED) // 2)))

    def touch(self, entry: Any) -> None:
        """A count, of which a few are enough."""
        entry.used += 1

    def _queue(self, entry: Any) -> None:
        digest = hash(entry.key) & _MASK
        place = digest % len(self._dropped)
        if self._dropped[place] == digest:
            self._dropped[place] = 0
            entry.main = True
            self._main.rest.append(entry)
        else:
            self._small.rest.append(entry)

    def _queued(self) -> int:
        return len(self._small) + len(self._main)

    def _tidy(self) -> None:
        self._small.tidy()
        self._main.tidy()

    def _queue_anew(self) -> None:
        entries = {id(entry): entry for entry in list(self.entries.values())}  # as they came
        main = dict.fromkeys(id(entry) for entry in self._main)
        known = [entries[number] for number in main if number in entries and entries[number].main]
        known += [entry for number, entry in entries.items() if entry.main and number not in main]
        self._small = Line([entry for entry in entries.values() if not entry.main])
        self._main = Line(known)

    def _next(self) -> Any:
        for _ in range((TRIES + 2) * self._queued() + 1):
            small, main = self._small, self._main
            trial = len(small.rest) + len(small.first)
            if not trial or ((main.first or main.rest) and trial <= max(1, SMALL * len(self.entries))):
                small = main
            try:
                entry: Any = (small.first or small.rest).popleft()
            except IndexError:
                return None
            gone = self.entries.get(entry.key) is not entry
            if gone:
                continue
            if entry.used:
                entry.used = min(entry.used, TRIES) - 1 if entry.main else 0
                entry.main = True
                self._main.rest.append(entry)
            elif self.remove(entry):
                if not entry.main:
                    digest = hash(entry.key) & _MASK
                    self._dropped[digest % len(self._dropped)] = digest
                return entry
        return None  # others use them as fast as they are passed over


def _place(entry: Any) -> tuple[int, Any]:
    return entry.used, entry  # no two have the same


POLICIES: Final[dict[str, Callable[[int | None], Policy]]] = {"lru": Lru, "s3fifo": S3Fifo, "fifo": Fifo}
