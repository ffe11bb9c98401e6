"""Translates standard-library records to OpenTelemetry log records and emits them."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from contextvars import ContextVar
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context
from opentelemetry._logs import LogRecord, SeverityNumber, get_logger_provider
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.semconv.attributes import code_attributes, exception_attributes

from otel_perf.logs.correlation import CORRELATION_ID, SPAN_ID, STAMPS, TRACE_ID, context_for, context_of
from otel_perf.logs.line_parts import LEVELS, severity, type_text
from otel_perf.logs.plain_values import DEEPER, text_of, type_name
from otel_perf.logs.tracebacks import formatted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.context import Context

    from otel_perf.core.feature import Host

# Fields that every record has; the rest are the caller's extras.
_OWN_FIELDS: Final = (
    frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None)))
    | {"message", "asctime", "taskName", "_logger", "_name", "_from_structlog"}  # the last three: structlog's
    | STAMPS
)
# How ids are called in structlog's events.
_SPELT: Final = {"trace_id": TRACE_ID, "span_id": SPAN_ID, "correlation_id": CORRELATION_ID}
_STRUCTLOG_OWN: Final = frozenset({"level", "timestamp", "logger", "_record", "_from_structlog", "stack_info"})
_DEPTH: Final = 4  # levels of nested lists and dicts that are kept as such
_emitting: ContextVar[bool] = ContextVar("otel_perf_emitting", default=False)


class Exporter:
    """Emits records of the standard library, and lines of others; nothing of what is made while it emits."""

    def __init__(self, least: int, *, with_code: bool) -> None:
        self.least = least
        self.with_code = with_code

    def takes(self, levelno: int) -> bool:
        """Whether a line of this level, made here and now, is exported."""
        # Our own thread and the exporters log too: a record of theirs would beget the next one.
        return levelno >= self.least and not _emitting.get() and not context.get_value(_SUPPRESS_INSTRUMENTATION_KEY)

    def __call__(self, record: logging.LogRecord) -> None:
        """Export a record."""
        if self.takes(record.levelno):
            self._emit(record.name, translate(record, with_code=self.with_code))

    def line(
        self,
        *,
        name: str,
        time: float,
        level: str,
        levelno: int,
        body: str,
        attributes: dict[str, Any],
        exc_info: Any = None,
        place: tuple[str, int, str] = ("", 0, ""),
    ) -> None:
        """Export a line that is no record of the standard library; ``time`` in s since the epoch."""
        if not self.takes(levelno):
            return
        found = {key: plain(value) for key, value in attributes.items()}
        if self.with_code and place[1]:
            _add_code(found, *place)
        error = _add_exception(found, exc_info)
        self._emit(name, _log_record(found, context_for(error), time, level, levelno, encodable(body)))

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Export nothing that is made in the block: it was exported before."""
        token = _emitting.set(True)
        try:
            yield
        finally:
            _emitting.reset(token)

    def _emit(self, name: str, record: LogRecord) -> None:
        token = _emitting.set(True)
        try:
            get_logger_provider().get_logger(name).emit(record)
        finally:
            _emitting.reset(token)


def exporter_for(host: Host) -> Exporter | None:
    """What exports a record, or ``None`` when the user's variables switch it off."""
    environ = host.environ
    if environ.get("OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION", "true").strip().lower() == "false":
        return None
    with_code = environ.get("OTEL_PYTHON_LOG_CODE_ATTRIBUTES", "").strip().lower() == "true"
    return Exporter(_level(host, environ.get("OTEL_PYTHON_LOG_HANDLER_LEVEL", "").strip()), with_code=with_code)


def translate(record: logging.LogRecord, *, with_code: bool = False) -> LogRecord:
    """An OpenTelemetry record with the severity, message, extras and exception of ``record``."""
    attributes: dict[str, Any] = {key: plain(value) for key, value in record.__dict__.items() if key not in _OWN_FIELDS}
    if with_code:
        _add_code(attributes, record.pathname, record.lineno, record.funcName)
    event = structlog_event(record)
    _add_exception(attributes, record.exc_info or (exc_info_of(event.pop("exc_info", None)) if event else None))
    names = [attributes.pop(key, None) for key in ("otel.event.name", "event.name")]  # as upstream's handler reads them
    event_name = next((name for name in names if isinstance(name, str) and name), None)
    if event is None:
        body = _body(record)
    else:
        body = encodable(str(event.pop("event", "")))
        attributes = {**{key: plain(value) for key, value in event.items()}, **attributes}
    for key, stamp in _SPELT.items():  # structlog's, from its event into the extras
        if attributes.get(key) == record.__dict__.get(stamp, attributes):
            del attributes[key]
    return _log_record(
        attributes, context_of(record), record.created, record.levelname, record.levelno, body, event_name
    )


