"""What a decision asks of a line: a record of the standard library's, or a line of another library's."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace

from otel_perf.core.chance import chance
from otel_perf.logs.correlation import context_of
from otel_perf.logs.rules import TRACE_BITS

if TYPE_CHECKING:
    from logging import LogRecord

_PLAIN: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None)))
_FIELDS: Final = _PLAIN | {"message", "asctime", "taskName"}
_NUMBER: Final = len(_PLAIN)


class Line:
    """A line of structlog's or loguru's. Those of the standard library are their record."""

    __slots__ = ("created", "levelno", "message", "name", "place", "template")

    def __init__(
        self, name: str, levelno: int, template: str, place: tuple[str, int], message: str | None, now: float
    ) -> None:
        self.name = name
        self.levelno = levelno
        self.template = template
        self.place = place
        self.message = message  # all of it but its time, if that is known
        self.created = now


def text_of(line: LogRecord | Line) -> object:
    """What tells it from others of its place, where that logs various texts."""
    return line.template if isinstance(line, Line) else line.msg


def place_of(line: LogRecord | Line) -> tuple[str, int, str]:
    """File, line and function."""
    return (*line.place, "") if isinstance(line, Line) else (line.pathname, line.lineno, line.funcName)


def identity_of(line: LogRecord | Line) -> tuple[int, str] | None:
    """A hash of all that lines have to share to be folded, and the message; ``None`` if it cannot be told."""
    if isinstance(line, Line):
        return None if line.message is None else (hash(line.message), line.message)
    try:
        message = line.getMessage()
        if len(line.__dict__) == _NUMBER and not line.exc_info:
            return hash(message), message
        rest = [f"{key}={value!r}" for key, value in line.__dict__.items() if key not in _FIELDS]
        if type(line.exc_info) is tuple:
            rest.append(repr(line.exc_info[1]))
    except Exception:  # the app's own repr() or str(), or wrong arguments
        return None
    return hash((message, *rest)), message


def is_sampled(bound: int, line: LogRecord | Line) -> bool:
    """Whether the low 64 bits of the line's trace id are less than ``bound``; without a trace by chance. 0.5 µs."""
    if bound > TRACE_BITS:
        return True
    span: Any = trace.get_current_span()
    enclosing = getattr(span, "enclosing", None)
    if enclosing is None and not isinstance(line, Line):  # to ask a lazy one for its ids makes it real
        span = trace.get_current_span(context_of(line))
        enclosing = getattr(span, "enclosing", None)
    context = (span if enclosing is None else enclosing()).get_span_context()
    if enclosing is not None and not context.is_valid:
        context = span.get_span_context()  # a lazy one at the top: its trace begins now
    number = context.trace_id & TRACE_BITS if context.is_valid else chance.getrandbits(64)
    return number < bound
