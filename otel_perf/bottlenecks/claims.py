"""The time on a critical path, and who has claimed it: nobody else gets it."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from otel_perf.bottlenecks.record import Record

    Interval = tuple[int, int]
    Accept = Callable[[Record], bool]


@dataclass(slots=True)
class Piece:
    """Some time on the critical path that a span had for itself (ns)."""

    start: int
    end: int
    record: Record


def _end(piece: Piece) -> int:
    return piece.end


class Claims:
    """Disjoint pieces in the order of time. A question costs O(k log n) for k intervals, a claim O(n)."""

    def __init__(self, pieces: Iterable[Piece]) -> None:
        self.free = sorted(pieces, key=_end)

    def measure(self, intervals: Iterable[Interval], accept: Accept | None = None) -> int:
        """How much of ``intervals`` is on the path, of spans that ``accept`` takes, and not claimed yet (ns)."""
        return sum(end - start for start, end, _ in self._overlaps(merged(intervals), accept))

    def claim(self, intervals: Iterable[Interval], accept: Accept | None = None) -> int:
        """Take that time (ns)."""
        total = 0
        cuts: dict[int, list[Interval]] = defaultdict(list)
        for start, end, index in self._overlaps(merged(intervals), accept):
            total += end - start
            cuts[index].append((start, end))
        if cuts:
            left: list[Piece] = []
            for index, piece in enumerate(self.free):
                position = piece.start
                for start, end in cuts.get(index, ()):
                    if position < start:
                        left.append(Piece(position, start, piece.record))
                    position = end
                if position < piece.end:
                    left.append(Piece(position, piece.end, piece.record))
            self.free = left
        return total

    def take(self, amount: int, accept: Accept) -> int:
        """Claim ``amount`` ns of what ``accept`` takes, where it is not known when exactly it was spent."""
        taken = 0
        left: list[Piece] = []
        for piece in self.free:
            part = min(amount - taken, piece.end - piece.start) if accept(piece.record) else 0
            taken += part
            if piece.start + part < piece.end:
                left.append(Piece(piece.start + part, piece.end, piece.record))
        self.free = left
        return taken

    def pieces(self, accept: Accept) -> list[Piece]:
        """What is left of the spans that ``accept`` takes."""
        return [piece for piece in self.free if accept(piece.record)]

    def owner(self, intervals: Iterable[Interval]) -> Record | None:
        """The span that has the most of that time."""
        by_record: dict[int, int] = defaultdict(int)
        records: dict[int, Record] = {}
        for start, end, index in self._overlaps(merged(intervals), None):
            record = self.free[index].record
            by_record[id(record)] += end - start
            records[id(record)] = record
        return records[max(by_record, key=by_record.__getitem__)] if by_record else None

    def _overlaps(self, wanted: Sequence[Interval], accept: Accept | None) -> Iterator[tuple[int, int, int]]:
        """Start, end, and the index of the piece."""
        free, index = self.free, 0
        for first, last in wanted:
            index = bisect_right(free, first, lo=index, key=_end)
            position = index
            while position < len(free) and free[position].start < last:
                piece = free[position]
                if accept is None or accept(piece.record):
                    yield max(first, piece.start), min(last, piece.end), position
                position += 1


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The same time as disjoint intervals, in order."""
    found: list[Interval] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def overlap(intervals: Iterable[Interval], pieces: Sequence[Piece]) -> int:
    """How much of ``intervals`` is in ``pieces`` (ns)."""
    return Claims(pieces).measure(intervals)
