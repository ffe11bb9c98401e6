"""Logs: trace ids on every standard-library record, every record exported, and lines in one format if asked for.

The application's handlers, levels and formats stay as they are: no handler is added to the root logger,
so that what an unconfigured program prints, and what ``basicConfig`` does, do not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_perf.core.feature import Feature, Host, Parts
from otel_perf.logs.settings import LogsSettings

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_perf.logs.redaction import RedactionProcessor, Redactor


class LogsFeature(Feature[LogsSettings]):
    """Correlation of log records with traces, their export, and their lines."""

    name = "logs"
    summary = "trace ids on every log record, records exported without secrets"
    needs = ("errors",)
    settings_type = LogsSettings

    def __init__(self) -> None:
        self._redactor: Redactor | None = None
        self._redaction: RedactionProcessor | None = None

    def provide(self, settings: LogsSettings, host: Host, parts: Parts) -> None:
        """Add the processors."""
        from otel_perf.logs.redaction import RedactionProcessor, redactor_for

        self._redactor, self._redaction = redactor_for(settings, host.problem), None
        if self._redactor is not None:
            self._redaction = RedactionProcessor(self._redactor, lambda: host.guard(self.name))
            parts.log_processors.insert(0, self._redaction)

    def install(self, settings: LogsSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.logs.correlation import install

        guard = host.guard(self.name)
        install(host, guard, undo)
        if self._redaction is not None:
            self._redaction.on = True
            undo.callback(setattr, self._redaction, "on", False)
        if settings.format:
            from otel_perf.logs import output

            encoder = output.encoder_for(settings, host, self._redactor)
            if encoder is not None:
                output.install(encoder, guard, undo)


FEATURE = LogsFeature()
