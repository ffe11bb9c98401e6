"""What is worse than it was: memory, and the duration of an operation."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from otel_perf.bottlenecks.detectors.base import Switched, inside, most_common, ms, setting
from otel_perf.bottlenecks.finding import Finding
from otel_perf.bottlenecks.recorder import CLIENT
from otel_perf.core.settings import Duration, Parsed, parse_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_perf.bottlenecks.record import Record
    from otel_perf.bottlenecks.trace import Trace

Bytes = Annotated[int, Parsed(parse_size, "at least 1MB, with kB, MB, GB, KiB, MiB or GiB", 1_000_000)]
PAGE: Final = 4_096  # bytes
FAULT: Final = 1_000  # ns to get a page from the kernel, and to fill it
STEP: Final = 2**20  # bytes between two looks that count as a change
BEFORE: Final = 50_000_000  # ns before the start, in which memory was looked at last
SOON: Final = 5_000_000  # ns after the end, within which memory is looked at once more


@dataclass(frozen=True, slots=True)
class MemoryGrowth(Switched):
    """Memory that the process had to get while the span ran."""

    kind: ClassVar[str] = "memory_growth"
    least: Bytes = setting(64 * 2**20, "RSS grew so much within the span, at least (By).")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """What it costs is the time in which memory grew."""
        start, end = trace.top.start - BEFORE, trace.top.end + SOON
        readings = [reading for reading in trace.around.resident if start <= reading[0] <= end]
        first = bisect_left(readings, (trace.top.start, 0))
        readings = readings[max(0, first - 1) :]
        if len(readings) < 2 or trace.root.crowded:
            return
        grown, least = 0, readings[0][1]
        for _, resident in readings:
            grown, least = max(grown, resident - least), min(least, resident)
        if grown < self.least:
            return
        # Giving it back takes time, too.
        changing = [(before[0], after[0]) for before, after in pairwise(readings) if abs(after[1] - before[1]) >= STEP]
        spent = min(trace.claim(changing), grown / PAGE * FAULT)
        place, _ = most_common(line for start, end in changing for line in trace.places_in(start, end))
        evidence = (
            f"memory grew by {grown / 2**20:.0f} MiB during {trace.top.name}{inside(place)};"
            f" a page, a stream or a limit keeps it small"
        )
        culprit = place.function if place is not None else trace.top.name
        yield Finding(self.kind, trace.top, evidence, spent / 1e9, culprit, 1, place)


@dataclass(frozen=True, slots=True)
class Regressed(Switched):
    """The operation takes longer than it did."""

    kind: ClassVar[str] = "regression"
    least: Duration = setting(0.01, "Its median rose by so much, at least (s).")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """In the span that completes the second window of a hundred that is slower. Last: it explains nothing."""
        regression = trace.root.regressed
        if regression is None or regression.rise < self.least * 1e9:
            return
        call, part = _call_that_rose(trace)
        spent = trace.take(int(regression.rise), lambda _: True)
        if spent < self.least * 1e9:
            return
        because = ""
        if call is not None and part >= regression.rise / 2:
            because = f", most of it in {call.name}"
        evidence = (
            f"{trace.top.name} takes {ms(regression.now)}, where it took {ms(regression.before)} (medians of the last"
            f" 100 and of those before){because}"
        )
        culprit = call.name if call is not None and because else trace.top.name
        yield Finding(self.kind, trace.top, evidence, spent / 1e9, culprit)


def _call_that_rose(trace: Trace) -> tuple[Record | None, float]:
    found: Record | None = None
    most = 0.0
    for record in trace.records:
        if record.kind is CLIENT:
            baseline = trace.baselines.of_client(record)
            if baseline is not None and baseline.regression is not None and baseline.regression.rise > most:
                found, most = record, baseline.regression.rise
    return found, most
