"""What a line says, taken from a record with every part guarded: the slow and sure way, for both formats."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.instrumentation.log_utils import std_to_otel
from opentelemetry.trace import format_span_id, format_trace_id

from otel_perf.core.records import entity
from otel_perf.logs.correlation import CORRELATION_ID, SAMPLED, SERVICE_NAME, SPAN_ID, STAMPS, TRACE_ID
from otel_perf.logs.plain_values import text_of, type_name
from otel_perf.logs.secret_keys import words_of
from otel_perf.logs.tracebacks import formatted

if TYPE_CHECKING:
    from collections.abc import Mapping

NOISE: Final = "color_message"
HANDED: Final = "_otelHanded"  # what a queue's handler leaves out of the copy of a record: message, exception, stack
# Fields of every record, in the order in which LogRecord makes them, and what formatters leave behind.
FIRST: Final = (
    "name", "msg", "args", "levelname", "levelno", "pathname", "filename", "module", "exc_info", "exc_text",
    "stack_info", "lineno", "funcName", "created", "msecs", "relativeCreated", "thread", "threadName", "processName",
    "process",
)  # fmt: skip
OWN: Final = frozenset(FIRST) | {"message", "asctime", "taskName", HANDED} | STAMPS
LEVELS: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}  # as they are exported
_THREE: Final = [f"{number:03d}" for number in range(1000)]  # four times as fast as formatting six digits
_EVENT: Final = ("event", "message", "msg")  # keys of a message that is a dict


class Clock:
    """Seconds since the epoch as RFC 3339 text in UTC. Thread-safe; 0.2 µs within one second."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: tuple[int | None, str] = (None, "")

    def text(self, seconds: float) -> str:
        """Such as ``2026-11-26T02:20:57.123456Z``. Raises ``ValueError`` or ``OverflowError`` for no time at all."""
        whole = int(seconds)
        last = self._last
        if last[0] != whole:
            made = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(whole))
            if seconds < 0 or len(made) != 20:
                raise ValueError("not a time of this era")
            self._last = last = (whole, made)
        micros = int((seconds - whole) * 1e6)
        return f"{last[1]}{_THREE[micros // 1000]}{_THREE[micros % 1000]}Z"

    def sure(self, seconds: object) -> str:
        """The same, or the time now if ``seconds`` is none."""
        try:
            return self.text(float(seconds))  # type: ignore[arg-type]
        except Exception:
            return self.text(time.time())


@entity
class Parts:
    """One line. Nothing of it needs to be what its type says: whoever reads it makes sure."""

    time: Any
    level: Any
    levelno: Any
    logger: Any
    message: str
    attributes: Mapping[Any, Any]
    service: Any
    ids: tuple[Any, Any, Any] = ("", "", False)
    correlation: Any = ""
    place: tuple[Any, Any, Any] = ("", 0, "")
    process: Any = None
    thread: Any = None
    thread_name: Any = None
    event: str = ""
    error: tuple[str, str, str] = ("", "", "")  # type, message, stack trace
    stack: str = ""


def is_noise(key: str, logger: object) -> bool:
    """Whether an extra says nothing: uvicorn repeats each message with the codes of colours."""
    return key == NOISE and type(logger) is str and logger.startswith("uvicorn")


def of_record(record: logging.LogRecord, service: str) -> Parts:
    """The parts of ``record``. Never raises."""
    fields = record.__dict__
    message, said = _message(record)
    error, stack = error_of(fields.get("exc_info"), fields.get("exc_text")), text_of(fields.get("stack_info") or "")
    if HANDED in fields and any(handed := _texts(fields[HANDED])):
        message, error, stack = handed[0], handed[1:4], handed[4]
    name = fields.get("name")
    attributes = {
        key: value for key, value in fields.items() if type(key) is not str or not (key in OWN or is_noise(key, name))
    }
    attributes.update(said)
    if TRACE_ID in fields:
        ids: tuple[Any, Any, Any] = (fields[TRACE_ID], fields.get(SPAN_ID), fields.get(SAMPLED))
    else:
        ids = _current()  # a handler that was called by hand
    correlation = fields.get(CORRELATION_ID) or ids[0]
    if "_logger" in attributes and type(fields.get("msg")) is dict:
        error = _of_structlog(attributes, (*ids[:2], correlation)) or error
    return Parts(
        time=fields.get("created"),
        level=fields.get("levelname"),
        levelno=fields.get("levelno"),
        logger=name,
        message=message,
        attributes=attributes,
        service=fields.get(SERVICE_NAME, service),
        ids=ids,
        correlation=correlation,
        place=(fields.get("pathname"), fields.get("lineno"), fields.get("funcName")),
        process=fields.get("process"),
        thread=fields.get("thread"),
        thread_name=fields.get("threadName"),
        error=error,
        stack=stack,
    )


