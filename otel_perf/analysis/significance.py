"""Whether operations differ between two sets of runs: the statistics of ``otel-perf report --compare``.

The unit is the run of a program, not the span: spans of one run share its machine, its memory layout and its minute, so
that a thousand of them say little more than a hundred of what the next run will be (Kalibera and Jones, "Rigorous
benchmarking in reasonable time", ISMM 2013). Of each run the logarithm of a quantile is taken, and the means of the two
sides are compared by a t-test, whose standard error is that between runs. To it are added:

- The hypothesis is not "no change" but "at most ``least``" (TREAT: McCarthy and Smyth, "Testing significance relative
  to a fold-change threshold is a TREAT", Bioinformatics 25, 2009), since with enough runs any two programs differ.
- A machine that others use too is faster and slower as a whole. What the *other* operations took in the same run
  tells how it was then: a second test takes from each value what that explains (analysis of covariance; as a control
  variate in Deng et al., "Improving the sensitivity of online controlled experiments", WSDM 2013). How much it
  explains is estimated within the sides, so that a sleep is not corrected for a busy CPU. The first test sees a
  change of all operations at once, the second one of few of them.
- The variance of few runs may be small by chance: it is raised towards what the other operations have (the moderated
  variance of Smyth, "Linear models and empirical Bayes methods", SAGMB 3, 2004, with the weight ``WEIGHT`` fixed),
  never lowered, and the standard error is never below what ``LAYOUT`` gives.
- All operations, functions and services, all measures and both tests are corrected together (Dunn, "Multiple
  comparisons among means", JASA 56, 1961): each bound is right with 1 - ``ALPHA`` / their number, whatever threshold it
  is then held against. So the chance that anything in a whole comparison is falsely called slower, or more, is at most
  ``ALPHA``; that of anything falsely called faster, or less, which fails nothing, is as much again.

A run counts as one however long it is: periods of it share its process, and are no runs of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from typing import TypeAlias

K = TypeVar("K", bound="Hashable")  # whatever is compared

ALPHA: Final = 0.05
FEWEST: Final = 3  # runs on each side; with fewer nothing is said to be sure
WEIGHT: Final = 4.0  # degrees of freedom that the other operations' variance is worth
LAYOUT: Final = 0.03  # standard deviation of a logarithm between processes; none is believed to be lower
OTHERS: Final = 3  # operations that tell how the machine was


@dataclass(frozen=True, slots=True)
class Unit:
    """One run: logarithms of an operation's time, and of its time without its children."""

    run: int
    took: float
    own: float


@dataclass(frozen=True, slots=True)
class Difference:
    """Seen against base: logarithm of the ratio (or a difference of shares), its standard error, degrees of freedom."""

    change: float
    error: float
    freedom: float

    def chance(self, least: float) -> float:
        """The chance of such a difference where the true one is ``least``: one-sided."""
        return upper_tail((self.change - least) / self.error, self.freedom)

    def lowest(self, alpha: float) -> float:
        """What the change is above, right with 1 - ``alpha``."""
        return self.change - quantile_of_t(alpha, self.freedom) * self.error

    def mirrored(self) -> Difference:
        """Base against seen."""
        return replace(self, change=-self.change)


Sides: TypeAlias = "tuple[Sequence[Unit], Sequence[Unit]]"  # base and seen


def differences(sides: Mapping[K, Sides]) -> tuple[dict[K, Difference], dict[K, Difference]]:
    """The differences of those with ``FEWEST`` runs on both sides: as they are, and the machine's part taken off."""
    enough = {name: pair for name, pair in sides.items() if min(map(len, pair)) >= FEWEST}
    states = _States(enough)
    plain = {name: _Fit.of(pair, None) for name, pair in enough.items()}
    freed = {name: _Fit.of(pair, found) for name, pair in enough.items() if (found := states.without(name))}
    return _moderated(plain), _moderated(freed)


