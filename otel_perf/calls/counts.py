"""What is counted of every function, exactly.

The buckets are those of an exponential histogram at scale 3: their bounds grow by 2^(1/8), about 9 %
(https://opentelemetry.io/docs/specs/otel/metrics/data-model/#exponentialhistogram), so that they are sent as they are.
"""

from __future__ import annotations

from otel_perf.calls.call import CountsBase
from otel_perf.calls.keys import NEVER


class Counts(CountsBase):
    """The calls of one function: lossless under threads (see :mod:`~otel_perf.calls.pure`), about 3.5 kB."""

    __slots__ = ("exemplar", "name")

    def __init__(self, name: str, slow: float = NEVER) -> None:
        super().__init__()
        self.name = name
        self.reset()
        self.slow = slow  # seconds from which on a call becomes a span

    def reset(self) -> None:
        """Begin anew, as a forked child does."""
        super().reset()
        self.exemplar: tuple[float, int, int, int] | None = None  # slowest span: seconds, end (ns), trace id, span id
