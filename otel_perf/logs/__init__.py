"""Logs: trace ids on every standard-library record, and every record exported.

The application's handlers, levels and formats stay as they are: no handler is added to the root logger,
so that what an unconfigured program prints, and what ``basicConfig`` does, do not change.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from otel_perf.core.feature import Feature, Host, NoSettings, Parts

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_perf.core.served import RecordProcessor, RequestProcessor


class LogsFeature(Feature[NoSettings]):
    """Correlation of log records with traces, and their export."""

    name = "logs"
    summary = "trace ids on every log record, records exported"
    needs = ("errors",)

    def __init__(self) -> None:
        self._processors: list[RequestProcessor | RecordProcessor] = []

    def provide(self, settings: NoSettings, host: Host, parts: Parts) -> None:
        """Add what tells a request its span, and a record the ids of its work."""
        from otel_perf.core.served import RecordProcessor, RequestProcessor

        requests, records = RequestProcessor(), RecordProcessor(host.guard(self.name))
        parts.span_processors.append(requests)
        parts.log_processors.append(records)
        self._processors = [requests, records]

    def install(self, settings: NoSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.logs import propagator, servers
        from otel_perf.logs.correlation import install

        guard = host.guard(self.name)
        install(host, guard, undo)
        propagator.install(guard, undo)
        servers.install(guard, undo)
        self._know_requests(undo)

    def _know_requests(self, undo: ExitStack) -> None:
        from opentelemetry import trace

        from otel_perf.core.served import draw_with

        for processor in self._processors:
            processor.active = True
            undo.callback(setattr, processor, "active", False)
        generator = getattr(trace.get_tracer_provider(), "id_generator", None)
        with suppress(AttributeError):  # one that cannot be changed: lines before the span have no id
            undo.callback(draw_with(generator))


FEATURE = LogsFeature()
