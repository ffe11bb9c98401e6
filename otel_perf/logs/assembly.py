"""Puts the parts of the logs together that make telemetry of their own: events, wide records, the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack

    from otel_perf.core.feature import Host, Parts
    from otel_perf.core.guard import Guard
    from otel_perf.logs.bridge import SpanEventBridge
    from otel_perf.logs.requests import Requests
    from otel_perf.logs.settings import LogsSettings
    from otel_perf.logs.summary import Summary


class Assembly:
    """What ``provide`` made and ``install`` turns on."""

    def __init__(self, settings: LogsSettings, host: Host, parts: Parts, name: str) -> None:
        from otel_perf.logs.bridge import SpanEventBridge

        self._settings = settings
        self._bridge: SpanEventBridge | None = None
        self._requests: Requests | None = None
        self._summary: Summary | None = None
        self._parts = parts

        def guard() -> Guard:
            return host.guard(name)

        self._guard = guard

        if settings.span_events:
            self._bridge = SpanEventBridge(guard)
            parts.log_processors.append(self._bridge)
        if settings.requests or settings.summary:
            from otel_perf.logs.request_sink import RequestSink
            from otel_perf.logs.requests import LineCounter, Requests

            self._requests = Requests(guard, records=settings.requests)
            parts.span_processors.append(self._requests)
            parts.span_sinks.append(RequestSink(self._requests, self.last))
            parts.log_processors.append(LineCounter(self._requests))

    def install(self, host: Host, guard: Guard, undo: ExitStack) -> None:
        """Turn all of it on."""
        from otel_perf.logs.events import events

        events.install(host, guard, undo)
        if self._bridge is not None:
            self._bridge.on = True
            undo.callback(setattr, self._bridge, "on", False)
        if self._requests is not None:
            self._requests.install(undo)
        if self._settings.summary:
            self._summarize(host, undo)

    def _summarize(self, host: Host, undo: ExitStack) -> None:
        from otel_perf.core import cleaning
        from otel_perf.core.forks import on_fork
        from otel_perf.logs.events import events
        from otel_perf.logs.summary import Summary

        def made() -> Mapping[str, int]:
            return {name: tally.made for name, tally in events.tallies.copy().items()}

        self._summary = summary = Summary(host, self._parts, self._requests, made)
        undo.callback(setattr, self, "_summary", None)
        undo.callback(on_fork(child=summary.begin))
        undo.callback(cleaning.register("otel_perf.logs: summary", summary.run, self._settings.summary))

    def last(self) -> None:
        """The providers end, or the process may: say what there is to say."""
        with self._guard():
            if self._requests is not None:
                self._requests.emit_all()
            if self._summary is not None:
                self._summary.last()
