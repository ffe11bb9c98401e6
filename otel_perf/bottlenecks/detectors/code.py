"""Time in the program's own code, and time in which it would have run if it had been let."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from otel_perf.bottlenecks.detectors.base import Share, Switched, inside, is_cold, most_common, ms, places, setting
from otel_perf.bottlenecks.finding import Finding
from otel_perf.core.settings import Duration  # noqa: TC001 - read at run time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_perf.bottlenecks.claims import Piece
    from otel_perf.bottlenecks.place import Place
    from otel_perf.bottlenecks.record import Record
    from otel_perf.bottlenecks.stacks import Sample
    from otel_perf.bottlenecks.trace import Activity, Trace

RUNS: Final = 0.1  # of its own time on a CPU: code that only sleeps waits for no interpreter
TURN: Final = 10_000_000  # ns: who waits for the interpreter asks for it every 5 ms, and so gets a CPU for a moment
BUSY: Final = 0.5  # of the time without CPU that other threads used one, if it was for the interpreter
AROUND: Final = 50_000_000  # ns in which the other thread is looked for: one that computes does it for longer


def _length(pieces: Sequence[Piece]) -> int:
    return sum(piece.end - piece.start for piece in pieces)


def _own(trace: Trace, activity: Activity, least: float) -> list[Piece]:
    """What is left of an activity's own time on the path, if that is ``least`` ns or more."""
    if activity.end - activity.start < least:
        return []
    pieces = trace.pieces(activity.has)
    return pieces if _length(pieces) >= least else []


def _contended(activity: Activity, waited: float) -> bool:
    """Whether ``waited`` (ns without a CPU) may have been for the interpreter: in many turns, and while others ran."""
    others = activity.process - activity.cpu
    return activity.queue.turns >= waited / TURN and others >= BUSY * waited


def _most(trace: Trace, pieces: Sequence[Piece]) -> Record:
    spent: dict[int, int] = {}
    for piece in pieces:
        spent[id(piece.record)] = spent.get(id(piece.record), 0) + piece.end - piece.start
    chosen = max(pieces, key=lambda piece: spent[id(piece.record)]).record
    return chosen if chosen.work is None else trace.record(chosen.work.span_id)


def _hottest(samples: Sequence[Sample]) -> tuple[Place | None, float]:
    return most_common(places(sample.stack for sample in samples))


def _ran_meanwhile(trace: Trace, activity: Activity) -> list[Place | None]:
    """Lines at which other threads were seen that ran: within the activity, or else a moment before it."""
    for margin in (0, AROUND):
        found = [
            stack
            for look in trace.around.looks
            if activity.start - margin < look.end and look.start <= activity.end
            for thread, stack in look.hogs
            if thread != activity.thread
        ]
        if found:
            return places(found)
    return []


@dataclass(frozen=True, slots=True)
class CpuStarved(Switched):
    """The thread was ready to run, and no CPU was free."""

    kind: ClassVar[str] = "cpu_starved"
    share: Share = setting(0.2, "Such a share of the local root in the run queue, at least.")
    least: Duration = setting(0.02, "And so much time (s).")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """From the kernel's own account of the thread (schedstat); Linux only."""
        for activity in trace.activities:
            if activity.queue.waited < max(self.least * 1e9, self.share * trace.duration):
                continue
            pieces = trace.pieces(activity.has)
            if not pieces:
                continue
            record = _most(trace, pieces)
            spent = trace.take(activity.queue.waited, activity.has)
            if spent < max(self.least * 1e9, self.share * trace.duration):
                continue
            evidence = (
                f"{trace.top.name} was ready to run and waited {ms(spent)} of {ms(trace.duration)} for a CPU;"
                f" this machine or container has too few for what runs on it"
            )
            yield Finding(self.kind, record, evidence, spent / 1e9, "CPU")


@dataclass(frozen=True, slots=True)
class GilWait(Switched):
    """The thread was ready to run, and another one of the process had the interpreter."""

    kind: ClassVar[str] = "gil_wait"
    share: Share = setting(0.2, "Such a share of the local root, at least.")
    least: Duration = setting(0.05, "And so much time (s).")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """Own time without CPU and not in the run queue, in many turns, while other threads used the CPU."""
        for activity in trace.activities:
            least = max(self.least * 1e9, self.share * trace.duration)
            pieces = _own(trace, activity, least)
            waited = _length(pieces) - activity.cpu
            if waited < least or activity.cpu < RUNS * _length(pieces) or not _contended(activity, waited):
                continue
            hog, _ = most_common(_ran_meanwhile(trace, activity))
            if hog is None:
                continue  # nothing that anybody could act on
            record = _most(trace, pieces)
            spent = trace.take(waited, activity.has)
            evidence = (
                f"{trace.top.name} waited about {ms(spent)} of {ms(trace.duration)} for the interpreter (GIL), which"
                f" another thread had{inside(hog)}; in a process of its own that would not hold this up"
            )
            yield Finding(self.kind, record, evidence, spent / 1e9, hog.function, 1, hog)


@dataclass(frozen=True, slots=True)
class CpuBound(Switched):
    """Computing."""

    kind: ClassVar[str] = "cpu_bound"
    share: Share = setting(0.8, "Such a share of its own time on a CPU, at least.")
    least: Duration = setting(0.1, "So much CPU time, at least (s).")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """By the thread's own CPU time: never across an await."""
        for activity in trace.activities:
            pieces = _own(trace, activity, self.least * 1e9)
            if pieces and activity.cpu >= max(self.least * 1e9, self.share * _length(pieces)):
                yield from _own_time(self.kind, trace, activity, pieces, "computed")


@dataclass(frozen=True, slots=True)
class SelfTime(Switched):
    """Time in its own code that none of the others explains."""

    kind: ClassVar[str] = "self_time"
    share: Share = setting(0.5, "Such a share of the local root, at least.")
    least: Duration = setting(0.1, "And so much time (s).")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """Not what only awaits: of a coroutine only what it hands to a thread counts."""
        for activity in trace.activities:
            pieces = _own(trace, activity, max(self.least * 1e9, self.share * trace.duration))
            if pieces and not _contended(activity, _length(pieces) - activity.cpu):
                yield from _own_time(self.kind, trace, activity, pieces, "spent")


def _own_time(kind: str, trace: Trace, activity: Activity, pieces: list[Piece], verb: str) -> Iterator[Finding]:
    if trace.truncated:  # of what is not known any more, some was somebody else's time
        return
    samples = trace.samples_in(pieces, activity.thread)
    place, share = _hottest(samples)
    if place is None or is_cold(trace, [sample.stack for sample in samples]):
        return  # nothing that anybody could act on
    record = _most(trace, pieces)
    own = trace.claim([(piece.start, piece.end) for piece in pieces], activity.has)
    evidence = (
        f"{trace.top.name} {verb} {ms(own)} of {ms(trace.duration)} in its own code, {share:.0%} of it{inside(place)}"
    )
    yield Finding(kind, record, evidence, own * share / 1e9, place.function, 1, place)
