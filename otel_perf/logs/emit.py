"""Makes log events for the SDK at a third of what its constructors cost, where its insides are the ones known here.

An event through the public constructors is 10 µs before the exporter sees it: it asks for the context twice, copies
and checks attributes that were checked already, and reads settings. What is built here is the same objects with the
same fields; a look at the SDK's own objects, once a provider, tells whether their fields are still these. If not, or
if the provider is not the SDK's, the public way is taken.

Where nobody but our own processors would see the SDK's objects, these are built when the event is encoded, in the
store's thread: until then it is an :class:`Event`.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from threading import Lock
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from opentelemetry._logs import LogRecord, SeverityNumber, get_logger_provider
from opentelemetry.context import Context

from otel_perf.core.records import entity

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import SpanContext

    Steps = tuple[Callable[["Event"], object], ...]

INFO: Final = SeverityNumber.INFO

_ATTRIBUTES: Final = {"_dict", "maxlen", "dropped", "max_value_len", "_lock", "_immutable"}
_RECORD: Final = {
    "timestamp", "observed_timestamp", "context", "trace_id", "span_id", "trace_flags", "severity_text",
    "severity_number", "body", "attributes", "event_name", "exception",
}  # fmt: skip
_EMITTED: Final = {"log_record", "resource", "instrumentation_scope", "limits"}


def attributes_of(values: dict[str, Any], limit: int | None, *, immutable: bool) -> Any:
    """The SDK's mapping around ``values``, which are checked, no more than ``limit``, and nobody else's."""
    made = object.__new__(_bounded)
    made.__dict__ = {
        "_dict": values, "maxlen": limit, "dropped": 0, "max_value_len": None, "_lock": Lock(),
        "_immutable": immutable,
    }  # fmt: skip
    return made


_bounded: Any = None


def knows_attributes() -> bool:
    """Whether :func:`attributes_of` may be used: the SDK's mapping is made as it was. Remembers a yes."""
    global _bounded
    if _bounded is None:
        from opentelemetry.attributes import BoundedAttributes

        looked = BoundedAttributes(1, {"a": 1}, immutable=False)
        if vars(looked).keys() == _ATTRIBUTES and type(looked._dict) is dict:
            _bounded = BoundedAttributes
    return _bounded is not None


@entity
class Event:
    """An event on its way through our own processors: what the SDK's objects around it would hold."""

    name: str
    attributes: dict[str, Any]
    context: Context | None
    ids: SpanContext
    timestamp: int  # ns
    severity: SeverityNumber
    severity_text: str
    body: str | None
    logger: Any
    kind: Any  # the SDK's class

    def emitted(self) -> Any:
        """What the SDK's processors would be given. 2 µs."""
        logger, ids = self.logger, self.ids
        limits = logger._log_record_limits
        record = object.__new__(LogRecord)
        record.__dict__ = {
            "timestamp": self.timestamp, "observed_timestamp": self.timestamp, "context": self.context,
            "trace_id": ids[0], "span_id": ids[1], "trace_flags": ids[3],
            "severity_text": self.severity_text, "severity_number": self.severity, "body": self.body,
            "attributes": attributes_of(self.attributes, limits.max_log_record_attributes, immutable=False),
            "event_name": self.name, "exception": None,
        }  # fmt: skip
        emitted = object.__new__(self.kind)
        emitted.__dict__ = {
            "log_record": record, "resource": logger._resource,
            "instrumentation_scope": logger._instrumentation_scope, "limits": limits,
        }  # fmt: skip
        return emitted


