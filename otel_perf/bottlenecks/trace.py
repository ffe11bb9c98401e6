"""One finished local trace as the detectors see it: its critical path, and the time on it that nobody has claimed.

Each detector claims the pieces of the path that it explains, the most specific first, and nobody else gets them:
so the costs of a trace never add up to more than the trace.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks.record import CLIENT, WAITING, Record, Root, Work
from otel_perf.core.critical_path import critical_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from otel_perf.bottlenecks.baseline import Baselines
    from otel_perf.bottlenecks.pauses import Pause
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
    waiting: int  # ns in the run queue; -1 if it is not known
    records: set[int] = field(default_factory=set)  # ids

    def has(self, record: Record) -> bool:
        """Whether ``record`` is the activity's own code, and not somebody else's that it waited for."""
        return id(record) in self.records and record.kind not in WAITING


class Trace:
    """Made when the local root has ended; used by one thread."""

    def __init__(self, root: Root, baselines: Baselines, surroundings: Surroundings) -> None:
        self.root = root
        self.top = root.top
        self.baselines = baselines
        self.around = surroundings
        self.samples: list[Sample] = root.samples or []
        self.truncated = False
        self.records: list[Record] = []
        self.activities: list[Activity] = []
        self._add_works(root)
        self._walk()
        self.path = critical_path(self.top, lambda record: record.children or ())
        self.on_path = {id(visit.node) for visit in self.path}
        self.free = sorted(
            (Piece(start, end, visit.node) for visit in self.path for start, end in visit.own),
            key=lambda piece: piece.start,
        )

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

    def standing(self, doing: str) -> Iterator[tuple[list[Sample], Interval]]:
        """Stacks that did not move while they were ``doing`` something, twice at least, and for how long that was."""
        by_record: dict[tuple[int, int], list[Sample]] = defaultdict(list)
        for sample in self.samples:
            by_record[id(sample.record), sample.thread].append(sample)
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
                if run[0].stack.doing == doing and len(run) > 1:
                    yield run, self._extent(run, before, after)
                before = run[-1]

    def _extent(self, run: list[Sample], before: Sample | None, after: Sample | None) -> Interval:
        """From when to when a stack stood still: between the spans and stacks around it, if these are near."""
        record, first, last = run[0].record, run[0].at, run[-1].at
        end_of_trace = self.top.end
        starts = [record.start, *(child.end for child in record.children or () if child.end <= first)]
        starts += [work.started for work in self.root.works or () if 0 < work.started <= first]
        ends = [record.end or end_of_trace, *(child.start for child in record.children or () if child.start >= last)]
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
            self._activity(root.top, root.top.thread, root.top.start, root.top.end, root.cpu, root.waiting)
        made: list[Record] = []
        for work in root.works or ():
            record = _record_of(work, root)
            outer = next((other for other in reversed(made) if _is_inside(work, other.work)), None)
            parent = work.record if outer is None else outer
            siblings = parent.children or []
            inner = [child for child in siblings if child.work is None and _began_in(child, work)]
            if inner:
                chosen = {id(child) for child in inner}
                siblings = [child for child in siblings if id(child) not in chosen]
            record.children = inner or None
            record.parent = parent
            for child in inner:
                child.parent = record
            parent.children = [*siblings, record]
            made.append(record)
            if work.started:
                self._activity(record, work.thread, work.started, record.end, work.cpu, work.waiting)

    def _activity(self, top: Record, thread: int, start: int, end: int, cpu: int, waiting: int) -> None:
        self.activities.append(Activity(top, thread, start, end, cpu, waiting))

    def _walk(self) -> None:
        tops = {id(activity.top): activity for activity in self.activities}
        ahead: list[tuple[Record, Activity | None]] = [(self.top, None)]
        while ahead:
            record, activity = ahead.pop()
            activity = tops.get(id(record), activity)
            if activity is not None and activity.thread != record.thread:
                activity = None
            if activity is not None and (record.task is None or record is activity.top):
                activity.records.add(id(record))
            self.records.append(record)
            if record.more is not None:
                self.truncated = True
                record.children = [*(record.children or ()), *record.more.values()]
                record.more = None
            if record.children is not None and len(record.children) > 1:
                record.children = _nested(record.children)
            ahead.extend((child, activity) for child in record.children or ())


def _nested(children: list[Record]) -> list[Record]:
    """Put a client span that ran within another one of its thread below it.

    SQLAlchemy's instrumentor does not make its span the current one, so that its driver's is not a child of it.
    """
    outer: dict[int, Record] = {}
    kept = []
    for child in sorted(children, key=lambda child: (child.start, -child.end)):
        around = outer.get(child.thread)
        if child.kind is CLIENT and child.count == 1:
            if around is not None and child.end <= around.end and child.task is around.task:
                around.children = [*(around.children or ()), child]
                continue
            outer[child.thread] = child
        kept.append(child)
    return kept


def _record_of(work: Work, root: Root) -> Record:
    record = Record(root, SpanKind.INTERNAL, work.submitted, work.thread)
    record.end = work.ended or max(root.top.end, work.submitted)
    record.span, record.work = work.record.span, work
    return record


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
        elif current.children:
            ahead.extend(current.children)
