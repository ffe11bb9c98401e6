"""The clock that features read, so that a test can put its own in place."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time in nanoseconds since the epoch, and monotonic time in seconds."""

    def time_ns(self) -> int:
        """Nanoseconds since the epoch; may step back."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class SystemClock:
    """The machine's own clock."""

    time_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)


SYSTEM_CLOCK: Clock = SystemClock()
