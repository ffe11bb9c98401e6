"""Logs: trace ids on every standard-library record, and every record exported.

The application's handlers, levels and formats stay as they are: no handler is added to the root logger,
so that what an unconfigured program prints, and what ``basicConfig`` does, do not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_perf.core.feature import Feature, Host
from otel_perf.logs.settings import LogsSettings

if TYPE_CHECKING:
    from contextlib import ExitStack


class LogsFeature(Feature[LogsSettings]):
    """Correlation of log records with traces, and their export."""

    name = "logs"
    summary = "trace ids on every log record, records exported"
    needs = ("errors",)
    settings_type = LogsSettings

    def install(self, settings: LogsSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.logs import filters
        from otel_perf.logs.correlation import install

        install(host, host.guard(self.name), undo)
        filters.install(settings, host, host.guard(self.name), undo)

    def last_words(self) -> None:
        """Say what was dropped and folded since it was last said."""
        from otel_perf.logs.filters import last_words

        last_words()


FEATURE = LogsFeature()
