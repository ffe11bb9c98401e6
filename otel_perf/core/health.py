"""How a part of the program fares: what features say of themselves, for whoever asks."""

from __future__ import annotations

from typing import Final

from otel_perf.core.census import Metric
from otel_perf.core.events import Event

HEALTHY, DEGRADED, UNHEALTHY = range(3)
WORDS: Final = ("healthy", "degraded", "unhealthy")

STATUS: Final = Metric("perf.health.status", "1", "gauge", "0 healthy, 1 degraded, 2 unhealthy, by perf.health.check")
CHANGED: Final = Event("perf.health.changed", "A check's health changed: which, to what and from what, and why")
