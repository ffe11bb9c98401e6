"""Settings of the logs."""

from __future__ import annotations

from dataclasses import dataclass, field

from otel_perf.core.settings import Duration  # noqa: TC001 - read at run time


@dataclass(frozen=True, slots=True)
class LogsSettings:
    """What is made of logs beside what the app writes."""

    requests: bool = field(
        default=True,
        metadata={"doc": "One wide record, the event `perf.request`, for each request served and message handled."},
    )
    summary: Duration = field(
        default=60.0,
        metadata={"doc": "Time between two summaries, the event `perf.summary`; 0 makes none, at the end neither (s)."},
    )
    span_events: bool = field(
        default=True,
        metadata={"doc": "Events become events of the current span as well."},
    )
