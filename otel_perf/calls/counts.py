"""What is counted of every function, exactly, in the buckets of :mod:`otel_perf.core.buckets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_perf.calls.call import CountsBase
from otel_perf.calls.keys import NEVER, OVERFLOW

if TYPE_CHECKING:
    from collections.abc import Mapping


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

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Of the function's points."""
        return {OVERFLOW: True} if self.name == OVERFLOW else {"code.function.name": self.name}
