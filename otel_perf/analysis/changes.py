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
from otel_perf.analysis.numbers import quantile
from otel_perf.analysis.significance import FEWEST, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from otel_perf.analysis.claims import Test
    from otel_perf.analysis.samples import Calls, Durations, FunctionKey, Key, Samples
    from otel_perf.analysis.significance import Place, Sides

__all__ = ["LEAST", "Change", "Changes", "Comparison", "FunctionChange", "MemoryChange", "compare", "new_bottlenecks"]

# Seconds; a change of less is none, however sure it is: about what a span itself takes of its parent, and twice what
# counting a call takes of it (benchmarks/processor.py, benchmarks/calls.py).
SMALLEST: Final = 50e-6
SMALLEST_OF_CALLS: Final = 1e-6
SMALLEST_OF_MEMORY: Final = 1e6  # bytes
# Quantiles that are looked at, and how many spans of a run each needs. On a machine that others use too,
# delays only ever add: there the medians of runs of one program differed by 17 %, their p5 by 2 (after Chen and Revels,
# "Robust benchmarking in noisy environments", 2016, who take the minimum). What got slower only sometimes is seen in
# the last tenth.
QUANTILES: Final = {"p5": (0.05, 20), "p50": (0.50, 5), "p90": (0.90, 20)}
# Functions that are compared: those with the most time of their own. Each more weakens the claims on all others; which
# are chosen must not depend on which side is slower (Bourgon et al., "Independent filtering increases detection power
# for high-throughput experiments", PNAS 107, 2010), so it is by both sides together.
MOST: Final = 50
Verdict: TypeAlias = Literal["slower", "faster", "more", "less", "unsure", "same", "new", "gone"]


class Judged(BaseModel):
    """Something on both sides. ``change`` is relative: 0.3 for 30 % more.

    ``measure`` is the one that says the most, and ``base`` and ``seen`` are its means over the runs. ``surely`` is
    the change that is exceeded with 95 % certainty, and ``chance`` that of seeing such a one by chance anywhere in
    the comparison; both are null for what is not sure.
    """

    service: str
    verdict: Verdict
    measure: str = ""
    base: float = 0.0
    seen: float = 0.0
    change: float = 0.0
    surely: float | None = None
    chance: float | None = None


class Change(Judged):
    """One operation. Times in seconds; ``own``: how much of the difference is not in what it calls."""

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

    ``base_units`` and ``seen_units`` are runs, and of long ones their periods. ``functions_left`` took too little time
    of their own to be compared.
    """

    base: str
    seen: str
    base_runs: int
    seen_runs: int
    base_units: int
    seen_units: int
    base_spans: int
    seen_spans: int
    compared: int
    fail_over: float
    regressions: int  # of all three lists: slower or more, sure, and by more than ``fail_over``
    changes: list[Change]
    functions: list[FunctionChange]
    functions_left: int
    memory: list[MemoryChange]
    new_bottlenecks: list[Bottleneck]

    @property
    def judged(self) -> bool:
        """Whether there are runs enough to be sure of anything."""
        return min(self.base_units, self.seen_units) >= FEWEST


@dataclass(frozen=True, slots=True)
class Changes:
    """What is sure first, by what it costs."""

    operations: list[Change]
    functions: list[FunctionChange]
    memory: list[MemoryChange]
    functions_left: int


def compare(base: Samples, seen: Samples) -> Changes:
    """The changes of every operation, of the functions that matter, and of every service's memory."""
    operations, functions, memory = _Operations(base, seen), _Functions(base, seen), _Memory(base, seen)
    found = tests([*operations.families(), *functions.families(), *memory.families()])
    return Changes(
        sorted(operations.changes(found), key=_order), sorted(functions.changes(found), key=_order),
        sorted(memory.changes(found), key=_order), functions.left,
    )  # fmt: skip


_Tests: TypeAlias = "Mapping[Thing, Sequence[Test]]"
_Units: TypeAlias = "Mapping[Place, Durations]"


