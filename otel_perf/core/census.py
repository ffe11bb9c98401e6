"""One registry of everything observable, so that features need not know each other.

A source is a callable that returns the current ``(value, attributes)`` pairs of one metric. OpenTelemetry's
observable instruments cannot be unregistered, and a second registration of a name loses its callback;
so each metric has one instrument here, with one callback over the sources that are registered now.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Literal

from otel_perf.core.records import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Meter, Observation

    Reading = tuple[float, Mapping[str, str | int]]
    Source = Callable[[], Iterable[Reading]]

SCOPE: Final = "otel_perf"  # instrumentation scope of our own metrics and events
Kind = Literal["counter", "gauge", "updowncounter", "histogram"]  # a histogram comes from a producer, not from here
_log = logging.getLogger("otel_perf")


@record
class Metric:
    """A metric that is emitted: the name users see, its unit (UCUM), kind and meaning."""

    name: str
    unit: str
    kind: Kind
    description: str


class Census:
    """Sources of metrics. Thread-safe: registering replaces a tuple, collecting reads it."""

    def __init__(self) -> None:
        self._sources: dict[Metric, tuple[Source, ...]] = {}
        self._meter: Meter | None = None

    def add(self, metric: Metric, source: Source) -> Callable[[], None]:
        """Report ``source`` as part of ``metric`` until the returned function is called."""
        new = metric not in self._sources
        self._sources[metric] = (*self._sources.get(metric, ()), source)
        if new and self._meter is not None:
            self._observe(self._meter, metric)

        def remove() -> None:
            self._sources[metric] = tuple(s for s in self._sources.get(metric, ()) if s is not source)

        return remove

    def attach(self, meter: Meter) -> None:
        """Create the instruments of all metrics, known and to come, on ``meter``."""
        self._meter = meter
        for metric in self._sources:
            self._observe(meter, metric)

    def read(self, metric: Metric) -> list[Reading]:
        """The current readings; a source that fails is left out."""
        readings: list[Reading] = []
        for source in self._sources.get(metric, ()):
            try:
                readings.extend(source())
            except Exception:
                _log.debug("otel-perf: reading %s failed", metric.name, exc_info=True)
        return readings

    def named(self, name: str) -> list[Reading]:
        """The current readings of the metric with that name; none while nobody reports it."""
        return [reading for metric in tuple(self._sources) if metric.name == name for reading in self.read(metric)]

    def _observe(self, meter: Meter, metric: Metric) -> None:
        from opentelemetry.metrics import Observation  # not at the top: the launcher imports this module

        def callback(_options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(value, dict(attributes)) for value, attributes in self.read(metric)]

        create = {
            "counter": meter.create_observable_counter,
            "gauge": meter.create_observable_gauge,
            "updowncounter": meter.create_observable_up_down_counter,
        }[metric.kind]
        create(metric.name, callbacks=[callback], unit=metric.unit, description=metric.description)
