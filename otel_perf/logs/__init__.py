"""Logs: trace ids on every standard-library record, every record exported, and what requests and events say.

The application's handlers, levels and formats stay as they are: no handler is added to the root logger,
so that what an unconfigured program prints, and what ``basicConfig`` does, do not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_perf.core.feature import Feature, Host, Parts
from otel_perf.logs.settings import LogsSettings

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_perf.logs.assembly import Assembly


class LogsFeature(Feature[LogsSettings]):
    """Correlation of log records with traces, and their export; events, wide records and the summary."""

    name = "logs"
    summary = "trace ids on every log record, records exported; events, a record a request, a summary a minute"
    needs = ("errors",)
    settings_type = LogsSettings

    def __init__(self) -> None:
        self._assembly: Assembly | None = None

    def provide(self, settings: LogsSettings, host: Host, parts: Parts) -> None:
        """Add the processors."""
        from otel_perf.logs.assembly import Assembly

        self._assembly = Assembly(settings, host, parts, self.name)

    def install(self, settings: LogsSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.logs.correlation import install

        if self._assembly is not None:
            self._assembly.install(host, host.guard(self.name), undo)
        install(host, host.guard(self.name), undo)

    def flush(self) -> None:
        """The process may end at any moment: emit what would be emitted at its end."""
        if self._assembly is not None:
            self._assembly.last()


FEATURE = LogsFeature()
