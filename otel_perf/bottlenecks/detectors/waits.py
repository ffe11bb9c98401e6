"""Waiting inside the process: for the garbage collector, a pool, a lock, the event loop."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from otel_perf.bottlenecks.detectors.base import (
    Share,
    Switched,
    called_from,
    inside,
    is_cold,
    most_common,
    ms,
    places,
    setting,
)
from otel_perf.bottlenecks.finding import Finding
from otel_perf.bottlenecks.recorder import CLIENT
from otel_perf.bottlenecks.stacks import LOCK, POOL, RUNNING
from otel_perf.core.settings import Duration  # noqa: TC001 - read at run time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_perf.bottlenecks.pauses import Pause
    from otel_perf.bottlenecks.record import Record
    from otel_perf.bottlenecks.root import Work
    from otel_perf.bottlenecks.stacks import Sample
    from otel_perf.bottlenecks.trace import Trace

STARVED: Final = 0.3  # of a block: the loop may have waited for a CPU
MINUTE: Final = 60 * 10**9  # ns


@dataclass(frozen=True, slots=True)
class GcPause(Switched):
    """The garbage collector stopped the code."""

    kind: ClassVar[str] = "gc_pause"
    least: Duration = setting(0.01, "So much of the trace, at least (s).")
    share: Share = setting(0.05, "And such a share of it.")
    lately: Share = setting(0.02, "And such a share of the last minute, if nobody asked for the collections.")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """A thread that waits for I/O is not stopped by a collection in another one."""
        pauses = [pause for pause in trace.around.pauses if pause.start < trace.top.end and pause.end > trace.top.start]
        spent = sum(trace.measure([(pause.start, pause.end)], _stopped_by(pause)) for pause in pauses)
        if spent < max(self.least * 1e9, self.share * trace.duration):
            return
        lately = sum(pause.end - pause.start for pause in trace.around.pauses if pause.end > trace.top.end - MINUTE)
        if lately < self.lately * MINUTE and not any(pause.asked for pause in pauses):
            return  # a full collection now and then is how Python works
        intervals = [(pause.start, pause.end) for pause in pauses]
        record = trace.owner(intervals) or trace.top
        for pause in pauses:
            trace.claim([(pause.start, pause.end)], _stopped_by(pause))
        place, _ = most_common(pause.place for pause in pauses)
        asked = place is not None and any(pause.asked and pause.place == place for pause in pauses)
        generation = max(pause.generation for pause in pauses)
        number = f"{len(pauses)} collections" if len(pauses) > 1 else "a collection"
        reason = f", asked for{inside(place)}" if asked else ""
        remedy = "leave it to Python" if asked else "fewer objects that live, or gc.freeze() after the start"
        evidence = (
            f"{trace.top.name} stood still for {ms(spent)} of {ms(trace.duration)} during {number} of generation"
            f" {generation}{reason}; {remedy}"
        )
        culprit = place.function if asked and place is not None else "garbage collector"
        yield Finding(self.kind, record, evidence, spent / 1e9, culprit, len(pauses), place if asked else None)


def _stopped_by(pause: Pause) -> Callable[[Record], bool]:
    return lambda record: record.kind is not CLIENT or record.thread == pause.thread


@dataclass(frozen=True, slots=True)
class PoolWait(Switched):
    """Waiting for a thread or a connection of a pool."""

    kind: ClassVar[str] = "pool_wait"
    least: Duration = setting(0.05, "So much waiting, at least (s).")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """Threads by when work was submitted and begun; connections by the stacks that wait in a pool's code."""
        waits: dict[str, list[tuple[int, int]]] = defaultdict(list)
        lines: dict[str, list[object]] = defaultdict(list)
        for work in trace.works:
            if work.full and work.started - work.submitted >= self.least * 1e9 / 2 and not _goes_on(trace, work):
                waits[f"a thread of {work.pool}"].append((work.submitted, work.started))
                lines[f"a thread of {work.pool}"].append(work.site)
        for run, interval in trace.standing(POOL):
            waits[run[0].stack.what].append(interval)
            lines[run[0].stack.what].append(run[0].stack.place)
        for pool, intervals in waits.items():
            if trace.measure(intervals) < self.least * 1e9:
                continue
            record = trace.owner(intervals) or trace.top
            if record.work is not None:
                record = trace.record(record.work.span_id)
            spent = trace.claim(intervals)
            place, _ = most_common(lines[pool])  # type: ignore[arg-type]
            evidence = (
                f"{trace.top.name} waited {ms(spent)} of {ms(trace.duration)} for {pool}{called_from(place)};"
                f" a larger pool, or shorter use of it, would save that"
            )
            yield Finding(self.kind, record, evidence, spent / 1e9, pool, len(intervals), place)


def _goes_on(trace: Trace, work: Work) -> bool:
    """Whether the thread that handed work over did something else meanwhile."""
    return any(
        sample.thread == work.submitter
        and work.submitted <= sample.at <= work.started
        and sample.stack.doing == RUNNING
        for sample in trace.samples
    )


@dataclass(frozen=True, slots=True)
class LockWait(Switched):
    """Waiting for a lock that somebody else held."""

    kind: ClassVar[str] = "lock_wait"
    least: Duration = setting(0.05, "So much waiting, at least (s).")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """Told from the stacks of spans that are late: taking a lock that is free costs nothing more."""
        by_line: dict[object, list[tuple[list[Sample], tuple[int, int]]]] = defaultdict(list)
        for run, interval in trace.standing(LOCK):
            place = run[0].stack.place
            by_line[None if place is None else (place.code, place.line)].append((run, interval))
        for waits in by_line.values():
            intervals = [interval for _, interval in waits]
            if trace.measure(intervals) < self.least * 1e9:
                continue
            sample: Sample = waits[0][0][0]
            spent = trace.claim(intervals)
            place = sample.stack.place
            evidence = (
                f"{trace.top.name} waited {ms(spent)} of {ms(trace.duration)} for {sample.stack.what}"
                f"{inside(place)}; hold it for less, and not during I/O"
            )
            culprit = place.function if place is not None else sample.stack.what
            yield Finding(self.kind, trace.record(sample.span_id), evidence, spent / 1e9, culprit, len(waits), place)


@dataclass(frozen=True, slots=True)
class LoopBlock(Switched):
    """Code that keeps the event loop from doing anything else."""

    kind: ClassVar[str] = "loop_block"
    least: Duration = setting(0.1, "So long without an answer of the loop, at least (s).")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """In the trace whose task it was; where that is not known, in every trace that had to wait."""
        for block in trace.around.blocks:
            ours = block.culprit is None or (block.culprit[0] == trace.root.trace_id and trace.has(block.culprit[1]))
            if block.loop is not trace.root.loop or not ours or (trace.top.kind is CLIENT and not block.asked):
                continue  # nobody waits for a call that no request made: a start, a script
            interval = (block.start, block.end)
            if trace.measure([interval]) < 0.8 * self.least * 1e9:
                continue
            place, _ = most_common(places(block.stacks))
            if (
                place is None
                or is_cold(trace, block.stacks)
                or trace.starved(*interval) >= STARVED * (block.end - block.start)
            ):
                continue
            culprit = block.culprit
            record = trace.record(culprit[1]) if culprit else trace.owner([interval]) or trace.top
            spent = trace.claim([interval])
            took = min(block.end - block.start, trace.duration)
            evidence = (
                f"{trace.top.name} blocked the event loop for {ms(took)}{inside(place)};"
                f" all else that it serves waited too; await it, or run it in a thread"
            )
            yield Finding(self.kind, record, evidence, spent / 1e9, place.function, 1, place)
