"""One finished local trace as the detectors see it: its critical path, and the time on it that nobody has claimed.

Each detector claims the pieces of the path that it explains, the most specific first, and nobody else gets them:
so the costs of a trace never add up to more than the trace.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks.claims import Claims, Piece, overlap
from otel_perf.bottlenecks.record import NOT_OWN, Record, nest_calls, tree
from otel_perf.bottlenecks.recorder import CLIENT
from otel_perf.bottlenecks.stacks import LOCK, POOL, RUNNING, WAITING
from otel_perf.core.critical_path import critical_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_perf.bottlenecks.baseline import Baselines
    from otel_perf.bottlenecks.claims import Interval
    from otel_perf.bottlenecks.pauses import Pause
    from otel_perf.bottlenecks.place import Place
    from otel_perf.bottlenecks.root import Root, Work
    from otel_perf.bottlenecks.run_queue import Account
    from otel_perf.bottlenecks.stacks import Sample
    from otel_perf.bottlenecks.watchdog import Block, Look


NEAR: Final = 60_000_000  # ns: a stack was looked at soon enough after something to have begun with it
LONG: Final = 150_000_000  # ns: the same for a lock or a pool, in which nobody is seen who only passes
LATER: Final = 1_000_000  # ns after a span, in which what it waited for may end: two threads note it
HALF: Final = 10_000_000  # ns: half of the time between two looks at a stack


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was going on in the process meanwhile."""

    pauses: Sequence[Pause] = ()
    blocks: Sequence[Block] = ()
    looks: Sequence[Look] = ()
    resident: Sequence[tuple[int, int]] = ()


@dataclass(slots=True)
class Activity:
    """Code that ran in one thread: a local root without an event loop, or what was handed to a pool."""

    top: Record
    thread: int
    start: int
    end: int
    cpu: int  # ns; -1 if it is not known
    process: int  # CPU time of the whole process meanwhile (ns)
    queue: Account  # its thread's
    records: set[int] = field(default_factory=set)  # ids

    def has(self, record: Record) -> bool:
        """Whether ``record`` is the activity's own code, and not somebody else's that it waited for."""
        return id(record) in self.records and record.kind not in NOT_OWN


