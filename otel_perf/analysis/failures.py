"""What fails more often: the second question of ``otel-perf report --compare``, since what fails soon seems fast.

Of each run the share that failed is taken, and the means of the two sides are compared by Welch's test (Biometrika 34,
1947), which takes each side's own variance: that of a side where nothing fails is none. A side's squared standard error
is never below what counting alone gives. Both have a success and a failure added to each side (Agresti and Caffo,
"Simple and effective confidence intervals for proportions", American Statistician 54, 2000), so that few say little.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean, variance
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from pydantic import BaseModel

from otel_perf.analysis.significance import FEWEST, Difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from otel_perf.analysis.claims import Test, Thing

LEAST_FAILED: Final = 0.01  # one of a hundred; a share that differs by less is the same, however sure it is
Outcomes: TypeAlias = "Mapping[int, tuple[int, int]]"  # by run: how many failed, and how many there were
_KINDS: Final[dict[str, Literal["operation", "function"]]] = {
    "failed operation": "operation",
    "failed function": "function",
}


class FailureChange(BaseModel):
    """An operation, or a monitored function, that failed on any side.

    ``base`` and ``seen`` are the means over the runs of the share that failed, ``surely`` is the difference of shares
    that is exceeded with 95 % certainty (null for what is not sure), and ``chance`` that of seeing it by chance
    anywhere in the comparison.
    """

    what: Literal["operation", "function"]
    service: str
    name: str
    kind: str = ""
    verdict: Literal["more", "less", "unsure", "same"]
    judged: bool
    regression: bool = False
    base: float
    seen: float
    surely: float | None = None
    chance: float | None = None
    base_failed: int
    base_count: int
    seen_failed: int
    seen_count: int


@dataclass(frozen=True, slots=True)
class Failures:
    """The outcomes on both sides of what failed on any, by what it is."""

    sides: Mapping[Thing, tuple[Outcomes, Outcomes]]

    @classmethod
    def of(cls, sides: Mapping[Thing, tuple[Outcomes, Outcomes]]) -> Failures:
        """Those of ``sides`` that failed: which are tested must not depend on which side did."""
        return cls({thing: pair for thing, pair in sides.items() if any(failed(side) for side in pair)})

    def differences(self) -> dict[Thing, Difference]:
        """Of those with ``FEWEST`` runs on both sides."""
        return {thing: _difference(pair) for thing, pair in self.sides.items() if min(map(len, pair)) >= FEWEST}

    def changes(self, found: Mapping[Thing, Sequence[Test]]) -> Iterable[FailureChange]:
        """What became of each."""
        for thing, (before, after) in self.sides.items():
            what, service, name, *kind = thing
            was, now = share(before), share(after)
            change = FailureChange(
                what=_KINDS[what], service=service, name=name, kind="".join(kind), base=was, seen=now,
                verdict="unsure" if abs(now - was) >= LEAST_FAILED else "same", judged=thing in found,
                base_failed=failed(before), base_count=count(before),
                seen_failed=failed(after), seen_count=count(after),
            )  # fmt: skip
            for test in found.get(thing, ()):
                if test.more() > LEAST_FAILED:
                    change.verdict, change.surely, change.regression = "more", test.more(), True
                elif test.less() > LEAST_FAILED:
                    change.verdict, change.surely = "less", -test.less()
                if change.surely is not None:
                    change.chance = test.chance(LEAST_FAILED)
            yield change


def failed(outcomes: Outcomes) -> int:
    """How many failed."""
    return sum(failures for failures, _ in outcomes.values())


def count(outcomes: Outcomes) -> int:
    """How many there were."""
    return sum(number for _, number in outcomes.values())


def share(outcomes: Outcomes) -> float:
    """The mean over the runs of the share that failed."""
    return fmean(_shares(outcomes))


def _shares(outcomes: Outcomes) -> list[float]:
    return [failures / number for failures, number in outcomes.values()]


def _difference(pair: tuple[Outcomes, Outcomes]) -> Difference:
    squares = [max(variance(_shares(side)) / len(side), _by_counting(side)) for side in pair]
    freedom = sum(squares) ** 2 / sum(square**2 / (len(side) - 1) for square, side in zip(squares, pair, strict=True))
    before, after = map(_about, pair)
    return Difference(after - before, sum(squares) ** 0.5, freedom)


def _about(outcomes: Outcomes) -> float:
    number = count(outcomes)
    return (share(outcomes) * number + 1) / (number + 2)


def _by_counting(outcomes: Outcomes) -> float:
    about = _about(outcomes)
    return about * (1 - about) / (count(outcomes) + 2)
