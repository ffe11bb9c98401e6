"""What changed between two runs or releases, by how much, and whether that is sure: ``otel-perf report --compare``.

How it is judged is in :mod:`otel_perf.analysis.significance`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from pydantic import BaseModel

from otel_perf.analysis.bottlenecks import Bottleneck  # noqa: TC001 - Pydantic reads the type
from otel_perf.analysis.numbers import quantile
from otel_perf.analysis.significance import ALPHA, FEWEST, Unit, differences, holm

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from otel_perf.analysis.samples import Durations, Key, Samples
    from otel_perf.analysis.significance import Difference, Place

LEAST: Final = 0.05  # a change of less is none, however sure it is
SMALLEST: Final = 50e-6  # seconds; likewise: about what a span itself takes of its parent
# Quantiles that are looked at, and how many spans of a run each needs. On a machine that others use too,
# delays only ever add: there the medians of runs of one program differed by 17 %, their p5 by 2 (after Chen and Revels,
# "Robust benchmarking in noisy environments", 2016, who take the minimum). What got slower only sometimes is seen in
# the last tenth.
QUANTILES: Final = {"p5": (0.05, 20), "p50": (0.50, 5), "p90": (0.90, 20)}
Verdict: TypeAlias = Literal["slower", "faster", "unsure", "same", "new", "gone"]


class Change(BaseModel):
    """One operation on both sides. Times in seconds; ``change`` is relative: 0.3 for 30 % more.

    ``measure`` is the quantile that says the most, and ``base`` and ``seen`` are its means over the runs. ``surely`` is
    the change that is exceeded with 95 % certainty, and ``chance`` that of seeing such a one by chance anywhere in
    the comparison; both are null for what is not sure. ``own`` is how much of the difference is
    the operation's own, and not in what it calls.
    """

    service: str
    name: str
    kind: str
    verdict: Verdict
    measure: str = ""
    base: float = 0.0
    seen: float = 0.0
    change: float = 0.0
    surely: float | None = None
    chance: float | None = None
    own: float = 0.0
    base_spans: int = 0
    seen_spans: int = 0
    base_errors: int = 0
    seen_errors: int = 0


class Comparison(BaseModel):
    """All that ``otel-perf report --compare`` shows; the schema of its ``--json``.

    ``base_units`` and ``seen_units`` are runs, and of long ones their periods.
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
    regressions: int  # of ``changes``: slower, sure, and by more than ``fail_over``
    changes: list[Change]
    new_bottlenecks: list[Bottleneck]

    @property
    def judged(self) -> bool:
        """Whether there are runs enough to be sure of anything."""
        return min(self.base_units, self.seen_units) >= FEWEST


def compare(base: Samples, seen: Samples) -> list[Change]:
    """The changes of every operation: those that are sure first, by what they cost."""
    before, after = base.by_operation(), seen.by_operation()
    both = [key for key in after if key in before]
    judged = _judge(before, after, both)
    changes = [_change(key, before[key], after[key], judged.get(key, ())) for key in both]
    changes += [_alone(key, "new", after[key]) for key in after if key not in before]
    changes += [_alone(key, "gone", before[key]) for key in before if key not in after]
    for change in changes:
        key = (change.service, change.name, change.kind)
        change.base_errors, change.seen_errors = base.errors.get(key, 0), seen.errors.get(key, 0)
    return sorted(changes, key=_order)


_Units: TypeAlias = "Mapping[Place, Durations]"


@dataclass(frozen=True, slots=True)
class _Judged:
    """One test of one quantile, with the corrected chances that it is slower or faster by chance."""

    measure: str
    difference: Difference
    slower: float
    faster: float


def _judge(before: Mapping[Key, _Units], after: Mapping[Key, _Units], keys: Iterable[Key]) -> dict[Key, list[_Judged]]:
    """Both tests of every quantile of every operation."""
    named = {f"{number}": key for number, key in enumerate(keys)}
    least = math.log1p(LEAST)
    tests: dict[str, Difference] = {}
    for measure in QUANTILES:
        sides = {name: (_units(before[key], measure), _units(after[key], measure)) for name, key in named.items()}
        for kind, found in zip(("plain", "freed"), differences(sides), strict=True):
            tests |= {f"{name} {measure} {kind}": difference for name, difference in found.items()}
    slower = holm({test: difference.chance(least) for test, difference in tests.items()})
    faster = holm({test: difference.mirrored().chance(least) for test, difference in tests.items()})
    judged: dict[Key, list[_Judged]] = defaultdict(list)
    for test, difference in tests.items():
        name, measure, _ = test.split()
        judged[named[name]].append(_Judged(measure, difference, slower[test], faster[test]))
    return judged


