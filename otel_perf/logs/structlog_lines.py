"""structlog: ids in every event, lines that do not go through the standard library exported, JSON and filters.

The one place is ``BoundLoggerBase._process_event``, which every bound logger has, however and whenever it was
configured: nothing of the app's configuration is touched. The ids come into the event before the first processor, so
that the app's own processors see them and have the last word.
"""

from __future__ import annotations

import logging
import time
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.patches import put
from otel_perf.logs.export import exc_info_of
from otel_perf.logs.libraries import Ids, Lines, place_of

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_perf.logs.libraries import Place

# The names that structlog's documentation gives them.
TRACE_ID: Final = "trace_id"
SPAN_ID: Final = "span_id"
CORRELATION_ID: Final = "correlation_id"  # only where it is not the trace id
_LEVELS: Final = {
    "debug": logging.DEBUG, "info": logging.INFO, "msg": logging.INFO, "log": logging.INFO,
    "warning": logging.WARNING, "warn": logging.WARNING, "error": logging.ERROR, "err": logging.ERROR,
    "exception": logging.ERROR, "failure": logging.ERROR, "critical": logging.CRITICAL, "fatal": logging.CRITICAL,
}  # fmt: skip
# What is said by a field of its own, or is for processors only.
_OWN: Final = frozenset({"event", "level", "timestamp", "logger", "exc_info", "exception", "stack_info"})


class _Line:
    """Stands for the bound logger while one event is processed: the base method reads just these three of it."""

    __slots__ = ("_context", "_logger", "_processors", "ids", "last")

    def __init__(self, bound: Any, ids: Ids) -> None:
        self._context = bound._context
        self._logger = bound._logger
        self.ids = ids
        self.last: Any = None
        # The last processor makes the text: what it is given is the event as the app's others left it.
        processors = list(bound._processors)
        processors.insert(max(0, len(processors) - 1), self.look)
        self._processors = processors

    def look(self, _logger: Any, _method: str, event: Any) -> Any:
        """As a processor: keep a copy, since renderers take the event apart."""
        self.last = dict(event) if isinstance(event, dict) else event
        return event


def install(base: Any, lines: Lines, undo: ExitStack) -> None:
    """Put ours in the place of the method, in ``structlog._base``."""
    kind, dropped = base.BoundLoggerBase, base.DropEvent
    original = vars(kind)["_process_event"]
    begin, finish, handle = _begin, _finish, lines.guard.handle

    def process_event(self: Any, method_name: str, event: Any, event_kw: dict[str, Any]) -> Any:
        line, keep = self, True
        try:
            line, keep = begin(lines, self, method_name, event, event_kw)
        except Exception as error:
            handle(error)
        if not keep:
            raise dropped
        result = original(line, method_name, event, event_kw)
        if line is not self:
            try:
                result = finish(lines, line, method_name, result)
            except Exception as error:
                handle(error)
        return result

    # structlog finds the caller by the names of modules: this frame has to count as one of its own.
    ours = FunctionType(
        process_event.__code__, {"__name__": base.__name__, "__builtins__": __builtins__},
        "_process_event", None, process_event.__closure__,
    )  # fmt: skip
    put(kind, "_process_event", ours, undo)


def _begin(lines: Lines, bound: Any, method: str, event: Any, keywords: dict[str, Any]) -> tuple[Any, bool]:
    """Put the ids in. What is processed in the bound logger's place, and whether the line is kept."""
    if not lines.on:
        return bound, True
    ids = Ids(_error_of(keywords.get("exc_info")))
    for key, value in ((TRACE_ID, ids.trace_id), (SPAN_ID, ids.span_id), (CORRELATION_ID, ids.correlation)):
        if value and key not in bound._context:
            keywords.setdefault(key, value)
    if isinstance(bound._logger, logging.Logger | logging.LoggerAdapter):
        return bound, True  # as a record it is exported, filtered and formatted as any other
    if lines.keep_line is not None:
        place, module = _place()
        if not lines.keep_line(module, _LEVELS.get(method, logging.INFO), str(event), place[:2]):
            return bound, False
    return (bound if lines.export is None and lines.compose is None else _Line(bound, ids)), True


def _finish(lines: Lines, line: _Line, method: str, result: Any) -> Any:
    """Export the line; what is printed of it."""
    event, levelno = line.last, _LEVELS.get(method, logging.INFO)
    level = logging.getLevelName(levelno)
    if isinstance(event, dict):
        body, exc_info = str(event.get("event", "")), exc_info_of(event.get("exc_info"))
        ours = {TRACE_ID: line.ids.trace_id, SPAN_ID: line.ids.span_id, CORRELATION_ID: line.ids.correlation}
        attributes = {
            str(key): value
            for key, value in event.items()
            if key not in _OWN and not (key in ours and type(value) is str and value == ours[key])
        }
        if isinstance(event.get("exception"), str):  # format_exc_info made it of exc_info
            attributes["exception.stacktrace"] = event["exception"]
        name = event.get("logger")
    else:  # the text was made before the last processor
        body, exc_info, attributes, name = _text(event), None, {}, None
    place, module = _place()
    name = name if isinstance(name, str) and name else module or "structlog"
    when = time.time()
    if lines.export is not None:
        lines.export.line(
            name=name, time=when, level=level, levelno=levelno, body=body, attributes=attributes, exc_info=exc_info,
            place=place,
        )  # fmt: skip
    as_bytes = type(line._logger).__name__ == "BytesLogger"
    if lines.compose is None or not (as_bytes or type(line._logger).__name__ in {"PrintLogger", "WriteLogger"}):
        return result
    text = lines.compose(
        time=when, level=level, levelno=levelno, logger=name, message=body, attributes=attributes,
        error=_error_of(exc_info), ids=line.ids.triple, correlation=line.ids.correlation or line.ids.trace_id,
        place=place,
    )  # fmt: skip
    return ((text.encode("utf-8", "replace") if as_bytes else text),), {}


def _place() -> tuple[Place, str]:
    """Where the app logged, for ``await log.ainfo(…)`` as well, which makes the line in another thread."""
    try:
        from structlog._frames import _find_first_app_frame_and_name

        frame, module = _find_first_app_frame_and_name(["otel_perf."])
    except Exception:  # a version that has it elsewhere
        return place_of(2)
    return (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name), module


def _error_of(exc_info: object) -> BaseException | None:
    found = exc_info_of(exc_info)
    error = found[1] if isinstance(found, tuple) and len(found) > 1 else None
    return error if isinstance(error, BaseException) else None


def _text(event: object) -> str:
    return event.decode("utf-8", "replace") if isinstance(event, bytes | bytearray) else str(event)