_STRUCTLOG: Final = words_of("_logger _name _record _from_structlog level timestamp logger")


def _of_structlog(attributes: dict[Any, Any], ids: tuple[Any, Any, Any]) -> tuple[str, str, str] | None:
    """Take out what structlog says for its own formatter, or what the line says anyway; return the exception."""
    for key in _STRUCTLOG:
        attributes.pop(key, None)
    for key, ours in zip(("trace_id", "span_id", "correlation_id"), ids, strict=True):
        theirs = attributes.get(key)
        if type(theirs) is str and theirs == ours:
            del attributes[key]
    text, exc_info = attributes.pop("exception", None), attributes.pop("exc_info", None)
    if exc_info is True or exc_info == 1:
        exc_info = sys.exc_info()
    found = error_of(exc_info, text)
    return found if any(found) else None


def hand(record: logging.LogRecord, copy: Any) -> None:
    """Leave on ``copy`` what the text that a queue's handler made of ``record`` no longer tells apart."""
    if record.exc_info or record.stack_info:
        message, _ = _message(record)
        error = error_of(record.exc_info, record.exc_text)
        copy.__dict__[HANDED] = (message, *error, text_of(record.stack_info or ""))


def _texts(handed: Any) -> tuple[str, str, str, str, str]:
    if type(handed) in {tuple, list} and len(handed) == 5 and all(type(text) is str for text in handed):
        return tuple(handed)
    return "", "", "", "", ""


def of_line(  # noqa: PLR0913  an interface of keywords
    *, time: float, level: str, levelno: int, logger: str, message: str, attributes: Mapping[str, object],
    error: BaseException | None, ids: tuple[str, str, bool], correlation: str, place: tuple[str, int, str],
    service: str,
) -> Parts:  # fmt: skip
    """The parts of a line that is no record of the standard library's; made in the thread that logs."""
    parts = Parts(
        time=time, level=level, levelno=levelno, logger=logger, message=text_of(message), attributes=attributes,
        service=service, ids=ids, correlation=correlation, place=place, process=os.getpid(),
        thread=threading.get_ident(), thread_name=threading.current_thread().name,
    )  # fmt: skip
    if error is not None:
        parts.error = error_of((type(error), error, getattr(error, "__traceback__", None)), None)
    return parts


def _current() -> tuple[str, str, bool]:
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return "", "", False
    return format_trace_id(context.trace_id), format_span_id(context.span_id), context.trace_flags.sampled


def _message(record: logging.LogRecord) -> tuple[str, Mapping[Any, Any]]:
    """The text, and what a message that is a dict says beside it."""
    said = record.__dict__.get("msg")
    if type(said) is dict and not record.__dict__.get("args"):
        rest = dict(said)
        return next((text_of(rest.pop(key)) for key in _EVENT if key in rest), ""), rest
    try:
        return text_of(record.getMessage()), {}
    except Exception:  # wrong arguments for the template
        args = record.__dict__.get("args")
        return (f"{text_of(said)} {text_of(args)}" if args else text_of(said)), {}


def type_text(kind: object) -> str:
    """The name of an exception's type as the conventions have it: with its module, unless it is a built-in one."""
    try:
        module, name = kind.__module__, kind.__qualname__  # type: ignore[attr-defined]
        return text_of(name if module == "builtins" else f"{module}.{name}")
    except Exception:
        return type_name(kind)


def error_of(exc_info: object, exc_text: object) -> tuple[str, str, str]:
    """Type, message and stack trace; ``""`` for what there is not."""
    if isinstance(exc_info, BaseException):
        exc_info = (type(exc_info), exc_info, exc_info.__traceback__)
    if not isinstance(exc_info, tuple) or len(exc_info) != 3 or exc_info[0] is None:
        return "", "", text_of(exc_text or "")  # a record that was pickled has only the text
    kind, error, frames = exc_info
    try:
        stack = formatted(kind, error, frames)
    except Exception:
        stack = ""
    return type_text(kind), "" if error is None else text_of(error), stack


def severity(levelno: object) -> int:
    """The number that OpenTelemetry has for a level of the standard library; 0 for what is none."""
    try:
        number = int(levelno)  # type: ignore[call-overload]
        return 1 if 0 < number < logging.DEBUG else int(std_to_otel(number).value)  # 1: TRACE, which logging has not
    except Exception:
        return 0