class _Operations:
    def __init__(self, base: Samples, seen: Samples) -> None:
        self._samples = base, seen
        self._before, self._after = base.by_operation(), seen.by_operation()
        self._both = [key for key in self._after if key in self._before]

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
            yield self._with_errors(_change(key, before[key], after[key], found.get(("operation", *key), ())), key)
        for verdict, here, there in (("new", after, before), ("gone", before, after)):
            for key in here:
                if key not in there:
                    yield self._with_errors(_alone(key, verdict, here[key]), key)

    def _with_errors(self, change: Change, key: Key) -> Change:
        change.base_errors, change.seen_errors = (side.errors.get(key, 0) for side in self._samples)
        return change


def _units(durations: _Units, measure: str) -> list[Unit]:
    share, fewest = QUANTILES[measure]
    return [
        Unit(place, _logarithm(quantile(sorted(unit.took), share)), _logarithm(quantile(sorted(unit.own), share)))
        for place, unit in sorted(durations.items())
        if len(unit.took) >= fewest
    ]


def _logarithm(value: float) -> float:
    return math.log(max(1e-9, value))


def _geometric(values: Iterable[float]) -> float:
    return math.exp(fmean(map(_logarithm, values)))


def _change(key: Key, before: _Units, after: _Units, found: Sequence[Test]) -> Change:
    measures = {measure: (_typical(before, share), _typical(after, share)) for measure, (share, _) in QUANTILES.items()}
    said = claim(measures, "p50", SMALLEST, found)
    share = QUANTILES[said.measure][0]
    own = _typical(after, share, own=True) - _typical(before, share, own=True)
    return Change(
        **_judged(key[0], said, _OF_TIME), name=key[1], kind=key[2], own=_part(own, said.seen - said.base),
        base_spans=_count(before), seen_spans=_count(after),
    )  # fmt: skip


_OF_TIME: Final = {"more": "slower", "less": "faster"}


def _judged(service: str, said: Claim, verdicts: Mapping[str, str]) -> dict[str, Any]:
    return {
        "service": service, "verdict": verdicts.get(said.verdict, said.verdict), "measure": said.measure,
        "base": said.base, "seen": said.seen, "change": said.seen / said.base - 1, "surely": said.surely,
        "chance": said.chance,
    }  # fmt: skip


def _part(own: float, difference: float) -> float:
    """The part of ``difference`` that is in the own time, from 0 to 1."""
    return min(1.0, max(0.0, own / difference)) if difference else 0.0


def _typical(durations: _Units, share: float, *, own: bool = False) -> float:
    """The geometric mean over the runs of a quantile within the run."""
    return _geometric(quantile(sorted(unit.own if own else unit.took), share) for unit in durations.values())


def _alone(key: Key, verdict: Any, durations: _Units) -> Change:
    typical, count = _typical(durations, 0.5), _count(durations)
    change = Change(service=key[0], name=key[1], kind=key[2], verdict=verdict, measure="p50")
    if verdict == "new":
        change.seen, change.seen_spans = typical, count
    else:
        change.base, change.base_spans = typical, count
    return change


def _count(durations: _Units) -> int:
    return sum(len(unit.took) for unit in durations.values())


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

    def families(self) -> Iterable[Family]:
        for measure in ("mean", "own"):
            sides: dict[Thing, Sides] = {}
            for key in self._both:
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


def _calls(units: Mapping[Place, Calls], measure: str) -> list[Unit]:
    return [
        Unit(
            place,
            _logarithm((unit.own if measure == "own" else unit.took) / unit.count),
            _logarithm(unit.own / unit.count),
        )
        for place, unit in sorted(units.items())
    ]


def _a_call(units: Mapping[Place, Calls], *, own: bool = False) -> float:
    """The geometric mean over the runs of the mean within the run."""
    return _geometric((unit.own if own else unit.took) / unit.count for unit in units.values())


def _called(units: Mapping[Place, Calls]) -> int:
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


def _peaks(peaks: Mapping[Place, float]) -> list[Unit]:
    return [Unit(place, _logarithm(peak), _logarithm(peak)) for place, peak in sorted(peaks.items())]


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
