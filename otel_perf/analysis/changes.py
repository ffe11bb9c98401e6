"""What changed between two runs or releases, by how much, and whether that is sure: ``otel-perf report --compare``.

How it is judged is in :mod:`otel_perf.analysis.significance`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from pydantic import BaseModel

from otel_perf.analysis.bottlenecks import Bottleneck  # noqa: TC001 - Pydantic reads the type
from otel_perf.analysis.claims import LEAST, Claim, Family, Thing, claim, tests
from otel_perf.analysis.failures import LEAST_FAILED, FailureChange, Failures, count, failed, share
from otel_perf.analysis.numbers import quantile
from otel_perf.analysis.significance import Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from otel_perf.analysis.claims import Test
    from otel_perf.analysis.failures import Outcomes
    from otel_perf.analysis.samples import Calls, Durations, FunctionKey, Key, Samples
    from otel_perf.analysis.significance import Sides

__all__ = ["LEAST", "Change", "Changes", "Comparison", "FunctionChange", "MemoryChange", "compare", "new_bottlenecks"]

# Seconds; a change of less is none, however sure it is: about what a span itself takes of its parent, and twice what
# counting a call takes of it (benchmarks/processor.py, benchmarks/calls.py).
SMALLEST: Final = 50e-6
SMALLEST_OF_CALLS: Final = 1e-6
SMALLEST_OF_MEMORY: Final = 1e6  # bytes
# Quantiles that are looked at, and how many spans of a run that did not fail each needs. On a machine that others use
# too, delays only ever add: there the medians of runs of one program differed by 17 %, their p5 by 2 (after Chen and
# Revels, "Robust benchmarking in noisy environments", 2016, who take the minimum). What got slower only sometimes is
# seen in the last tenth.
QUANTILES: Final = {"p5": (0.05, 20), "p50": (0.50, 5), "p90": (0.90, 20)}
FAIL_OVER: Final = 0.10  # a regression is what is surely more by more than this
# Functions that are compared: those with the most time of their own. Each more weakens the claims on all others; which
# are chosen must not depend on which side is slower (Bourgon et al., "Independent filtering increases detection power
# for high-throughput experiments", PNAS 107, 2010), so it is by both sides together.
MOST: Final = 50
Verdict: TypeAlias = Literal["slower", "faster", "more", "less", "unsure", "same", "new", "gone"]


class Judged(BaseModel):
    """Something on both sides. ``change`` is relative: 0.3 for 30 % more.

    ``measure`` is the one that says the most, and ``base`` and ``seen`` are its means over the runs. ``surely`` is
    the change that is exceeded, with 95 % certainty for all of the comparison together, and ``chance`` that of seeing
    such a one by chance anywhere in it; both are null for what is not sure. What is not ``judged`` had too few runs, or
    spans, or cannot be compared. A ``regression`` is surely more by more than ``fail_over``.
    """

    service: str
    verdict: Verdict
    judged: bool = False
    regression: bool = False
    measure: str = ""
    base: float = 0.0
    seen: float = 0.0
    change: float = 0.0
    surely: float | None = None
    chance: float | None = None


class Change(Judged):
    """One operation. Times in seconds, of spans that did not fail; ``own``: how much is not in what it calls."""

    name: str
    kind: str
    own: float = 0.0
    base_spans: int = 0
    seen_spans: int = 0
    base_errors: int = 0
    seen_errors: int = 0


class FunctionChange(Judged):
    """One monitored function: seconds a call (``mean``), or without what it calls that is monitored (``own``)."""

    name: str
    own: float = 0.0
    base_calls: int = 0
    seen_calls: int = 0


class MemoryChange(Judged):
    """The most memory (bytes) that a process of the service was seen with in a run."""

    base_runs: int = 0
    seen_runs: int = 0


class Comparison(BaseModel):
    """All that ``otel-perf report --compare`` shows; the schema of its ``--json``.

    ``compared`` is how many operations and functions are on both sides, by their time and by how often they fail, and
    ``judged`` how many of these had runs enough; of services' memory, where nothing else is there. ``functions_left``
    took too little time of their own to be compared.
    """

    base: str
    seen: str
    base_runs: int
    seen_runs: int
    base_services: list[str]
    seen_services: list[str]
    base_spans: int
    seen_spans: int
    compared: int
    judged: int
    fail_over: float
    regressions: int  # of all four lists
    changes: list[Change]
    functions: list[FunctionChange]
    functions_left: int
    memory: list[MemoryChange]
    failures: list[FailureChange]
    new_bottlenecks: list[Bottleneck]


@dataclass(frozen=True, slots=True)
class Changes:
    """What is sure first, by what it costs."""

    operations: list[Change]
    functions: list[FunctionChange]
    memory: list[MemoryChange]
    failures: list[FailureChange]
    functions_left: int

    def regressions(self) -> list[Judged | FailureChange]:
        """All that fails a comparison."""
        every: list[Judged | FailureChange] = [*self.operations, *self.functions, *self.memory, *self.failures]
        return [change for change in every if change.regression]

    def both(self) -> list[Judged | FailureChange]:
        """What can be judged by its time or its failures; memory, where no side has anything else."""
        timed: list[Change | FunctionChange] = [*self.operations, *self.functions]
        if not timed and not self.failures:
            return [*self.memory]
        return [*(change for change in timed if change.verdict not in {"new", "gone"}), *self.failures]


def compare(base: Samples, seen: Samples, fail_over: float = FAIL_OVER) -> Changes:
    """The changes of every operation, of the functions that matter, of what fails, and of every service's memory."""
    operations, functions, memory = _Operations(base, seen), _Functions(base, seen), _Memory(base, seen)
    failures = Failures.of(operations.outcomes() | functions.outcomes())
    families = [*operations.families(), *functions.families(), *memory.families()]
    found = tests(families, failures.differences())
    changes = Changes(
        sorted(operations.changes(found), key=_order), sorted(functions.changes(found), key=_order),
        sorted(memory.changes(found), key=_order),
        sorted(failures.changes(found), key=lambda change: (_ORDER.index(change.verdict), change.base - change.seen)),
        functions.left,
    )  # fmt: skip
    for change in (*changes.operations, *changes.functions, *changes.memory):
        sure = change.surely is not None and change.surely > fail_over
        change.regression = sure and change.verdict in {"slower", "more"}
    return changes


