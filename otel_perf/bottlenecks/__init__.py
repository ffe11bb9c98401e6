"""Bottlenecks: what is slow, why, where in the code, and what mending it would save. See DESIGN 5.2."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core import sequence
from otel_perf.core.feature import Feature, Host, Parts
from otel_perf.core.records import record
from otel_perf.core.settings import Duration  # noqa: TC001 - read at run time

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_perf.bottlenecks.processor import BottleneckProcessor
    from otel_perf.bottlenecks.root import Root
    from otel_perf.bottlenecks.trace import Surroundings

DETECTOR_SETTINGS: Final = "OTEL_PERF_BOTTLENECKS_"
SLOW: Final = "OTEL_PERF_BOTTLENECKS_SLOW"


@record
class BottleneckSettings:
    """Settings of the detection; each detector has its own."""

    slow: Duration = field(
        default=0.025,
        metadata={"doc": "A span that is open for longer has its thread's stack looked at, every 20 ms (s)."},
    )


class BottlenecksFeature(Feature[BottleneckSettings]):
    """Flags bottlenecks while the program runs."""

    name = "bottlenecks"
    summary = "what is slow, why, where in the code, and what mending it would save"
    emits = sequence.PERFORMANCE_OPTIMIZATION
    awaits = (sequence.HEALTH_MONITORING,)
    settings_type = BottleneckSettings
    by_trace = True
    shapes = True
    sheds = 1

    def __init__(self) -> None:
        self._processor: BottleneckProcessor | None = None
        self._parts: Any = None

    def provide(self, settings: BottleneckSettings, host: Host, parts: Parts) -> None:
        """Add the processor."""
        from otel_perf.bottlenecks.baseline import Baselines
        from otel_perf.bottlenecks.processor import BottleneckProcessor

        self._baselines = Baselines()
        self._processor = BottleneckProcessor(lambda: host.guard(self.name), self._baselines)
        parts.span_shaper = self._processor

    def install(self, settings: BottleneckSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.bottlenecks.analyst import Analyst
        from otel_perf.bottlenecks.finding import BOTTLENECKS, COST, SKIPPED
        from otel_perf.bottlenecks.pauses import Pauses
        from otel_perf.bottlenecks.watchdog import Watchdog
        from otel_perf.bottlenecks.work import Workshop
        from otel_perf.core import activity
        from otel_perf.core.forks import on_fork

        processor = self._processor
        if processor is None:
            return

        def collected(end: int) -> None:
            processor.noted = end

        pauses = Pauses(collected)
        workshop = Workshop(processor, lambda: host.guard(self.name))
        watchdog = Watchdog(processor, workshop, settings.slow, lambda: host.guard(self.name))

        def surroundings() -> Surroundings:
            from otel_perf.bottlenecks.trace import Surroundings

            return Surroundings(
                list(pauses.recent),
                watchdog.seen(),
                list(watchdog.looks),
                list(watchdog.resident),
            )

        analyst = Analyst(host, processor, self._baselines, surroundings)
        if any(name.startswith(DETECTOR_SETTINGS) and name != SLOW for name in host.environ):
            analyst.detectors()  # a wrong setting is told when the program starts

        def active() -> bool:
            return bool(processor.roots)

        def begun(root: Root) -> None:
            workshop.begun()
            watchdog.begun(root)

        def finished(root: Root) -> None:
            watchdog.read_memory()
            analyst.finished(root)

        def child() -> None:
            processor.after_fork_in_child()
            watchdog.after_fork_in_child()
            analyst.after_fork_in_child()

        processor.share = host.share(self.name)
        processor.finished, processor.flush = finished, analyst.flush
        processor.begun, processor.holding = begun, analyst.start
        undo.callback(processor.forget)
        undo.callback(analyst.end)
        undo.callback(watchdog.end)
        undo.callback(setattr, processor, "on", False)
        undo.callback(on_fork(child=child))
        undo.callback(setattr, processor, "holding", None)
        undo.callback(host.census.add(BOTTLENECKS, analyst.readings))
        undo.callback(host.census.add(COST, analyst.saved))
        undo.callback(host.census.add(SKIPPED, analyst.skipped))
        activity.sources.append(active)
        undo.callback(activity.sources.remove, active)
        pauses.install(undo)
        workshop.install(undo)
        processor.on = True


FEATURE = BottlenecksFeature()