def _units(durations: _Units, measure: str) -> list[Unit]:
    share, fewest = QUANTILES[measure]
    return [
        Unit(place, _logarithm(unit.took, share), _logarithm(unit.own, share))
        for place, unit in sorted(durations.items())
        if len(unit.took) >= fewest
    ]


def _logarithm(values: Iterable[float], share: float) -> float:
    return math.log(max(1e-9, quantile(sorted(values), share)))


def _change(key: Key, before: _Units, after: _Units, judged: Sequence[_Judged]) -> Change:
    measures = {}
    for measure, (share, _) in QUANTILES.items():
        measures[measure] = _typical(before, share), _typical(after, share)
    # A claim that needs the others' times must be seen without them, too: they may be what has changed.
    # Nor is an operation slower whose median is not.
    was, now = measures["p50"]
    slower = [test for test in judged if now >= was and _is_more(*measures[test.measure])]
    faster = [test for test in judged if now <= was and _is_more(*reversed(measures[test.measure]))]
    best_slower = min(slower, key=lambda test: test.slower, default=None)
    best_faster = min(faster, key=lambda test: test.faster, default=None)
    verdict: Verdict = "same"
    best = None
    if best_slower is not None and best_slower.slower < ALPHA:
        verdict, best = "slower", best_slower
    elif best_faster is not None and best_faster.faster < ALPHA:
        verdict, best = "faster", best_faster
    elif _is_more(*measures["p50"]) or _is_more(*reversed(measures["p50"])):
        verdict = "unsure"
    measure = best.measure if best else "p50"
    base, seen = measures[measure]
    change = Change(
        service=key[0], name=key[1], kind=key[2], verdict=verdict, measure=measure, base=base, seen=seen,
        change=seen / base - 1, own=_own(before, after, QUANTILES[measure][0], seen - base),
        base_spans=_count(before), seen_spans=_count(after),
    )  # fmt: skip
    if best and verdict == "slower":
        change.chance, change.surely = best.slower, math.expm1(best.difference.lowest(ALPHA))
    elif best:
        change.chance, change.surely = best.faster, math.expm1(-best.difference.mirrored().lowest(ALPHA))
    return change


def _is_more(before: float, after: float) -> bool:
    """Whether it is more by as much as matters."""
    return after - before >= SMALLEST and after >= before * (1 + LEAST)


def _own(before: _Units, after: _Units, share: float, difference: float) -> float:
    """The part of ``difference`` that is in the own time, from 0 to 1."""
    if not difference:
        return 0.0
    own = _typical(after, share, own=True) - _typical(before, share, own=True)
    return min(1.0, max(0.0, own / difference))


def _typical(durations: _Units, share: float, *, own: bool = False) -> float:
    """The geometric mean over the runs of a quantile within the run."""
    found = [quantile(sorted(unit.own if own else unit.took), share) for unit in durations.values()]
    return math.exp(fmean(math.log(max(1e-9, value)) for value in found))


def _alone(key: Key, verdict: Verdict, durations: _Units) -> Change:
    typical, count = _typical(durations, 0.5), _count(durations)
    change = Change(service=key[0], name=key[1], kind=key[2], verdict=verdict, measure="p50")
    if verdict == "new":
        change.seen, change.seen_spans = typical, count
    else:
        change.base, change.base_spans = typical, count
    return change


def _count(durations: _Units) -> int:
    return sum(len(unit.took) for unit in durations.values())


_ORDER: Final = ("slower", "faster", "unsure", "new", "gone", "same")


def _order(change: Change) -> tuple[int, bool, float, str]:
    """By verdict; what is slower by itself before what only calls it; then by what it costs a run."""
    costs = abs(change.seen - change.base) * max(change.seen_spans, change.base_spans)
    return _ORDER.index(change.verdict), change.own < 0.5, -costs, change.name


def new_bottlenecks(base: Sequence[Bottleneck], seen: Sequence[Bottleneck]) -> list[Bottleneck]:
    """Those of ``seen`` whose kind, in that service and function or culprit, ``base`` did not have: lines move."""

    def known_by(found: Bottleneck) -> tuple[str, str, str]:
        return found.service, found.kind, found.function or (found.culprits or [found.where])[0]

    known = {known_by(found) for found in base}
    return [found for found in seen if known_by(found) not in known]
