"""Garbage collection: how long it stops the program, and less of that once it stops it for long. See DESIGN 5.3."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from otel_perf.core import sequence
from otel_perf.core.feature import Feature, Host, Parts
from otel_perf.core.records import record
from otel_perf.core.settings import Duration  # noqa: TC001 - read at run time

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_perf.gc_tuning.pauses import Pauses
    from otel_perf.gc_tuning.tuner import Act


@record
class GcTuningSettings:
    """When to begin."""

    pause: Duration = field(
        default=0.05,
        metadata={
            "doc": "A full collection that takes longer has what survived it frozen; before, pauses are measured (s)."
        },
    )


class GcTuningFeature(Feature[GcTuningSettings]):
    """Measures the pauses of the garbage collector, and shortens them by ``gc.freeze`` and thresholds."""

    name = "gc_tuning"
    summary = "pauses of the garbage collector measured, and shortened once one is long; forked children share memory"
    emits = sequence.PERFORMANCE_OPTIMIZATION
    awaits = (sequence.HEALTH_MONITORING,)
    settings_type = GcTuningSettings

    def __init__(self) -> None:
        self._pauses: Pauses | None = None

    def provide(self, settings: GcTuningSettings, host: Host, parts: Parts) -> None:
        """Add what sends the pauses."""
        from otel_perf.core.forks import on_fork
        from otel_perf.core.histograms import HistogramProducer
        from otel_perf.gc_tuning.pauses import PAUSE, Pauses

        self._pauses = pauses = Pauses()
        producer = HistogramProducer(PAUSE, pauses.counted)
        parts.metric_producers.append(producer)
        on_fork(child=pauses.after_fork_in_child)
        on_fork(child=producer.after_fork_in_child)

    def install(self, settings: GcTuningSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.core import cleaning
        from otel_perf.core.forks import on_fork
        from otel_perf.gc_tuning.tuner import EVERY, TUNED, Tuner

        if self._pauses is None:
            return

        def tell(act: Act) -> None:
            attributes: dict[str, Any] = {"perf.gc.tuned.action": act.action}
            for name, pair in (("pause", act.pause), ("threshold", act.threshold)):
                for when, value in zip(("before", "after"), pair, strict=True):
                    if value is not None:
                        attributes[f"perf.gc.tuned.{name}.{when}"] = value
            host.event(TUNED, attributes, body=act.sentence())

        tuner = Tuner(settings.pause, tell, lambda: host.guard(self.name))
        tuner.install(undo)
        self._pauses.install(tuner, undo)
        undo.callback(on_fork(before=tuner.before_fork, child=tuner.after_fork_in_child))
        undo.callback(cleaning.register("otel_perf.gc_tuning: frozen garbage", tuner.sweep, EVERY, exclusive=True))


FEATURE = GcTuningFeature()
