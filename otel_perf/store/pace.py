"""How much of its time the thread that sends is at work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

DUTY: Final = 0.1  # share of its time that the thread uses a CPU, whether it holds the interpreter or not
EASY: Final = 0.02  # the same while that sends more than comes in
SHORTEST, LONGEST = 0.002, 1.0  # seconds of a rest
LOOK: Final = 0.02  # seconds between looks whether somebody waits


class Pace:
    """Used by one thread. Work of a millisecond and a rest of nine is felt less than a tenth of both at once."""

    def __init__(self, hurries: Callable[[], bool]) -> None:
        self.easy = False
        self._hurries = hurries  # whether somebody waits: no rests
        self._waiting = self._sent = self._dropped = 0
        self._since = time.thread_time()

    def begin(self) -> None:
        """What comes is work."""
        self._since = time.thread_time()

    def look(self, waiting: int, sent: int, dropped: int) -> None:
        """Decide whether to take it easy, by how many items wait now, and were sent and dropped so far."""
        new, lost = sent - self._sent, dropped > self._dropped
        came = waiting - self._waiting + new
        self._waiting, self._sent, self._dropped = waiting, sent, dropped
        if new:  # else nobody takes anything, whatever the pace
            self.easy = came < (new if self.easy else new * EASY / DUTY) and not lost

    def rest(self) -> None:
        """Rest for what was done since the last rest."""
        spent = time.thread_time() - self._since
        rest = min(max(SHORTEST, spent / (EASY if self.easy else DUTY) - spent), LONGEST)
        until = time.monotonic() + rest
        while not self._hurries() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LOOK))
        self.begin()