_Tests: TypeAlias = "Mapping[Thing, Sequence[Test]]"
_Units: TypeAlias = "Mapping[int, Durations]"


class _Operations:
    def __init__(self, base: Samples, seen: Samples) -> None:
        self._ended = base.outcomes(), seen.outcomes()
        self._before, self._after = base.by_operation(), seen.by_operation()
        self._both = [key for key in self._after if key in self._before]

    def outcomes(self) -> dict[Thing, tuple[Outcomes, Outcomes]]:
        """Of those on both sides, how many spans failed."""
        before, after = self._ended
        return {("failed operation", *key): (before[key], after[key]) for key in after if key in before}

    def families(self) -> Iterable[Family]:
        for measure in QUANTILES:
            yield Family(
                measure,
                {
                    ("operation", *key): (_units(self._before[key], measure), _units(self._after[key], measure))
                    for key in self._both
                },
            )

    def changes(self, found: _Tests) -> Iterable[Change]:
        before, after = self._before, self._after
        for key in self._both:
            yield self._counted(_change(key, before[key], after[key], found.get(("operation", *key), ())), key)
        had, has = self._ended  # also what failed each time, which has no durations
        for verdict, here, there, durations in (("new", has, had, after), ("gone", had, has, before)):
            for key in here:
                if key not in there:
                    yield self._counted(_alone(key, verdict, durations.get(key, {})), key)

    def _counted(self, change: Change, key: Key) -> Change:
        before, after = (side.get(key, {}) for side in self._ended)
        change.base_spans, change.base_errors = count(before), failed(before)
        change.seen_spans, change.seen_errors = count(after), failed(after)
        return change


