"""Durations in the buckets of an exponential histogram at scale 3, whose bounds grow by 2^(1/8), about 9 %.

See https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram; they are sent as they are.
"""

from __future__ import annotations

from math import inf, log2
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SCALE: Final = 3
BUCKETS_PER_DOUBLING: Final = 2**SCALE
# Bucket 0 of the lists here is the one from 2^-30 s, about 1 ns, on; the last one ends at 2^20 s, 12 days.
OFFSET: Final = 30 * BUCKETS_PER_DOUBLING
BUCKETS: Final = 50 * BUCKETS_PER_DOUBLING


class Counted(Protocol):
    """One point of a histogram: all that was counted under its attributes since the start."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Which tell it from the other points."""
        ...

    @property
    def buckets(self) -> Sequence[int]:
        """How many there were in each."""
        ...

    @property
    def total(self) -> float:
        """In seconds."""
        ...

    minimum: float
    maximum: float
    exemplar: tuple[float, int, int, int] | None  # seconds, end (ns), trace id, span id


class Durations:
    """What was counted under some attributes, exactly. For one writer at a time; 3.5 kB."""

    __slots__ = ("attributes", "buckets", "exemplar", "maximum", "minimum", "total")

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self.attributes = attributes
        self.buckets = [0] * BUCKETS
        self.total = 0.0
        self.minimum, self.maximum = inf, 0.0
        self.exemplar: tuple[float, int, int, int] | None = None

    def add(self, seconds: float) -> None:
        """Count one. About 0.5 µs."""
        index = int(BUCKETS_PER_DOUBLING * log2(seconds) + OFFSET) if seconds > 0.0 else 0
        self.buckets[min(max(index, 0), BUCKETS - 1)] += 1
        self.total += seconds
        self.minimum = min(self.minimum, seconds)
        self.maximum = max(self.maximum, seconds)
