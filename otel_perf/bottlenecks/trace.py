"""One finished local trace as the detectors see it: its critical path, and the time on it that nobody has claimed.

Each detector claims the pieces of the path that it explains, the most specific first, and nobody else gets them:
so the costs of a trace never add up to more than the trace.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks.record import NOT_OWN, Record, nest_calls, tree
from otel_perf.bottlenecks.root import CLIENT
from otel_perf.bottlenecks.stacks import LOCK, POOL, RUNNING, WAITING
from otel_perf.core.critical_path import critical_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from otel_perf.bottlenecks.baseline import Baselines
    from otel_perf.bottlenecks.pauses import Pause
    from otel_perf.bottlenecks.place import Place
    from otel_perf.bottlenecks.root import Root, Work
    from otel_perf.bottlenecks.run_queue import Account
    from otel_perf.bottlenecks.stacks import Sample
    from otel_perf.bottlenecks.watchdog import Block, Overslept

    Interval = tuple[int, int]
    Accept = Callable[[Record], bool]

NEAR: Final = 60_000_000  # ns: a stack was looked at soon enough after something to have begun with it
HALF: Final = 10_000_000  # ns: half of the time between two looks at a stack


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was going on in the process meanwhile."""

    pauses: Sequence[Pause] = ()
    blocks: Sequence[Block] = ()
    overslept: Sequence[Overslept] = ()
    resident: Sequence[tuple[int, int]] = ()


@dataclass(slots=True)
class Piece:
    """Some time on the critical path that a span had for itself (ns)."""

    start: int
    end: int
    record: Record


@dataclass(slots=True)
class Activity:
    """Code that ran in one thread: a local root without an event loop, or what was handed to a pool."""

    top: Record
    thread: int
    start: int
    end: int
    cpu: int  # ns; -1 if it is not known
    queue: Account  # its thread's meanwhile
    records: set[int] = field(default_factory=set)  # ids

    def has(self, record: Record) -> bool:
        """Whether ``record`` is the activity's own code, and not somebody else's that it waited for."""
        return id(record) in self.records and record.kind not in NOT_OWN