class Emitter:
    """Emits events under one instrumentation scope, through whichever provider is the global one. Thread-safe."""

    def __init__(self, scope: str) -> None:
        self._scope = scope
        self._to: tuple[Any, Any, Any] = (None, None, None)  # provider, its logger, what its records are emitted as
        self._straight: tuple[Any, Steps | None] = (None, None)  # the processors of then, and the way through them

    def is_heard(self) -> bool:
        """Whether there is a provider that does something."""
        provider = get_logger_provider()
        return (self._to if provider is self._to[0] else self._attach(provider))[1] is not None

    def emit(
        self,
        name: str,
        attributes: dict[str, Any],
        context: Context,
        ids: SpanContext,
        *,
        timestamp: int,
        severity: SeverityNumber = INFO,
        severity_text: str = "INFO",
        body: str | None = None,
    ) -> None:
        """Emit an event. ``attributes`` are what OTLP can carry, and the event's own from now on.

        1 µs, and what the processors take; 3 µs more if some of them are not ours.
        """
        provider = get_logger_provider()
        to = self._to
        if provider is not to[0]:
            to = self._attach(provider)
        logger, kind = to[1], to[2]
        if logger is None:
            return
        if kind is not None:
            limits = logger._log_record_limits
            limit = limits.max_log_record_attributes
            if (limit is None or len(attributes) <= limit) and limits.max_log_record_attribute_length is None:
                event = Event(name, attributes, context, ids, timestamp, severity, severity_text, body, logger, kind)
                processors = logger._multi_log_record_processor._log_record_processors
                known = self._straight
                if known[0] is not processors:
                    known = self._straight = (processors, steps_of(logger, processors))
                if known[1] is not None and logger._logger_config.is_enabled:
                    for step in known[1]:
                        step(event)
                else:
                    logger.emit(event.emitted())
                return
        logger.emit(
            LogRecord(
                timestamp=timestamp, context=context, severity_text=severity_text, severity_number=severity,
                body=body, attributes=attributes, event_name=name,
            )
        )  # fmt: skip

    def _attach(self, provider: Any) -> tuple[Any, Any, Any]:
        module = type(provider).__module__
        if module.startswith("opentelemetry._logs"):  # the API's own: a proxy, or one that does nothing
            logger = kind = None
        else:
            logger = provider.get_logger(self._scope, version("otel-perf"))
            kind = _kind(logger) if module.startswith("opentelemetry.sdk") else None
        self._straight = (None, None)
        self._to = to = (provider, logger, kind)
        return to


def steps_of(logger: Any, processors: tuple[Any, ...]) -> Steps | None:
    """What ``logger.emit`` calls for an event, if all of it is ours and known, so that it can be called at once.

    ``None`` if anybody else's processor wants to see it, or the way there is not the SDK's as it is known here.
    """
    module: Any = sys.modules.get("opentelemetry.sdk._logs._internal")
    try:
        is_known = (
            _is_plain(logger, "emit", module.Logger)
            and _is_plain(logger._multi_log_record_processor, "on_emit", module.SynchronousMultiLogRecordProcessor)
            and type(logger._logger_metrics).__name__ == "NoOpLoggerMetrics"
            and isinstance(logger._logger_config.is_enabled, bool)
        )
    except Exception:  # an SDK that is made differently
        return None
    ours: list[Any] = [getattr(each, "on_event", None) for each in processors if not getattr(each, "lines_only", False)]
    return tuple(ours) if is_known and all(ours) else None


def _is_plain(thing: Any, method: str, kind: type[Any]) -> bool:
    """Whether ``thing`` is of ``kind`` itself, with a method that nobody wrapped or replaced."""
    found = vars(kind)[method]
    return (
        type(thing) is kind and method not in vars(thing)
        and type(found) is FunctionType and found.__module__ == kind.__module__ and not hasattr(found, "__wrapped__")
    )  # fmt: skip


def _kind(logger: Any) -> Any:
    """What the SDK's logger emits a record as, if it and all that it holds are made as they were."""
    module: Any = sys.modules.get("opentelemetry.sdk._logs")
    kind = getattr(module, "ReadWriteLogRecord", None)
    try:
        if kind is None or not knows_attributes() or vars(logger)["_resource"] is None:
            return None
        record = LogRecord(timestamp=1, context=Context(), attributes={"a": 1}, event_name="a")
        limits, scope = logger._log_record_limits, logger._instrumentation_scope
        made = kind(record, resource=logger._resource, instrumentation_scope=scope, limits=limits)
        known = vars(record).keys() == _RECORD and vars(made).keys() == _EMITTED
        is_same = type(record.attributes) is _bounded and isinstance(limits.max_log_record_attributes, int | None)
        return kind if known and is_same else None
    except Exception:  # an SDK that is made differently
        return None