def _moderated(fits: Mapping[K, _Fit]) -> dict[K, Difference]:
    usual = median(fit.variance for fit in fits.values()) if len(fits) > OTHERS else 0.0
    return {name: fit.difference(usual) for name, fit in fits.items()}


class _States:
    """How fast the machine was in each run, by what the operations took of their own against their usual."""

    def __init__(self, sides: Mapping[Any, Sides]) -> None:
        self._by_run: dict[tuple[int, int], dict[Any, float]] = {}
        for name, pair in sides.items():
            usual = fmean(fmean(unit.own for unit in units) for units in pair)
            for side, units in enumerate(pair):
                for unit in units:
                    self._by_run.setdefault((side, unit.run), {})[name] = unit.own - usual

    def without(self, name: Any) -> dict[tuple[int, int], float]:
        """The median of the others in each run of the operation ``name``; empty where there are too few."""
        found = {}
        for run, known in self._by_run.items():
            if name in known:
                others = [value for other, value in known.items() if other != name]
                if len(others) < OTHERS:
                    return {}
                found[run] = median(others)
        return found


@dataclass(frozen=True, slots=True)
class _Fit:
    """A common variance about two means, after what ``states`` explain."""

    change: float
    variance: float
    freedom: float
    share: float  # of the variance that is the standard error's square
    layout: float

    @classmethod
    def of(cls, pair: Sides, states: Mapping[tuple[int, int], float] | None) -> _Fit:
        rows: list[list[tuple[float, float]]] = [
            [(0.0 if states is None else states[side, unit.run], unit.took) for unit in units]
            for side, units in enumerate(pair)
        ]
        means = [(fmean(x for x, _ in of_side), fmean(y for _, y in of_side)) for of_side in rows]
        about = [
            (x - mean_x, y - mean_y) for of_side, (mean_x, mean_y) in zip(rows, means, strict=True) for x, y in of_side
        ]
        spread = sum(x * x for x, _ in about)
        # A machine that is half as fast makes nothing faster, nor anything more than twice as slow.
        slope = min(1.0, max(0.0, sum(x * y for x, y in about) / spread)) if spread > 1e-12 else 0.0
        (base_x, base_y), (seen_x, seen_y) = means
        freedom = len(about) - 2 - (states is not None)
        runs = sum(1 / len(units) for units in pair)
        left = sum((y - slope * x) ** 2 for x, y in about)
        apart = (seen_x - base_x) ** 2 / spread if states is not None and spread > 1e-12 else 0.0
        return cls(
            change=seen_y - base_y - slope * (seen_x - base_x),
            variance=left / freedom,
            freedom=freedom,
            share=runs + apart,
            layout=LAYOUT**2 * runs,
        )

    def difference(self, usual: float) -> Difference:
        """With its variance raised towards the ``usual`` one."""
        shared = (WEIGHT * usual + self.freedom * self.variance) / (WEIGHT + self.freedom)
        variance = max(self.variance, shared)
        return Difference(self.change, math.sqrt(max(variance * self.share, self.layout)), self.freedom)


def upper_tail(t: float, freedom: float) -> float:
    """P(T > t) of Student's distribution, by the incomplete beta function."""
    half = _beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return half if t > 0 else 1 - half


@lru_cache(maxsize=1024)
def quantile_of_t(alpha: float, freedom: float) -> float:
    """The t that Student's distribution is above with the chance ``alpha`` (below one half), by bisection."""
    low, high = 0.0, 1.0
    while upper_tail(high, freedom) > alpha:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if upper_tail(middle, freedom) > alpha else (low, middle)
    return high


def _beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function, by its continued fraction (DLMF 8.17.22), evaluated as Lentz has it."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 300):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for factor in (even, odd):
            d = 1 / _not_zero(1 + factor * d)
            c = _not_zero(1 + factor / c)
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * value


def _not_zero(number: float) -> float:
    return number or 1e-300
