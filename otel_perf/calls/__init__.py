"""Calls: every monitored function is measured for the price of two clock reads (:func:`otel_perf.monitored`)."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Final

from otel_perf.core.census import Metric
from otel_perf.core.feature import Feature, Host, Parts
from otel_perf.core.records import record
from otel_perf.core.settings import Duration, count

if TYPE_CHECKING:
    from contextlib import ExitStack

CALL_DURATION: Final = Metric("perf.call.duration", "s", "histogram", "Time that calls of a monitored function took")
CALL_SELF_TIME: Final = Metric(
    "perf.call.self_time", "s", "counter", "The part of it in which no other monitored call was under way beneath"
)
CALL_ERRORS: Final = Metric("perf.call.errors", "{error}", "counter", "Calls of a monitored function that raised")
CALL_UNTIMED: Final = Metric(
    "perf.call.untimed", "{call}", "counter", "Calls of a function that is too hot to be timed, and only counted"
)


@record
class CallsSettings:
    """Settings of the calls."""

    slow: Duration = field(default=0.010, metadata={"doc": "From how long on a call becomes a span (s)."})
    watch: str = field(
        default="",
        metadata={"doc": "Functions to measure without a decorator, like shop.*,db.repo:Repo.*,!shop.hot:* ."},
    )
    functions: Annotated[int, count(1, 100_000)] = field(
        default=2_000, metadata={"doc": "Functions with counts of their own; the others share one."}
    )
    pure: bool = field(
        default=False,
        metadata={"doc": "Leave the compiled path alone where there is one; read when a function is first monitored."},
    )


class CallsFeature(Feature[CallsSettings]):
    """Measures the calls of decorated and watched functions."""

    name = "calls"
    summary = "monitored functions: every call counted, the slow ones as spans"
    sheds = 2
    settings_type = CallsSettings

    def provide(self, settings: CallsSettings, host: Host, parts: Parts) -> None:
        """Add what sends the counts, and keeps a measurement from making spans real."""
        from otel_perf.calls.function import FUNCTIONS
        from otel_perf.calls.lazy_span import SCOPE, after_fork_in_child, before_fork
        from otel_perf.calls.statistics import LazyAwareFilter
        from otel_perf.core.forks import on_fork
        from otel_perf.core.histograms import HistogramProducer

        FUNCTIONS.limit = settings.functions
        producer = HistogramProducer(CALL_DURATION, FUNCTIONS.counts, scope=SCOPE)
        parts.metric_producers.append(producer)
        parts.exemplar_filters.append(LazyAwareFilter)
        on_fork(before=before_fork, child=after_fork_in_child)
        on_fork(child=FUNCTIONS.after_fork_in_child)
        on_fork(child=producer.after_fork_in_child)

    def install(self, settings: CallsSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.calls import finalizers
        from otel_perf.calls.function import FUNCTIONS
        from otel_perf.calls.lazy_span import RECORDER
        from otel_perf.calls.statistics import sources

        RECORDER.guard = host.guard(self.name)
        for metric, source in sources(FUNCTIONS).items():
            undo.callback(host.census.add(metric, source))
        undo.callback(FUNCTIONS.turn, False)
        finalizers.install(undo)
        FUNCTIONS.turn(True, slow=settings.slow)
        if settings.watch:
            from otel_perf.calls.watch import install

            install(settings.watch, host, undo)


FEATURE = CallsFeature()
