"""Emits our events as log records."""

from __future__ import annotations

import logging
import time
from collections import deque
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
        self._held: deque[LogRecord] | None = deque()

    def hold(self) -> None:
        """Hold back what is emitted from now on."""
        self._held = deque()

    def release(self) -> None:
        """Emit what was held back."""
        held, self._held = self._held, None
        self._emit_all(held or deque())

    def _emit_all(self, held: deque[LogRecord]) -> None:
        logger = self.logger
        with suppress(IndexError):
            while logger is not None:
                record = held.popleft()
                with suppress(Exception):
                    logger.emit(record)

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
            held = self._held
            if held is None:
                self.logger.emit(record)
                return
            held.append(record)
            if held is not self._held:  # released meanwhile
                self._emit_all(held)
        except Exception:
            _log.debug("otel-perf: event %s failed", event.name, exc_info=True)
