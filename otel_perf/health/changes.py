"""Which changes of a check are told: one that goes to and fro is told once, and again when it has come to rest."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from otel_perf.core.health import HEALTHY

FLAPS: Final = 5  # changes
WINDOW: Final = 60.0  # seconds, within which more of them are flapping
CALM: Final = 30.0  # seconds without a change, after which it has come to rest


class Change(NamedTuple):
    """A change that is told."""

    name: str
    status: int
    before: int
    reason: str
    critical: bool
    flapping: bool  # no more is told until it has come to rest


class Told:
    """What was told of one check. For one thread."""

    def __init__(self) -> None:
        self.status = HEALTHY
        self.flapping = False
        self._seen = HEALTHY
        self._times: deque[float] = deque(maxlen=FLAPS + 1)  # of the latest changes

    def look(self, status: int, now: float) -> int | None:
        """The status that was told before, if ``status`` is to be told now."""
        if status != self._seen:
            self._seen = status
            self._times.append(now)
        if self.flapping:
            if now - self._times[-1] < CALM:
                return None
            self.flapping = False
            self._times.clear()
        if status == self.status:
            return None
        self.flapping = len(self._times) > FLAPS and now - self._times[0] < WINDOW
        before, self.status = self.status, status
        return before
