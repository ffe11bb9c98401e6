"""Cleanup: tasks in the background that active work does not feel. See DESIGN 5.3."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from otel_perf.core import sequence
from otel_perf.core.feature import Feature, Host, NoSettings

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_perf.cleanup.scheduler import Run, Scheduler


class CleanupFeature(Feature[NoSettings]):
    """Runs cleanup tasks in slices."""

    name = "cleanup"
    summary = "cleanup tasks in the background, in slices that active work does not feel"
    emits = sequence.PERFORMANCE_OPTIMIZATION
    awaits = (sequence.HEALTH_MONITORING,)

    def install(self, settings: NoSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.cleanup.metrics import RUN, RUNS, TIME, Totals
        from otel_perf.cleanup.scheduler import Scheduler
        from otel_perf.core import cleaning, health
        from otel_perf.core.forks import on_fork

        totals = Totals()

        def tell(run: Run) -> None:
            totals.add(run)
            attributes: dict[str, Any] = {
                "perf.cleanup.task": run.task.name,
                "perf.cleanup.outcome": run.outcome,
                "perf.cleanup.duration": run.seconds,
                "perf.cleanup.busy": run.busy,
                "perf.cleanup.slices": run.slices,
                "perf.cleanup.longest_slice": run.longest,
                "perf.cleanup.amount": run.amount,
            }
            if run.error is not None:
                attributes["exception.type"] = type(run.error).__qualname__
                attributes["exception.message"] = str(run.error)
            if run.error is not None or run.amount:  # a run that found nothing to do is only counted
                severity = "INFO" if run.error is None else "WARN"
                health.news(self.name)
                host.event(RUN, attributes, severity=severity)
            if run.outcome == "parked":
                host.problem(
                    f"otel-perf: cleanup task {run.task.name} failed {run.failures} times and is not run again: "
                    f"{type(run.error).__name__}: {run.error}"
                )

        scheduler = Scheduler(tell)
        cleaning.changed.append(scheduler.wake)
        undo.callback(cleaning.changed.remove, scheduler.wake)
        scheduler.start()
        undo.callback(scheduler.end)
        undo.callback(on_fork(child=scheduler.start))
        undo.callback(host.census.add(RUNS, totals.runs))
        undo.callback(host.census.add(TIME, totals.time))
        undo.callback(health.register(self.name, partial(_health, scheduler), every=2.0, quick=True))


def _health(scheduler: Scheduler) -> tuple[str, str]:
    """Degraded while a task fails, or was given up."""
    troubles = scheduler.troubles()
    words = [f"{name} {'is not run again' if parked else 'fails'}" for name, parked in troubles.items()]
    return ("degraded", ", ".join(words)) if words else ("healthy", "")


FEATURE = CleanupFeature()
