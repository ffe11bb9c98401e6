"""What is counted of every function, exactly.

The buckets are those of an exponential histogram at scale 3: their bounds grow by 2^(1/8), about 9 %
(https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram), so that they are sent as they are.
"""

from __future__ import annotations

from typing import Final

SCALE: Final = 3
BUCKETS_PER_DOUBLING: Final = 2**SCALE
# Bucket 0 of the lists here is the one from 2^-30 s, about 1 ns, on; the last one ends at 2^20 s, 12 days.
OFFSET: Final = 30 * BUCKETS_PER_DOUBLING
BUCKETS: Final = 50 * BUCKETS_PER_DOUBLING
NEVER: Final = float("inf")


class Counts:
    """The calls of one function: lossless under threads (see :mod:`~otel_perf.calls.call`), about 3.5 kB."""

    __slots__ = (
        "buckets", "count", "errors", "exemplar", "maximum", "minimum", "name", "self_total", "slow", "total",
        "untimed",
    )  # fmt: skip

    def __init__(self, name: str, slow: float = NEVER) -> None:
        self.name = name
        self.slow = slow  # seconds from which on a call becomes a span
        self.reset()

    def reset(self) -> None:
        """Begin anew, as a forked child does."""
        self.count = 0  # timed calls
        self.untimed = 0  # calls that were only counted
        self.errors = 0
        self.total = self.self_total = 0.0  # seconds
        self.minimum, self.maximum = NEVER, 0.0  # seconds
        self.buckets = [0] * BUCKETS
        self.exemplar: tuple[float, int, int, int] | None = None  # slowest span: seconds, end (ns), trace id, span id
