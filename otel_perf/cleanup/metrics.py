"""What cleanup tasks did, as metrics and events."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from otel_perf.core.census import Metric
from otel_perf.core.events import Event

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_perf.cleanup.scheduler import Run
    from otel_perf.core.census import Reading

RUN: Final = Event("perf.cleanup.run", "A cleanup task ran and did something, or failed: how long, in how many slices")
RUNS: Final = Metric("perf.cleanup.runs", "{run}", "counter", "Runs of cleanup tasks, by task and outcome")
TIME: Final = Metric("perf.cleanup.time", "s", "counter", "Time that cleanup tasks computed, by task")


class Totals:
    """Summed up since the start; written by one thread."""

    def __init__(self) -> None:
        self._runs: Counter[tuple[str, str]] = Counter()
        self._time: dict[str, float] = {}

    def add(self, run: Run) -> None:
        """Count a run."""
        self._runs[run.task.name, run.outcome] += 1
        self._time[run.task.name] = self._time.get(run.task.name, 0.0) + run.busy

    def runs(self) -> Iterable[Reading]:
        """By task and outcome."""
        return [(number, {"task": task, "outcome": outcome}) for (task, outcome), number in self._runs.copy().items()]

    def time(self) -> Iterable[Reading]:
        """By task."""
        return [(seconds, {"task": task}) for task, seconds in self._time.copy().items()]
