"""What the store says when it is asked how it is: whether all is stored, and whether it gets where it is sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.store.drain import Drain
    from otel_perf.store.writer import Writer

RECENT: Final = 60.0  # seconds for which a loss counts
FULL: Final = 0.9  # share of the limit
EVERY: Final = 0.5  # seconds between two questions, which cost some microseconds


class StoreChecks:
    """For one thread."""

    def __init__(
        self,
        writer: Writer,
        drain: Callable[[], Drain | None],
        limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._drain = drain
        self._limit = limit
        self._clock = clock
        self._dropped = writer.dropped
        self._lost_at: float | None = None

    def store(self) -> tuple[str, str]:
        """Unhealthy while items are lost or cannot be written; degraded while what waits for a receiver fills it."""
        dropped, now = self._writer.dropped, self._clock()
        if dropped > self._dropped:
            self._lost_at = now
        self._dropped = dropped  # less than before in a forked child
        if self._writer.error:
            return "unhealthy", f"the store cannot be written: {self._writer.error}"
        if self._lost_at is not None and now - self._lost_at < RECENT:
            return "unhealthy", f"items were lost, {dropped:,} so far; see perf.store.dropped"
        size = self._writer.size or 0
        if self._trouble() and size >= FULL * self._limit:
            return (
                "degraded",
                f"the store is full to {size / self._limit:.0%}: the oldest of what waits is dropped next",
            )
        return "healthy", ""

    def delivery(self) -> tuple[str, str]:
        """Degraded while a receiver does not take what is sent; nothing is lost by that before the store is full."""
        trouble, drain = self._trouble(), self._drain()
        if drain is None or not trouble:
            return "healthy", ""
        return "degraded", f"{trouble}; {drain.waiting.total():,} items wait"

    def _trouble(self) -> str:
        """Who does not take what is sent, and why; nothing where all is taken, or another process sends."""
        drain = self._drain()
        routes = () if drain is None else tuple(drain.routes)
        return next((f"{route.destination.place} takes nothing ({route.error})" for route in routes if route.error), "")