def _units(durations: _Units, measure: str) -> list[Unit]:
    part, fewest = QUANTILES[measure]
    return [
        Unit(run, _logarithm(quantile(sorted(unit.took), part)), _logarithm(quantile(sorted(unit.own), part)))
        for run, unit in sorted(durations.items())
        if len(unit.took) >= fewest
    ]


def _logarithm(value: float) -> float:
    return math.log(max(1e-9, value))


def _geometric(values: Iterable[float]) -> float:
    return math.exp(fmean(map(_logarithm, values)))


def _change(key: Key, before: _Units, after: _Units, found: Sequence[Test]) -> Change:
    measures = {measure: (_typical(before, part), _typical(after, part)) for measure, (part, _) in QUANTILES.items()}
    said = claim(measures, "p50", SMALLEST, found)
    part = QUANTILES[said.measure][0]
    own = _typical(after, part, own=True) - _typical(before, part, own=True)
    return Change(**_judged(key[0], said, _OF_TIME), name=key[1], kind=key[2], own=_part(own, said.seen - said.base))


_OF_TIME: Final = {"more": "slower", "less": "faster"}


def _judged(service: str, said: Claim, verdicts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "service": service, "verdict": verdicts.get(said.verdict, said.verdict), "measure": said.measure,
        "base": said.base, "seen": said.seen, "change": said.seen / said.base - 1, "surely": said.surely,
        "chance": said.chance, "judged": said.judged,
    }  # fmt: skip


def _part(own: float, difference: float) -> float:
    """The part of ``difference`` that is in the own time, from 0 to 1."""
    return min(1.0, max(0.0, own / difference)) if difference else 0.0


def _typical(durations: _Units, part: float, *, own: bool = False) -> float:
    """The geometric mean over the runs of a quantile within the run."""
    return _geometric(quantile(sorted(unit.own if own else unit.took), part) for unit in durations.values())


def _alone(key: Key, verdict: Any, durations: _Units) -> Change:
    typical = _typical(durations, 0.5) if durations else 0.0
    change = Change(service=key[0], name=key[1], kind=key[2], verdict=verdict, measure="p50")
    if verdict == "new":
        change.seen = typical
    else:
        change.base = typical
    return change


class _Functions:
    def __init__(self, base: Samples, seen: Samples) -> None:
        before, after = base.by_function(), seen.by_function()
        self._sides = before, after
        own: dict[FunctionKey, float] = {}
        for side in self._sides:
            for key, units in side.items():
                own[key] = own.get(key, 0.0) + sum(unit.own for unit in units.values())
        chosen = sorted(own, key=lambda key: (-own[key], key))[:MOST]
        self.left = len(own) - len(chosen)
        self._both = [key for key in chosen if key in before and key in after]
        # Where one is monitored that was not, or no longer, its time is no longer, or now, its caller's own.
        self._moved = {service for service, _ in before.keys() ^ after.keys()}
        self._one = [key for key in chosen if key not in before or key not in after]
        # The mean is over calls that raised, too, which may be sooner or later than the others.
        self._alike = [key for key in self._both if self._as_many_raise(key)]

    def outcomes(self) -> dict[Thing, tuple[Outcomes, Outcomes]]:
        """Of those on both sides, how many calls raised."""
        return {("failed function", *key): self._raised(key) for key in self._both}

    def _raised(self, key: FunctionKey) -> tuple[Outcomes, Outcomes]:
        before, after = (
            {run: (min(unit.failed, unit.count), unit.count) for run, unit in side[key].items()} for side in self._sides
        )
        return before, after

    def _as_many_raise(self, key: FunctionKey) -> bool:
        before, after = self._raised(key)
        return abs(share(after) - share(before)) < LEAST_FAILED

    def families(self) -> Iterable[Family]:
        for measure in ("mean", "own"):
            sides: dict[Thing, Sides] = {}
            for key in self._alike:
                if measure == "mean" or key[0] not in self._moved:
                    before, after = (_calls(side[key], measure) for side in self._sides)
                    sides["function", *key] = before, after
            yield Family(measure, sides)

    def changes(self, found: _Tests) -> Iterable[FunctionChange]:
        before, after = self._sides
        for key in self._both:
            measures = {
                "mean": (_a_call(before[key]), _a_call(after[key])),
                "own": (_a_call(before[key], own=True), _a_call(after[key], own=True)),
            }
            said = claim(measures, "mean", SMALLEST_OF_CALLS, found.get(("function", *key), ()))
            was, now = measures["own"]
            yield FunctionChange(
                **_judged(key[0], said, _OF_TIME), name=key[1], own=_part(now - was, said.seen - said.base),
                base_calls=_called(before[key]), seen_calls=_called(after[key]),
            )  # fmt: skip
        for key in self._one:
            change = FunctionChange(
                service=key[0], name=key[1], verdict="new" if key in after else "gone", measure="mean"
            )
            if key in after:
                change.seen, change.seen_calls = _a_call(after[key]), _called(after[key])
            else:
                change.base, change.base_calls = _a_call(before[key]), _called(before[key])
            yield change


