"""Handlers of upstream's that the app has added by itself: what we have exported they do not export once more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry._logs import get_logger_provider

from otel_perf.core.patches import on_import, put
from otel_perf.logs.correlation import CORRELATION_ID

if TYPE_CHECKING:
    import logging
    from contextlib import ExitStack

    from otel_perf.core.guard import Guard
    from otel_perf.logs.export import Exporter

MODULES: Final = ("opentelemetry.instrumentation.logging.handler", "opentelemetry.sdk._logs._internal")


def install(export: Exporter | None, guard: Guard, undo: ExitStack) -> None:
    """Leave out, in their ``emit``, what ``export`` has taken; a provider of the app's own gets every record."""
    if export is None:
        return

    def imported(module: Any) -> None:
        original = module.LoggingHandler.emit

        def emit(self: Any, record: logging.LogRecord) -> None:
            try:
                known = CORRELATION_ID in record.__dict__ and export.takes(record.levelno)
                if known and self._logger_provider is get_logger_provider():
                    return
            except Exception as error:
                guard.handle(error)
            original(self, record)

        put(module.LoggingHandler, "emit", emit, undo)

    for name in MODULES:
        on_import(name, imported, undo, guard)
