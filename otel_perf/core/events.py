"""Names of the events that are emitted: log records with an ``event_name``."""

from __future__ import annotations

from typing import Final

from otel_perf.core.records import record


@record
class Event:
    """An event: the name users see, and its meaning."""

    name: str
    description: str


# Here and not beside their feature because the report groups by them without importing the feature.
UNCAUGHT_ERROR: Final = Event("perf.uncaught_error", "An exception that nobody caught, with the ids of its span")
FEATURE_CHANGED: Final = Event(
    "perf.feature.changed", "A feature, or a part of one, was turned on or off, stepped down or came back, and why"
)
BOTTLENECK: Final = Event(
    "perf.bottleneck", "A bottleneck: kind, evidence, cost, line, and the ids of the span that shows it"
)
REQUEST: Final = Event(
    "perf.request",
    "A request that was served, or a message that was handled, in one record: route, status, duration, database and"
    " HTTP calls, cache look-ups, log lines by level, CPU, memory growth, findings, exception",
)
SUMMARY: Final = Event(
    "perf.summary",
    "What a process did since the last one, each minute and at its end: requests, functions, caches, memory, GC,"
    " findings, log lines by level",
)
WAITED_FOR: Final = "perf.signal.names"  # of the span of a wait, which is no request, and whose time is nobody's
BUSINESS_SCOPE: Final = "otel_perf.events"  # the instrumentation scope of the app's business events

not_mirrored: set[str] = set()
"""Names of events that are not to become span events as well. Ours never do: see ``logs/bridge.py``."""

# Of the line that stands for others like it: their number, and what begins the sentence that gives it.
FOLDED: Final = "perf.log.repeated"
REPEATED: Final = " (repeated: "
