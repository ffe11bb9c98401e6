"""What is claimed to be more or less: the tests of everything that is compared, corrected together."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from otel_perf.analysis.significance import ALPHA, differences

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from otel_perf.analysis.significance import Difference, Sides

LEAST: Final = 0.05  # a change of less is none, however sure it is
Thing: TypeAlias = "tuple[str, ...]"  # the kind of what is compared, and its names
Verdict: TypeAlias = Literal["more", "less", "unsure", "same"]


@dataclass(frozen=True, slots=True)
class Family:
    """One measure of all things of a kind; ``shared``: how fast the machine was shows in each of them."""

    measure: str
    sides: Mapping[Thing, Sides]
    shared: bool = True


@dataclass(frozen=True, slots=True)
class Test:
    """One test of one measure; ``alpha`` is its part of the chance of a false claim."""

    measure: str
    difference: Difference
    alpha: float

    def more(self) -> float:
        """What it is surely above: a logarithm, or a share."""
        return self.difference.lowest(self.alpha)

    def less(self) -> float:
        """The same of how much less it is."""
        return self.difference.mirrored().lowest(self.alpha)

    def chance(self, least: float) -> float:
        """The chance of such a difference anywhere in the comparison where nothing differs by more than ``least``."""
        more = self.difference if self.difference.change > 0 else self.difference.mirrored()
        return min(1.0, more.chance(least) * ALPHA / self.alpha)


@dataclass(frozen=True, slots=True)
class Claim:
    """The verdict by the measure that says the most, with that measure's typical values on both sides."""

    verdict: Verdict
    measure: str
    base: float
    seen: float
    judged: bool = False  # whether there were runs enough for any test
    surely: float | None = None  # the change that is exceeded with 95 % certainty; null for what is not sure
    chance: float | None = None


def tests(families: Iterable[Family], failed: Mapping[Thing, Difference]) -> dict[Thing, list[Test]]:
    """Both tests of every measure of everything, and those of the shares that ``failed``, which are one each."""
    found: dict[tuple[Thing, str, str], Difference] = {}
    for family in families:
        plain, freed = differences(family.sides)
        for kind, of_kind in (("plain", plain), ("freed", freed if family.shared else {})):
            found |= {(thing, family.measure, kind): difference for thing, difference in of_kind.items()}
    found |= {(thing, "failed", ""): difference for thing, difference in failed.items()}
    by_thing: dict[Thing, list[Test]] = defaultdict(list)
    for (thing, measure, _), difference in found.items():
        by_thing[thing].append(Test(measure, difference, ALPHA / len(found)))
    return by_thing


def claim(measures: Mapping[str, tuple[float, float]], usual: str, smallest: float, tests: Sequence[Test]) -> Claim:
    """What is claimed of something whose ``measures`` are these on both sides, of which ``usual`` is the common one.

    A change of less than ``smallest`` is none.
    """

    def matters(before: float, after: float) -> bool:
        return after - before >= smallest and after >= before * (1 + LEAST)

    # A claim that needs the others' figures must be seen without them, too: they may be what has changed.
    # Nor is anything more whose usual measure is not.
    was, now = measures[usual]
    more = [test for test in tests if now >= was and matters(*measures[test.measure])]
    less = [test for test in tests if now <= was and matters(*reversed(measures[test.measure]))]
    least = math.log1p(LEAST)
    best = max(more, key=Test.more, default=None)
    if best is not None and (surely := best.more()) > least:
        return Claim("more", best.measure, *measures[best.measure], True, math.expm1(surely), best.chance(least))
    best = max(less, key=Test.less, default=None)
    if best is not None and (surely := best.less()) > least:
        return Claim("less", best.measure, *measures[best.measure], True, math.expm1(-surely), best.chance(least))
    unsure = matters(was, now) or matters(now, was)
    return Claim("unsure" if unsure else "same", usual, was, now, bool(tests))