class Trace:
    """Made when the local root has ended; used by one thread."""

    def __init__(self, root: Root, baselines: Baselines, surroundings: Surroundings) -> None:
        self.root = root
        self.baselines = baselines
        self.around = surroundings
        self.samples: list[Sample] = root.samples or []
        self.truncated = root.counted is not None
        self._by_id = tree(root)
        self.top = self._by_id[root.span_id]
        self.records: list[Record] = []
        self.activities: list[Activity] = []
        self._add_works(root)
        self._walk()
        self.path = critical_path(self.top, lambda record: record.children)
        self.on_path = {id(visit.node) for visit in self.path}
        self.free = sorted(
            (Piece(start, end, visit.node) for visit in self.path for start, end in visit.own),
            key=lambda piece: piece.start,
        )

    def record(self, span_id: int) -> Record:
        """The record of a span; the local root's where it is not known."""
        return self._by_id.get(span_id, self.top)

    @property
    def duration(self) -> int:
        """Of the local root (ns)."""
        return self.top.duration

    # --- time --------------------------------------------------------------------------------------

    def measure(self, intervals: Iterable[Interval], accept: Accept | None = None) -> int:
        """How much of ``intervals`` is on the path, of spans that ``accept`` takes, and not claimed yet (ns)."""
        return sum(end - start for start, end, _ in self._overlaps(merged(intervals), accept))

    def claim(self, intervals: Iterable[Interval], accept: Accept | None = None) -> int:
        """Take that time (ns): nobody else gets it."""
        wanted = merged(intervals)
        total, left = 0, []
        for piece in self.free:
            if accept is not None and not accept(piece.record):
                left.append(piece)
                continue
            position = piece.start
            for first, last in wanted:
                start, end = max(first, position), min(last, piece.end)
                if start < end:
                    total += end - start
                    if position < start:
                        left.append(Piece(position, start, piece.record))
                    position = end
            if position < piece.end:
                left.append(Piece(position, piece.end, piece.record))
        self.free = left
        return total

    def take(self, amount: int, accept: Accept) -> int:
        """Claim ``amount`` ns of what ``accept`` takes, where it is not known when exactly it was spent."""
        taken, left = 0, []
        for piece in self.free:
            if taken < amount and accept(piece.record):
                part = min(amount - taken, piece.end - piece.start)
                taken += part
                piece.start += part
            if piece.start < piece.end:
                left.append(piece)
        self.free = left
        return taken

    def pieces(self, accept: Accept) -> list[Piece]:
        """What is left of the spans that ``accept`` takes."""
        return [piece for piece in self.free if accept(piece.record)]

    def owner(self, intervals: Iterable[Interval], accept: Accept | None = None) -> Record | None:
        """The span that has the most of that time."""
        by_record: dict[int, int] = defaultdict(int)
        records: dict[int, Record] = {}
        for start, end, record in self._overlaps(merged(intervals), accept):
            by_record[id(record)] += end - start
            records[id(record)] = record
        return records[max(by_record, key=by_record.__getitem__)] if by_record else None

    def _overlaps(self, wanted: Sequence[Interval], accept: Accept | None) -> Iterator[tuple[int, int, Record]]:
        for piece in self.free:
            if accept is None or accept(piece.record):
                for first, last in wanted:
                    start, end = max(first, piece.start), min(last, piece.end)
                    if start < end:
                        yield start, end, piece.record

    def starved(self, start: int, end: int) -> int:
        """How long a thread that only sleeps waited for a CPU in that time (ns): this one may have, too."""
        return sum(min(probe.queued, end - start) for probe in self.around.overslept if start < probe.end <= end)

    # --- stacks ------------------------------------------------------------------------------------

    def samples_in(self, pieces: Sequence[Piece], thread: int) -> list[Sample]:
        """The stacks of ``thread`` that were seen in ``pieces``."""
        return [
            sample
            for sample in self.samples
            if sample.thread == thread and any(piece.start <= sample.at <= piece.end for piece in pieces)
        ]

    def places_in(self, start: int, end: int) -> list[Place | None]:
        """Lines of the app that were seen in that time."""
        return [
            sample.stack.place
            for sample in self.samples
            if start <= sample.at <= end and sample.stack.place is not None and sample.stack.place.is_app
        ]

    def standing(self, doing: str) -> Iterator[tuple[list[Sample], Interval]]:
        """Stacks that did not move while they were ``doing`` something, and for how long that was.

        Twice at least, but for a lock or a pool: nobody is seen there who only passes.
        """
        by_record: dict[tuple[int, int], list[Sample]] = defaultdict(list)
        for sample in self.samples:
            by_record[sample.span_id, sample.thread].append(sample)
        for samples in by_record.values():
            before: Sample | None = None
            index = 0
            while index < len(samples):
                run = [samples[index]]
                while index + 1 < len(samples) and samples[index + 1].stack.position == run[0].stack.position:
                    index += 1
                    run.append(samples[index])
                index += 1
                after = samples[index] if index < len(samples) else None
                if run[0].stack.doing == doing and (len(run) > 1 or doing in {LOCK, POOL}):
                    yield run, self._extent(run, before, after)
                before = run[-1]

    def stands_still(self, pieces: Sequence[Piece], thread: int) -> int:
        """How long the stack of ``thread`` did not move in ``pieces``, whatever it was doing (ns)."""
        intervals = [
            interval
            for doing in (RUNNING, WAITING)
            for run, interval in self.standing(doing)
            if run[0].thread == thread
        ]
        return sum(
            max(0, min(piece.end, end) - max(piece.start, start))
            for start, end in merged(intervals)
            for piece in pieces
        )

    def _extent(self, run: list[Sample], before: Sample | None, after: Sample | None) -> Interval:
        """From when to when a stack stood still: between the spans and stacks around it, if these are near."""
        record, first, last = self.record(run[0].span_id), run[0].at, run[-1].at
        starts = [record.start, *(child.end for child in record.children if child.end <= first)]
        starts += [work.started for work in self.root.works or () if 0 < work.started <= first]
        ends = [record.end, *(child.start for child in record.children if child.start >= last)]
        if before is not None:
            starts.append(before.at)
        if after is not None:
            ends.append(after.at)
        start, end = max(starts), min(ends)
        return (
            start if first - start <= NEAR and start != (before.at if before else -1) else first - HALF,
            end if end - last <= NEAR and end != (after.at if after else -1) else last + HALF,
        )

    # --- the tree ----------------------------------------------------------------------------------

    def _add_works(self, root: Root) -> None:
        """Put what was handed to pools into the tree, with the spans that began in it."""
        if root.cpu >= 0:
            top = self.top
            self.activities.append(Activity(top, top.thread, top.start, top.end, root.cpu, root.queue))
        made: list[Record] = []
        for work in root.works or ():
            parent = self.record(work.span_id)
            record = Record(SpanKind.INTERNAL, work.submitted, work.ended or self.top.end, work.thread, parent.span)
            record.work = work
            outer = next((other for other in reversed(made) if _is_inside(work, other.work)), None)
            parent = parent if outer is None else outer
            siblings, parent.children = parent.children, []
            for child in siblings:
                (record if child.work is None and _began_in(child, work) else parent).adopt(child)
            parent.adopt(record)
            made.append(record)
            if work.started:
                activity = Activity(record, work.thread, work.started, record.end, work.cpu, work.queue)
                self.activities.append(activity)

    def _walk(self) -> None:
        tops = {id(activity.top): activity for activity in self.activities}
        ahead: list[tuple[Record, Activity | None]] = [(self.top, None)]
        while ahead:
            record, activity = ahead.pop()
            activity = tops.get(id(record), activity)
            if activity is not None and activity.thread != record.thread:
                activity = None
            if activity is not None and not record.awaits:
                activity.records.add(id(record))
            self.records.append(record)
            if len(record.children) > 1:
                nest_calls(record)
            ahead.extend((child, activity) for child in record.children)


def _is_inside(work: Work, other: Work | None) -> bool:
    return (
        other is not None
        and work.submitter == other.thread
        and other.started <= work.submitted <= (other.ended or work.submitted)
    )


def _began_in(record: Record, work: Work) -> bool:
    return record.thread == work.thread and work.started <= record.start <= (work.ended or record.start)


def merged(intervals: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same time as disjoint intervals, in order."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(intervals):
        if end <= start:
            continue
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def clients(record: Record) -> Iterator[Record]:
    """The outermost client spans at or below ``record``: one of a driver inside one of an ORM is the same call."""
    ahead = [record]
    while ahead:
        current = ahead.pop()
        if current.kind is CLIENT:
            yield current
        else:
            ahead.extend(current.children)
