"""Buckets of exponential histograms, which processes may send at different scales.

Bucket ``i`` of scale ``s`` goes from 2 ** (i / 2 ** s) to 2 ** ((i + 1) / 2 ** s), so two of a scale are one of the
scale below. See https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponential-scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

FINEST: Final = 40  # of the scales that are taken, up and down; OpenTelemetry's SDKs use -10 to 20
_FARTHEST: Final = 1000.0  # the powers of two that a number can be


class Counts(NamedTuple):
    """How many there were in each bucket."""

    scale: int = 0
    of: Mapping[int, int] = {}

    def at(self, wider: int) -> Counts:
        """The same in buckets that are twice as wide for each step down; itself where that is none."""
        if self.scale == wider:
            return self
        found: dict[int, int] = {}
        for index, number in self.of.items():
            found[index >> self.scale - wider] = found.get(index >> self.scale - wider, 0) + number
        return Counts(wider, found)

    def plus(self, other: Counts) -> Counts:
        """Both together, at the wider of their scales."""
        if not other.of:
            return self
        if not self.of:
            return other
        common = min(self.scale, other.scale)
        found = dict(self.at(common).of)
        for index, number in other.at(common).of.items():
            found[index] = found.get(index, 0) + number
        return Counts(common, found)

    def quantile(self, share: float) -> float:
        """The upper bound of the bucket that ``share`` of the values reach; 0 without any."""
        wanted, seen = share * sum(self.of.values()), 0
        for index in sorted(self.of):
            seen += self.of[index]
            if self.of[index] and seen >= wanted:
                return bound_of(index, self.scale)
        return 0.0


def bound_of(index: int, scale: int) -> float:
    """The upper bound of a bucket."""
    return float(2.0 ** max(-_FARTHEST, min(_FARTHEST, (index + 1) / 2.0**scale)))
