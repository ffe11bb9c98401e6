"""Translates standard-library records to OpenTelemetry log records and emits them."""

from __future__ import annotations

import logging
import traceback
from contextvars import ContextVar
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context
from opentelemetry._logs import LogRecord, get_logger_provider
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.instrumentation.log_utils import std_to_otel
from opentelemetry.semconv.attributes import code_attributes, exception_attributes

from otel_perf.logs.correlation import STAMPS, context_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.core.feature import Host

# Fields that every record has; the rest are the caller's extras.
_OWN_FIELDS: Final = (
    frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"} | STAMPS
)
_TEXTS: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}
_DEPTH: Final = 4  # levels of nested lists and dicts that are kept as such
_emitting: ContextVar[bool] = ContextVar("otel_perf_emitting", default=False)


def exporter_for(host: Host) -> Callable[[logging.LogRecord], None] | None:
    """The function that exports a record, or ``None`` when the user's variables switch it off."""
    environ = host.environ
    if environ.get("OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION", "true").strip().lower() == "false":
        return None
    with_code = environ.get("OTEL_PYTHON_LOG_CODE_ATTRIBUTES", "").strip().lower() == "true"
    least = _level(host, environ.get("OTEL_PYTHON_LOG_HANDLER_LEVEL", "").strip())

    def export(record: logging.LogRecord) -> None:
        # Our own thread and the exporters log too: a record of theirs would beget the next one.
        if record.levelno < least or _emitting.get() or context.get_value(_SUPPRESS_INSTRUMENTATION_KEY):
            return
        token = _emitting.set(True)
        try:
            get_logger_provider().get_logger(record.name).emit(translate(record, with_code=with_code))
        finally:
            _emitting.reset(token)

    return export


def translate(record: logging.LogRecord, *, with_code: bool = False) -> LogRecord:
    """An OpenTelemetry record with the severity, message, extras and exception of ``record``."""
    attributes: dict[str, Any] = {key: plain(value) for key, value in record.__dict__.items() if key not in _OWN_FIELDS}
    if with_code:
        attributes[code_attributes.CODE_FILE_PATH] = record.pathname
        attributes[code_attributes.CODE_FUNCTION_NAME] = record.funcName
        attributes[code_attributes.CODE_LINE_NUMBER] = record.lineno
    if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
        kind, error, _trace = record.exc_info
        attributes[exception_attributes.EXCEPTION_TYPE] = kind.__name__
        attributes[exception_attributes.EXCEPTION_MESSAGE] = _text(error)
        trace = "".join(traceback.format_exception(*record.exc_info))
        attributes[exception_attributes.EXCEPTION_STACKTRACE] = encodable(trace)
    names = [attributes.pop(key, None) for key in ("otel.event.name", "event.name")]  # as upstream's handler reads them
    event_name = next((name for name in names if isinstance(name, str) and name), None)
    return LogRecord(
        timestamp=int(record.created * 1e9),
        observed_timestamp=time_ns(),
        context=context_of(record) or context.get_current(),
        severity_text=_TEXTS.get(record.levelname, record.levelname),
        severity_number=std_to_otel(record.levelno),
        body=_body(record),
        attributes=attributes,
        event_name=event_name,
    )


def plain(value: object, depth: int = _DEPTH) -> Any:  # noqa: PLR0911  one return a kind
    """``value`` as something that OTLP can carry; what it cannot becomes its ``repr``. Never raises."""
    if isinstance(value, str):
        return encodable(value)
    if value is None or isinstance(value, bool | float | bytes):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    try:
        if depth and isinstance(value, dict):
            return {encodable(str(key)): plain(item, depth - 1) for key, item in value.items()}
        if depth and isinstance(value, list | tuple):
            return [plain(item, depth - 1) for item in value]
        return encodable(repr(value))
    except Exception:
        return f"<{type(value).__name__} whose repr() fails>"


def _body(record: logging.LogRecord) -> str:
    try:
        return encodable(record.getMessage())
    except Exception:  # wrong arguments for the template: logging itself prints an error and goes on
        return encodable(f"{record.msg} {record.args}")


def _text(error: BaseException | None) -> str:
    try:
        return encodable(str(error))
    except Exception:
        return f"<{type(error).__name__} whose str() fails>"


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
