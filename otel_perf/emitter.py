"""Emits our events as log records."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry._logs import Logger, LogRecord
    from opentelemetry.context import Context

    from otel_perf.core.events import Event

_log = logging.getLogger("otel_perf")


class Emitter:
    """Holds events back, from the beginning, until :meth:`release`: what takes them away is not there yet.

    Without a ``logger`` it emits nothing.
    """

    def __init__(self) -> None:
        self.logger: Logger | None = None
        self._held: list[LogRecord] | None = []

    def hold(self) -> None:
        """Hold back what is emitted from now on."""
        self._held = []

    def release(self) -> None:
        """Emit what was held back."""
        held, self._held = self._held or [], None
        for record in held:
            if self.logger is not None:
                with suppress(Exception):
                    self.logger.emit(record)

    def emit(
        self, event: Event, attributes: Mapping[str, Any], body: str | None, severity: str, context: Context | None
    ) -> None:
        """Emit a log record with the event's name. Never raises."""
        if self.logger is None:
            return
        from opentelemetry._logs import LogRecord, SeverityNumber

        try:
            record = LogRecord(
                timestamp=time.time_ns(),
                context=context,
                severity_text=severity,
                severity_number=SeverityNumber[severity],
                body=body,
                attributes=dict(attributes),
                event_name=event.name,
            )
            emit = self.logger.emit if self._held is None else self._held.append
            emit(record)
        except Exception:
            _log.debug("otel-perf: event %s failed", event.name, exc_info=True)
