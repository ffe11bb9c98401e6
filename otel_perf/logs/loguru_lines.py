"""loguru: ids in every record's ``extra``, every line exported once, JSON and filters.

The ids are put where loguru calls the core's patcher, in front of the one that the app has: before its own patchers,
which have the last word, whatever ``configure``, ``patch``, ``bind`` or ``add`` it calls before or after. Exported is
what the first handler is given; a line that a handler of the standard library brought to loguru was exported there.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.patches import put
from otel_perf.logs.correlation import CORRELATION_ID, SAMPLED, SERVICE_NAME, SPAN_ID, STAMPS, TRACE_ID
from otel_perf.logs.libraries import Ids, handed

if TYPE_CHECKING:
    from contextlib import ExitStack

    from otel_perf.logs.libraries import Lines

_PENDING: Final = "otel_perf"  # in a record until its first handler has it
_DROPPED: Final = "otel_perf_dropped"
_SERIALIZED: Final = ("StreamSink", "FileSink")  # where JSON takes the place of the format


def install(module: Any, lines: Lines, undo: ExitStack) -> None:
    """Patch the classes of ``loguru._logger``."""
    core, handler = module.Core, module.Handler
    _put_patcher(core, lines, undo)
    if lines.export is not None or lines.keep_line is not None or lines.compose is not None:
        _put_emit(handler, lines, undo)
    if lines.export is not None:
        _put_sink(module.StandardSink, lines, undo)


class _Patcher:
    """In the place of the attribute ``patcher`` of every core, which holds the app's; a pickled core has only that."""

    def __init__(self, patch: Any) -> None:
        self._patch = patch

    def __get__(self, core: Any, kind: Any = None) -> Any:
        if core is None:
            return self
        theirs = vars(core).get("patcher")
        if not theirs:
            return self._patch

        def both(record: Any) -> None:
            self._patch(record)
            theirs(record)

        return both

    def __set__(self, core: Any, patcher: Any) -> None:
        vars(core)["patcher"] = patcher


def _put_patcher(core: Any, lines: Lines, undo: ExitStack) -> None:
    def patch(record: Any) -> None:
        if not lines.on:
            return
        try:
            error = record["exception"]
            ids = Ids(None if error is None else error.value)
            extra = record["extra"]
            trace_id = ids.trace_id or "0"
            extra.setdefault(TRACE_ID, trace_id)
            extra.setdefault(SPAN_ID, ids.span_id or "0")
            extra.setdefault(SAMPLED, ids.sampled)
            extra.setdefault(SERVICE_NAME, lines.service_name)
            extra.setdefault(CORRELATION_ID, ids.correlation or trace_id)
            record[_PENDING] = ids
        except Exception as error:
            lines.guard.handle(error)

    patcher = _Patcher(patch)
    core.patcher = patcher

    def restore() -> None:
        if vars(core).get("patcher") is patcher:
            del core.patcher

    undo.callback(restore)


def _put_emit(handler: Any, lines: Lines, undo: ExitStack) -> None:
    original = vars(handler)["emit"]
    changed: weakref.WeakSet[Any] = weakref.WeakSet()

    def emit(self: Any, record: Any, *arguments: Any, **keywords: Any) -> None:
        try:
            if record.pop(_PENDING, None) is not None and not _first(record, lines):
                record[_DROPPED] = True
            if _DROPPED in record:
                return
            if lines.compose is not None and not self._serialize and type(self._sink).__name__ in _SERIALIZED:
                changed.add(self)
                self._serialize = True
        except Exception as error:
            lines.guard.handle(error)
        original(self, record, *arguments, **keywords)

    def restore() -> None:
        for found in list(changed):
            found._serialize = False

    put(handler, "emit", emit, undo)
    if lines.compose is not None:
        _put_serialize(handler, lines, undo)
        undo.callback(restore)


def _put_serialize(handler: Any, lines: Lines, undo: ExitStack) -> None:
    theirs = vars(handler)["_serialize_record"]

    def serialize_record(text: str, record: Any) -> str:
        try:
            return _compose(record, lines)
        except Exception as error:
            lines.guard.handle(error)
            return theirs.__func__(text, record)  # type: ignore[no-any-return]

    put(handler, "_serialize_record", staticmethod(serialize_record), undo)


def _first(record: Any, lines: Lines) -> bool:
    """A line comes to its first handler: export it; ``False`` if a filter drops it."""
    name, level, file = record["name"] or "loguru", record["level"], record["file"]
    place = (file.path, record["line"], record["function"])
    if lines.keep_line is not None and not lines.keep_line(name, level.no, record["message"], place[:2]):
        return False
    if lines.export is not None and handed.record is None:
        error = record["exception"]
        lines.export.line(
            name=name, time=record["time"].timestamp(), level=level.name, levelno=level.no,
            body=record["message"], attributes=_attributes(record), exc_info=None if error is None else tuple(error),
            place=place,
        )  # fmt: skip
    return True


def _compose(record: Any, lines: Lines) -> str:
    assert lines.compose is not None
    level, extra, error = record["level"], record["extra"], record["exception"]
    # As the app's own patchers left them.
    trace_id, span_id, correlation_id = (_known(extra, key) for key in (TRACE_ID, SPAN_ID, CORRELATION_ID))
    line = lines.compose(
        time=record["time"].timestamp(), level=level.name, levelno=level.no, logger=record["name"] or "loguru",
        message=record["message"], attributes=_attributes(record), error=None if error is None else error.value,
        ids=(trace_id, span_id, bool(extra.get(SAMPLED))), correlation=correlation_id,
        place=(record["file"].path, record["line"], record["function"]),
    )  # fmt: skip
    return f"{line}\n"


def _known(extra: Any, key: str) -> str:
    value = extra.get(key)
    return value if isinstance(value, str) and value != "0" else ""


def _attributes(record: Any) -> dict[str, Any]:
    return {str(key): value for key, value in record["extra"].items() if key not in STAMPS}


def _put_sink(sink: Any, lines: Lines, undo: ExitStack) -> None:
    """A handler of the standard library as a sink: what it hands on to loggers was exported as loguru's line."""
    original, export = vars(sink)["write"], lines.export
    assert export is not None

    def write(self: Any, message: Any) -> None:
        with export.silent():
            original(self, message)

    put(sink, "write", write, undo)