def structlog_event(record: logging.LogRecord) -> dict[str, Any] | None:
    """A copy of the event that structlog's ``ProcessorFormatter`` is given instead of a message, if it is one."""
    if isinstance(record.msg, dict) and "_logger" in record.__dict__:
        return {key: value for key, value in record.msg.items() if isinstance(key, str) and key not in _STRUCTLOG_OWN}
    return None


def exc_info_of(value: object) -> Any:
    """The triple of ``sys.exc_info`` that ``value`` stands for, as the logging functions take it; else ``None``."""
    if isinstance(value, BaseException):
        return type(value), value, value.__traceback__
    if isinstance(value, tuple):
        return value
    return sys.exc_info() if value else None


def _log_record(
    attributes: dict[str, Any],
    fallen: Context | None,
    time: float,
    level: str,
    levelno: int,
    body: str,
    event_name: str | None = None,
) -> LogRecord:
    return LogRecord(
        timestamp=int(time * 1e9),
        observed_timestamp=time_ns(),
        context=fallen or context.get_current(),
        severity_text=LEVELS.get(level, level),
        severity_number=SeverityNumber(severity(levelno)),
        body=body,
        attributes=attributes,
        event_name=event_name,
    )


def _add_code(attributes: dict[str, Any], file: str, line: int, function: str) -> None:
    attributes[code_attributes.CODE_FILE_PATH] = file
    attributes[code_attributes.CODE_FUNCTION_NAME] = function
    attributes[code_attributes.CODE_LINE_NUMBER] = line


def _add_exception(attributes: dict[str, Any], exc_info: Any) -> BaseException | None:
    if not isinstance(exc_info, tuple) or len(exc_info) != 3 or exc_info[0] is None:
        return None
    kind, error, _trace = exc_info
    attributes[exception_attributes.EXCEPTION_TYPE] = type_text(kind)
    attributes[exception_attributes.EXCEPTION_MESSAGE] = encodable(text_of(error))
    trace = formatted(*exc_info)
    attributes[exception_attributes.EXCEPTION_STACKTRACE] = encodable(trace)
    return error  # type: ignore[no-any-return]


def plain(value: object, depth: int = _DEPTH) -> Any:  # noqa: PLR0911  one return a kind
    """``value`` as something that OTLP can carry; what it cannot becomes its ``repr``. Never raises.

    A container deeper than ``depth`` becomes a mark: the ``repr`` of one that holds another twice, and so on for some
    forty levels, would take hours.
    """
    if isinstance(value, str):
        return encodable(value)
    if value is None or isinstance(value, bool | float | bytes):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    try:
        if isinstance(value, dict):
            return {encodable(str(key)): plain(item, depth - 1) for key, item in value.items()} if depth else DEEPER
        if isinstance(value, list | tuple | set | frozenset):
            return [plain(item, depth - 1) for item in value] if depth else DEEPER
    except Exception:
        return f"<{type_name(value)} that cannot be read>"
    return encodable(text_of(value, repr))


def _body(record: logging.LogRecord) -> str:
    try:
        return encodable(record.getMessage())
    except Exception:  # wrong arguments for the template: logging itself prints an error and goes on
        return encodable(f"{text_of(record.msg)} {text_of(record.args)}")


def encodable(text: str) -> str:
    """``text`` without lone surrogates (from ``os.fsdecode``), which protobuf refuses."""
    if text.isascii():
        return text
    return text.encode("utf-8", "replace").decode()


def _level(host: Host, name: str) -> int:
    if not name:
        return logging.NOTSET
    level = logging.getLevelName(name.upper())
    if isinstance(level, int):
        return level
    host.problem(
        f"otel-perf: OTEL_PYTHON_LOG_HANDLER_LEVEL={name!r} is not a level;"
        " allowed: DEBUG, INFO, WARNING, ERROR, CRITICAL; using NOTSET"
    )
    return logging.NOTSET