def _calls(units: Mapping[int, Calls], measure: str) -> list[Unit]:
    return [
        Unit(
            run,
            _logarithm((unit.own if measure == "own" else unit.took) / unit.count),
            _logarithm(unit.own / unit.count),
        )
        for run, unit in sorted(units.items())
    ]


def _a_call(units: Mapping[int, Calls], *, own: bool = False) -> float:
    """The geometric mean over the runs of the mean within the run."""
    return _geometric((unit.own if own else unit.took) / unit.count for unit in units.values())


def _called(units: Mapping[int, Calls]) -> int:
    return sum(unit.count for unit in units.values())


class _Memory:
    def __init__(self, base: Samples, seen: Samples) -> None:
        self._before, self._after = base.peaks(), seen.peaks()
        self._both = [service for service in self._after if service in self._before]

    def families(self) -> Iterable[Family]:
        sides: dict[Thing, Sides] = {
            ("memory", name): (_peaks(self._before[name]), _peaks(self._after[name])) for name in self._both
        }
        yield Family("peak", sides, shared=False)  # a machine that is busy takes no memory of another process

    def changes(self, found: _Tests) -> Iterable[MemoryChange]:
        for name in self._both:
            before, after = self._before[name], self._after[name]
            measures = {"peak": (_geometric(before.values()), _geometric(after.values()))}
            said = claim(measures, "peak", SMALLEST_OF_MEMORY, found.get(("memory", name), ()))
            yield MemoryChange(**_judged(name, said, {}), base_runs=len(before), seen_runs=len(after))


def _peaks(peaks: Mapping[int, float]) -> list[Unit]:
    return [Unit(run, _logarithm(peak), _logarithm(peak)) for run, peak in sorted(peaks.items())]


_ORDER: Final = ("slower", "more", "faster", "less", "unsure", "new", "gone", "same")


def _order(change: Change | FunctionChange | MemoryChange) -> tuple[int, bool, float, str]:
    """By verdict; what is slower by itself before what only calls it; then by what it costs a run."""
    difference = abs(change.seen - change.base)
    if isinstance(change, MemoryChange):
        return _ORDER.index(change.verdict), False, -difference, change.service
    times = (
        max(change.seen_spans, change.base_spans)
        if isinstance(change, Change)
        else max(change.seen_calls, change.base_calls)
    )
    return _ORDER.index(change.verdict), change.own < 0.5, -difference * times, change.name


def new_bottlenecks(base: Sequence[Bottleneck], seen: Sequence[Bottleneck]) -> list[Bottleneck]:
    """Those of ``seen`` whose kind, in that service and function or culprit, ``base`` did not have: lines move."""

    def known_by(found: Bottleneck) -> tuple[str, str, str]:
        return found.service, found.kind, found.function or (found.culprits or [found.where])[0]

    known = {known_by(found) for found in base}
    return [found for found in seen if known_by(found) not in known]
