"""How long the garbage collector stops the program, each time."""

from __future__ import annotations

from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Final

from otel_perf.core import collector
from otel_perf.core.buckets import Durations
from otel_perf.core.census import Metric

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

    from otel_perf.core.buckets import Counted
    from otel_perf.gc_tuning.tuner import Tuner

PAUSE: Final = Metric(
    "perf.gc.pause", "s", "histogram", "How long the garbage collector stopped the program, by cpython.gc.generation"
)
OLDEST: Final = 2


class Pauses:
    """Counts of the pauses by generation. CPython runs one collection at a time, so that no lock is needed.

    Costs 1 µs a collection, of some hundred allocations or more, and 2 µs more for a full one.
    """

    def __init__(self) -> None:
        self._start = self._cpu = 0.0
        self._tuner: Tuner | None = None
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Begin anew."""
        self._durations = tuple(Durations({"cpython.gc.generation": generation}) for generation in range(OLDEST + 1))

    def counted(self) -> Iterable[Counted]:
        """The generations that were collected."""
        return [durations for durations in self._durations if durations.maximum]

    def install(self, tuner: Tuner, undo: ExitStack) -> None:
        """Measure, and let ``tuner`` know, until the undo."""
        self._tuner = tuner
        undo.callback(self._end)
        undo.callback(collector.on_collection(self._callback))

    def _end(self) -> None:
        self._tuner, self._start = None, 0.0

    def _callback(self, phase: str, info: dict[str, int]) -> None:
        generation, tuner = info["generation"], self._tuner
        if phase == "start":
            if generation >= OLDEST:
                if tuner is not None:
                    tuner.begins()
                self._cpu = thread_time()
            self._start = perf_counter()
            return
        if not self._start:  # it began before we were there
            return
        seconds, self._start = perf_counter() - self._start, 0.0
        # The collector may itself wait for a CPU: that counts for those who wait, and is not its own fault.
        own = min(seconds, thread_time() - self._cpu) if generation >= OLDEST else seconds
        self._durations[min(generation, OLDEST)].add(seconds)
        if tuner is not None:
            tuner.ended(generation, own)
