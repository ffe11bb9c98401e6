"""Builds many live objects, then serves: prints the longest pauses of the garbage collector in both, as JSON.

Arguments: OBJECTS, and ``ours`` for the distribution's own tuning or ``default`` for none.
"""

from __future__ import annotations

import gc
import json
import sys
import time

REQUESTS = 2_000
EACH = 5_000  # objects that live as long as their request: enough to be moved to the oldest generation meanwhile


class Pauses:
    """The collector's, as the interpreter tells them."""

    def __init__(self) -> None:
        self.longest = self.total = 0.0
        self.full = 0
        self._start = 0.0
        gc.callbacks.insert(0, self._callback)

    def _callback(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._start = time.perf_counter()
            return
        took = time.perf_counter() - self._start
        self.longest = max(self.longest, took)
        self.total += took
        self.full += info["generation"] == 2

    def take(self) -> dict[str, float]:
        """What there was since the last time."""
        found = {"longest": self.longest, "total": self.total, "full": self.full}
        self.longest = self.total = 0.0
        self.full = 0
        return found


def main() -> None:
    """Measure, and print."""
    objects, mode = int(sys.argv[1]), sys.argv[2]
    if mode == "ours":
        import otel_perf

        otel_perf.setup()
    pauses = Pauses()
    live = [[number] for number in range(objects)]
    building = pauses.take()
    for _ in range(REQUESTS):
        _ = [[number] for number in range(EACH)]
    serving = pauses.take()
    began = time.perf_counter()
    gc.collect()
    asked = time.perf_counter() - began
    print(json.dumps({"building": building, "serving": serving, "asked": asked, "live": len(live)}))


if __name__ == "__main__":
    main()
