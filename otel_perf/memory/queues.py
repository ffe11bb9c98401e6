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
from typing import TYPE_CHECKING, Any, Final

from otel_perf.memory.lookup import GONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SLACK: Final = 64  # places of entries that are gone, beside as many as there are entries
STEPS: Final = 4  # entries that are looked at in one go: more than come in meanwhile


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

    def part(self) -> list[Any]:
        """The part with the least place; empty if there is none."""
        old, new = self.old, self.new
        return old if old and not (new and new[0] < old[0]) else new

    def pop(self) -> Any:
        """Take the first place out; ``None`` if there is none."""
        try:
            return heappop(self.part() if self.old else self.new)
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
