"""Logs: ids on every line, lines that are structured, filtered and counted, and what requests and events say.

The application's handlers, levels and formats stay as they are until it is asked for: no handler is added to the root
logger, so that what an unconfigured program prints, and what ``basicConfig`` does, do not change.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from otel_perf.core import sequence
from otel_perf.core.feature import Feature, Host, Parts
from otel_perf.logs.settings import LogsSettings

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_perf.core.guard import Guard
    from otel_perf.core.served import RecordProcessor, RequestProcessor
    from otel_perf.logs.assembly import Assembly
    from otel_perf.logs.output import LineEncoder
    from otel_perf.logs.redaction import RedactionProcessor, Redactor


class LogsFeature(Feature[LogsSettings]):
    """Correlation, lines, filters, redaction and export of log records; events, wide records, summary, audit trail."""

    name = "logs"
    summary = "trace ids on every log record, records exported without secrets; events, a record a request, a summary"
    emits = sequence.ENHANCED_LOGGING
    awaits = (sequence.ERROR_HANDLING,)
    needs = ("errors",)
    shapes = True
    settings_type = LogsSettings

    def __init__(self) -> None:
        self._processors: list[RequestProcessor | RecordProcessor] = []
        self._assembly: Assembly | None = None
        self._redactor: Redactor | None = None
        self._redaction: RedactionProcessor | None = None
        self._encoder: LineEncoder | None = None

    def provide(self, settings: LogsSettings, host: Host, parts: Parts) -> None:
        """Add the processors: first what hides secrets, so that nothing after it sees one."""
        from otel_perf.core.served import RecordProcessor, RequestProcessor
        from otel_perf.logs.assembly import Assembly
        from otel_perf.logs.redaction import RedactionProcessor, redactor_for

        self._redactor, self._redaction = redactor_for(settings, host.problem), None
        if self._redactor is not None:
            self._redaction = RedactionProcessor(self._redactor, lambda: host.guard(self.name))
            self._redaction.on = False
            parts.log_processors.insert(0, self._redaction)
        requests, records = RequestProcessor(), RecordProcessor(host.guard(self.name))
        parts.span_processors.append(requests)
        parts.log_processors.append(records)
        self._processors = [requests, records]
        self._assembly = Assembly(settings, host, parts, self.name)

    def install(self, settings: LogsSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.core import health
        from otel_perf.logs import correlation, filters, output, propagator, servers
        from otel_perf.logs.audit import mirror

        guard = host.guard(self.name)
        if self._redaction is not None:
            self._redaction.on = True
            undo.callback(self._end_redaction, guard)
        if self._assembly is not None:
            self._assembly.install(host, guard, undo)
        if self._redactor is not None:
            health.hiding.append(self._hidden)
            undo.callback(health.hiding.remove, self._hidden)
        self._encoder = encoder = output.encoder_for(settings, host, self._redactor)
        compose = None if encoder is None else encoder.compose
        correlation.install(host, guard, undo, compose=compose, keep_line=filters.keep_line)
        filters.install(settings, host, guard, undo, str if self._redactor is None else self._redactor.text)
        propagator.install(guard, undo)
        servers.install(guard, undo)
        self._know_requests(undo)
        mirror.install(host, undo)
        if encoder is not None:
            output.install(encoder, guard, undo)

    def _hidden(self, text: str) -> str:
        """What others may see of a text that is no log record; nothing of one that cannot be looked through."""
        from otel_perf.logs.secret_texts import MARK

        try:
            return text if self._redactor is None else self._redactor.text(text)
        except Exception:
            return MARK

    def _end_redaction(self, guard: Guard) -> None:
        """Hide secrets no longer, unless it was our errors that turned the feature off: nobody asked for that."""
        if self._redaction is not None and not guard.tripped:
            self._redaction.on = False

    def _know_requests(self, undo: ExitStack) -> None:
        from opentelemetry import trace

        from otel_perf.core.served import draw_with

        for processor in self._processors:
            processor.active = True
            undo.callback(setattr, processor, "active", False)
        generator = getattr(trace.get_tracer_provider(), "id_generator", None)
        with suppress(AttributeError):  # one that cannot be changed: lines before the span have no id
            undo.callback(draw_with(generator))

    def holds_off(self) -> None:
        """Hide secrets: events are exported from the start."""
        if self._redaction is not None:
            self._redaction.on = True

    def prove(self) -> None:
        """Make a line."""
        import logging

        from otel_perf.logs import correlation

        record = logging.makeLogRecord({"name": "otel_perf", "msg": "ready"})
        correlation.stamp(record, "")
        if logging.Logger.callHandlers.__module__ != correlation.__name__:
            raise RuntimeError("logging.Logger.callHandlers is not ours: lines have no ids")
        if self._encoder is not None:
            self._encoder.line(record)

    def last_words(self) -> None:
        """Say what was dropped and folded since it was last said."""
        from otel_perf.logs.filters import last_words

        last_words()

    def flush(self) -> None:
        """The process may end at any moment: emit what would be emitted at its end."""
        if self._assembly is not None:
            self._assembly.last()


FEATURE = LogsFeature()
