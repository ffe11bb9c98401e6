"""Calls to others: too many, one after the other, too slow."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, ClassVar, Final

from otel_perf.bottlenecks.analyst import LEAST
from otel_perf.bottlenecks.claims import merged
from otel_perf.bottlenecks.conventions import describe, is_http
from otel_perf.bottlenecks.dependence import Dependence, between, may_repeat
from otel_perf.bottlenecks.detectors.base import (
    Count,
    Share,
    Switched,
    Times,
    called_from,
    most_common,
    ms,
    setting,
)
from otel_perf.bottlenecks.finding import Finding
from otel_perf.bottlenecks.recorder import CLIENT
from otel_perf.bottlenecks.trace import clients
from otel_perf.core.settings import Duration  # noqa: TC001 - read at run time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import CodeType

    from otel_perf.bottlenecks.place import Place
    from otel_perf.bottlenecks.record import Record
    from otel_perf.bottlenecks.trace import Trace

CALLERS: Final = 0.8  # of the lines that were looked up have to be the same one
AT_ONCE: Final = 1.5  # calls on average that ran at the same time
DISTURBED: Final = 0.2  # of a call, in which this process did not get to run
SLOW_WITHOUT_BASELINE: Final = 0.1  # seconds: what a call may take when nobody knows what it takes
KNOWN: Final = 200  # calls after which its baseline is one


def _intervals(calls: Sequence[Record]) -> list[tuple[int, int]]:
    return [(call.start, call.end) for call in calls]


def _what(call: Record) -> str:
    return call.name if call.span is None else describe(call.span)


def _is_http(call: Record) -> bool:
    return call.span is not None and is_http(call.span.attributes)


def _together(calls: Sequence[Record]) -> float:
    """How many of them ran at the same time, on average."""
    union = sum(end - start for start, end in merged(_intervals(calls)))
    return sum(call.busy or call.duration for call in calls) / max(1, union)


def _parents_of_many(trace: Trace, least: int) -> Iterator[tuple[Record, list[Record]]]:
    """The spans below which at least ``least`` calls of one name began, with those calls, the innermost spans first.

    Functions between the span and the call are looked through.
    """
    for parent in reversed(trace.records):
        calls = trace.calls[id(parent)]
        if parent.kind is CLIENT or calls < least or any(trace.calls[id(child)] == calls for child in parent.children):
            continue
        by_name: dict[str, list[Record]] = defaultdict(list)
        for child in parent.children:
            for call in clients(child):
                by_name[call.name].append(call)
        for named in by_name.values():
            if sum(call.count for call in named) >= least:
                yield parent, named


@dataclass(frozen=True, slots=True)
class NPlusOne(Switched):
    """The same call, one after the other, from one line: one call for all of them would do."""

    kind: ClassVar[str] = "n_plus_one"
    calls: Count = setting(5, "So many calls that are alike, at least.")
    least: Duration = setting(0.05, "So much time in them, at least (s).")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """Those on the critical path: what runs at once is not one after the other."""
        for parent, named in _parents_of_many(trace, self.calls):
            if _together(named) >= AT_ONCE:
                continue
            on_path = [call for call in named if id(call) in trace.on_path]
            # Before the statements are parsed: that costs more than all else.
            if sum(call.count for call in on_path) < self.calls or self._spent(trace, on_path) < self.least * 1e9:
                continue
            alike: dict[str, list[Record]] = defaultdict(list)
            for call in on_path:
                alike[_what(call)].append(call)
            for what, calls in alike.items():
                finding = self._finding(trace, parent, what, calls)
                if finding is not None:
                    yield finding

    def _finding(self, trace: Trace, parent: Record, what: str, calls: list[Record]) -> Finding | None:
        count, spent = sum(call.count for call in calls), self._spent(trace, calls)
        place, share = most_common(call.site for call in calls)
        if count < self.calls or spent < self.least * 1e9 or (place is not None and share < CALLERS):
            return None
        trace.claim(_intervals(calls))
        saved = spent * (1 - 1 / count)
        batch = "request" if _is_http(calls[0]) else "query"
        evidence = (
            f"{trace.top.name} ran {what} {count} times ({ms(spent)} of {ms(trace.duration)}){called_from(place)};"
            f" one {batch} would save about {ms(saved)}"
        )
        return Finding(self.kind, parent, evidence, saved / 1e9, what, count, place)

    def _spent(self, trace: Trace, calls: list[Record]) -> float:
        counted = [call for call in calls if call.count > 1]
        spent: float = trace.measure(_intervals([call for call in calls if call.count == 1]))
        for call in counted:
            spent += trace.measure([(call.start, call.end)]) * min(1.0, call.busy / max(1, call.duration))
        return spent


@dataclass(frozen=True, slots=True)
class FanOut(Switched):
    """Many calls of one kind at once: more than the other side, or this one, can do together."""

    kind: ClassVar[str] = "fan_out"
    calls: Count = setting(20, "More calls of one kind than this, under one span.")
    http: Count = setting(15, "So many HTTP requests, at least.")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """What they cost is the time that they take together beyond what one of them usually takes."""
        for parent, calls in _parents_of_many(trace, min(self.calls, self.http)):
            count = sum(call.count for call in calls)
            if count < self.http if _is_http(calls[0]) else count <= self.calls:
                continue
            one = median(call.busy / call.count if call.busy else call.duration for call in calls)
            together = trace.measure(_intervals(calls))
            if _together(calls) < AT_ONCE:
                continue
            if together <= one or together - one < LEAST * 1e9:
                continue
            spent = trace.claim(_intervals(calls))
            saved = spent * (1 - one / together)
            place, _ = most_common(call.site for call in calls)
            if place is None or not place.is_app:  # tasks begin in the library: the line that waits for them is known
                waiting, _ = most_common(trace.places_in(calls[0].start, calls[-1].end))
                place = waiting or place
            evidence = (
                f"{trace.top.name} made {count} calls at once, like {_what(calls[0])}{called_from(place)}, and waited"
                f" {ms(spent)} of {ms(trace.duration)}, where one takes {ms(one)}; fewer, or a batch, would save about"
                f" {ms(saved)}"
            )
            yield Finding(self.kind, parent, evidence, saved / 1e9, _what(calls[0]), count, place)


@dataclass(frozen=True, slots=True)
class SerialIo(Switched):
    """Calls one after the other that could have run at the same time."""

    kind: ClassVar[str] = "serial_io"
    each: Duration = setting(0.03, "A call takes so long, at least (s).")
    gap: Duration = setting(0.005, "So much time between two of them, at most (s).")
    saves: Duration = setting(0.1, "Running them at once would save so much, at least (s).")
    share: Share = setting(0.1, "And such a share of the local root, at least.")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """Runs of neighbours; one that may have needed the answer before it counts half, one that did not at all."""
        for parent in trace.records:
            if parent.kind is CLIENT or not parent.children:
                continue
            for run in self._runs(trace, parent):
                finding = self._finding(trace, parent, run)
                if finding is not None:
                    yield finding

    def _runs(self, trace: Trace, parent: Record) -> Iterator[list[Record]]:
        run: list[Record] = []
        for child in sorted(parent.children, key=lambda child: child.start):
            call = _only_call(trace, child)
            if call is None or id(call) not in trace.on_path or call.duration < self.each * 1e9:
                continue
            if run and not self._follows(run[-1], call):
                yield run
                run = []
            run.append(call)
        yield run

    def _follows(self, first: Record, second: Record) -> bool:
        near = 0 <= second.start - first.end <= self.gap * 1e9
        return near and _dependence(first, second) is not Dependence.DEPENDENT

    def _finding(self, trace: Trace, parent: Record, run: list[Record]) -> Finding | None:
        if len(run) < 2:
            return None
        longest = max(call.duration for call in run)
        spent = trace.measure(_intervals(run))
        saved = spent - longest
        if saved < self.saves * 1e9 or saved < self.share * trace.duration:
            return None
        certain = all(_dependence(*pair) is Dependence.INDEPENDENT for pair in pairwise(run))
        trace.claim(_intervals(run))
        cost = saved if certain else saved / 2
        place, _ = most_common(call.site for call in run)
        whats = list(dict.fromkeys(_what(call) for call in run))
        would = f"would save about {ms(saved)}" if certain else f"would save {ms(saved)} if none needs the one before"
        evidence = (
            f"{'' if certain else 'Possibly: '}{trace.top.name} waited for {len(run)} calls one after the other"
            f" ({', '.join(whats[:3])}; {ms(spent)} of {ms(trace.duration)}){called_from(place)}; at once they {would}"
        )
        return Finding(self.kind, parent, evidence, cost / 1e9, whats[0], len(run), place)


def _only_call(trace: Trace, record: Record) -> Record | None:
    """The call that ``record`` is, or the only one below it."""
    return next(clients(record)) if trace.calls[id(record)] == 1 else None


def _dependence(first: Record, second: Record) -> Dependence:
    """Whether the second call may have needed the first one's answer, by the code in which their ways parted.

    That is the outermost frame of both in which the lines differ, or one in which a loop came round. Which of several
    loops it was is not known, so each has to say the same; where the second line is below the first, it was none.
    """
    if first.site is None or second.site is None:
        return Dependence.UNKNOWN
    answers: set[Dependence] = set()
    for (code, line), (other, other_line) in zip(_frames(first.site), _frames(second.site), strict=False):
        if code is not other:
            break
        if line < other_line:
            return between(code, line, other_line)
        if line > other_line or may_repeat(code, line):
            answers.add(between(code, line, other_line))
        if line > other_line:
            break
    return answers.pop() if len(answers) == 1 else Dependence.UNKNOWN


def _frames(site: Place) -> list[tuple[CodeType, int]]:
    """Outermost first."""
    return [*reversed(site.callers), (site.code, site.line)]


def _disturbed(trace: Trace, call: Record) -> bool:
    """Whether it may have been slow because this process did not get to run: a thread that only sleeps overslept."""
    late = sum(max(0, min(look.end, call.end) - max(look.start, call.start)) for look in trace.around.looks)
    paused = sum(max(0, min(pause.end, call.end) - max(pause.start, call.start)) for pause in trace.around.pauses)
    return late + paused >= DISTURBED * call.duration


@dataclass(frozen=True, slots=True)
class SlowIo(Switched):
    """A call that takes long, in itself or against its own past."""

    kind: ClassVar[str] = "slow_io"
    slow: Duration = setting(0.5, "A call that takes so long is slow (s).")
    unusual: Duration = setting(0.1, "So long, and `times` its usual p95, is slow too (s).")
    times: Times = setting(3.0, "How many times its p95.")

    def find(self, trace: Trace) -> Iterator[Finding]:
        """What it costs is the time beyond its own median, or beyond 100 ms where that is not known."""
        for call in trace.records:
            if call.kind is not CLIENT or id(call) not in trace.on_path or call.count > 1:
                continue
            baseline = trace.baselines.of_client(call)
            known = baseline is not None and baseline.count >= KNOWN
            unusual = (
                baseline is not None and known and call.duration >= max(self.unusual * 1e9, self.times * baseline.p95)
            )
            if call.duration < self.slow * 1e9 and not (unusual and not _disturbed(trace, call)):
                continue
            usual = baseline.median if baseline is not None and known else SLOW_WITHOUT_BASELINE * 1e9
            spent = trace.claim([(call.start, call.end)])
            saved = spent * max(0.0, 1 - usual / call.duration)
            if saved < LEAST * 1e9:
                continue
            what, usually = _what(call), "its usual " if known else ""
            evidence = (
                f"{trace.top.name} waited {ms(spent)} of {ms(trace.duration)} for {what}{called_from(call.site)};"
                f" answered in {usually}{ms(usual)} it would save {ms(saved)}"
            )
            yield Finding(self.kind, call, evidence, saved / 1e9, what, 1, call.site)