class Trace(Claims):
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
        self.works: list[Work] = []  # that somebody waited for
        self._add_works(root)
        self._walk()
        self.calls: dict[int, int] = {}
        """How many calls there are at or below a record, by id()."""
        for record in reversed(self.records):
            below = record.count if record.kind is CLIENT else sum(self.calls[id(child)] for child in record.children)
            self.calls[id(record)] = below
        self.path = critical_path(self.top, lambda record: record.children)
        self.on_path = {id(visit.node) for visit in self.path}
        super().__init__(Piece(start, end, visit.node) for visit in self.path for start, end in visit.own)

    def has(self, span_id: int) -> bool:
        """Whether a span is one of this local root's."""
        return span_id in self._by_id

    def record(self, span_id: int) -> Record:
        """The record of a span; the local root's where it is not known."""
        return self._by_id.get(span_id, self.top)

    @property
    def duration(self) -> int:
        """Of the local root (ns)."""
        return self.top.duration

    def starved(self, start: int, end: int) -> int:
        """How long a thread that only sleeps waited for a CPU in that time (ns): this one may have, too."""
        return sum(min(look.queued, end - start) for look in self.around.looks if start < look.end <= end)

    # --- stacks ------------------------------------------------------------------------------------

    def samples_in(self, pieces: Sequence[Piece], thread: int) -> list[Sample]:
        """The stacks of ``thread`` that were seen in ``pieces``."""
        ends = [piece.end for piece in pieces]
        return [
            sample
            for sample in self.samples
            if sample.thread == thread
            and (index := bisect_left(ends, sample.at)) < len(pieces)
            and pieces[index].start <= sample.at
        ]

    def places_in(self, start: int, end: int) -> list[Place | None]:
        """Lines of the app that were seen in that time."""
        return [
            sample.stack.place
            for sample in self.samples
            if start <= sample.at <= end and sample.stack.place is not None and sample.stack.place.is_app
        ]

    def standing(self, *doing: str) -> Iterator[tuple[list[Sample], Interval]]:
        """Stacks that did not move while they were ``doing`` something, and for how long that was.

        Twice at least, but for a lock or a pool: nobody is seen there who only passes.
        """
        return (run for run in self._runs if run[0][0].stack.doing in doing)

    @cached_property
    def _runs(self) -> list[tuple[list[Sample], Interval]]:
        found = []
        by_place: dict[tuple[int, int], list[Sample]] = defaultdict(list)
        for sample in self.samples:
            by_place[sample.span_id, sample.thread].append(sample)
        for samples in by_place.values():
            runs = [list(run) for _, run in groupby(samples, key=lambda sample: sample.stack.position)]
            for before, run, after in zip([[], *runs], runs, [*runs[1:], []], strict=False):
                if len(run) > 1 or run[0].stack.doing in {LOCK, POOL}:
                    found.append((run, self._extent(run, before[-1] if before else None, after[0] if after else None)))
        return found

    def stands_still(self, pieces: Sequence[Piece], thread: int) -> int:
        """How long the stack of ``thread`` did not move in ``pieces``, whatever it was doing (ns)."""
        standing = self.standing(RUNNING, WAITING)
        return overlap((interval for run, interval in standing if run[0].thread == thread), pieces)

    def _extent(self, run: list[Sample], before: Sample | None, after: Sample | None) -> Interval:
        """From when to when a stack stood still: between the spans and stacks around it, if these are near."""
        record, first, last = self.record(run[0].span_id), run[0].at, run[-1].at
        starts = [record.start, *(child.end for child in record.children if child.end <= first)]
        starts += [work.started for work in self.works if work.started <= first]
        ends = [record.end, *(child.start for child in record.children if child.start >= last)]
        if before is not None:
            starts.append(before.at)
        if after is not None:
            ends.append(after.at)
        start, end = max(starts), min(ends)
        near = LONG if run[0].stack.doing in {LOCK, POOL} else NEAR
        return (
            start if first - start <= near and start != (before.at if before else -1) else first - HALF,
            end if end - last <= near and end != (after.at if after else -1) else last + HALF,
        )

    # --- the tree ----------------------------------------------------------------------------------

    def _add_works(self, root: Root) -> None:
        """Put what was handed to pools into the tree, with the spans that began in it.

        Only what somebody waited for: work that outlives the span, or was cancelled, holds nothing up.
        """
        if root.cpu >= 0:
            top = self.top
            self.activities.append(Activity(top, top.thread, top.start, top.end, root.cpu, root.process, root.queue))
        made: list[Record] = []
        for work in root.works or ():
            handing = self.record(work.span_id)
            if not 0 < work.ended <= handing.end + LATER:
                continue
            record = Record(SpanKind.INTERNAL, work.submitted, work.ended, work.thread, handing.span)
            record.work = work
            around = next((other for other in reversed(made) if _is_inside(work, other.work)), handing)
            parent = handing if _is_below(handing, around) else around  # a span of its own was open in that work
            for above in {id(parent): parent, id(handing): handing}.values():
                siblings, above.children = above.children, []
                for child in siblings:
                    # By a coarse clock all may have begun at once: then none goes below what is below itself.
                    within = child.work is None and _began_in(child, work) and not _is_below(parent, child)
                    (record if within else above).adopt(child)
            parent.adopt(record)
            made.append(record)
            self.works.append(work)
            self.activities.append(
                Activity(record, work.thread, work.started, record.end, work.cpu, work.process, work.queue)
            )

    def _walk(self) -> None:
        tops = {id(activity.top): activity for activity in self.activities}
        ahead: list[tuple[Record, Activity | None]] = [(self.top, None)]
        while ahead:
            record, activity = ahead.pop()
            activity = tops.get(id(record), activity)
            if activity is not None and activity.thread != record.thread:
                activity = None
            if activity is not None and not record.task:
                activity.records.add(id(record))
            self.records.append(record)
            if len(record.children) > 1:
                nest_calls(record)
            ahead.extend((child, activity) for child in record.children)


def _is_below(record: Record, above: Record) -> bool:
    at: Record | None = record
    while at is not None and at is not above:
        at = at.parent
    return at is not None


def _is_inside(work: Work, other: Work | None) -> bool:
    return (
        other is not None
        and work.submitter == other.thread
        and other.started <= work.submitted <= (other.ended or work.submitted)
    )


def _began_in(record: Record, work: Work) -> bool:
    return record.thread == work.thread and work.started <= record.start <= (work.ended or record.start)


def clients(record: Record) -> Iterator[Record]:
    """The outermost client spans at or below ``record``: one of a driver inside one of an ORM is the same call."""
    ahead = [record]
    while ahead:
        current = ahead.pop()
        if current.kind is CLIENT:
            yield current
        else:
            ahead.extend(current.children)
