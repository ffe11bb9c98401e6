"""What lines of structlog and loguru have in common with records: ids, export, filters, JSON."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Any, Final, Protocol

from otel_perf.core.ids import SPAN_KEY, explicit, now
from otel_perf.core.records import entity
from otel_perf.logs.correlation import context_for, texts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from otel_perf.core.guard import Guard
    from otel_perf.logs.export import Exporter

    Place = tuple[str, int, str]  # file, line, function
    KeepLine = Callable[[str, int, str, tuple[str, int]], bool]  # logger, level, template, file and line

LIBRARIES: Final = {"structlog._base": "structlog_lines", "loguru._logger": "loguru_lines"}
_OURS: Final = ("otel_perf.", "structlog")  # modules whose frames are no place of the app's


class Compose(Protocol):
    """:meth:`otel_perf.logs.json_format.Encoder.compose`."""

    def __call__(  # noqa: PLR0913
        self,
        *,
        time: float,
        level: str,
        levelno: int,
        logger: str,
        message: str,
        attributes: Mapping[str, object],
        error: BaseException | None,
        ids: tuple[str, str, bool],
        correlation: str,
        place: Place,
    ) -> str:
        """The line."""
        ...


@entity
class Lines:
    """What is done with each line. ``compose`` and ``keep_line`` are there only if asked for."""

    guard: Guard
    service_name: str
    export: Exporter | None = None
    keep_line: KeepLine | None = None
    compose: Compose | None = None
    on: bool = True


class Ids:
    """The ids of a line, as text; ``""`` for what there is not. 0.8 µs."""

    __slots__ = ("correlation", "sampled", "span_id", "trace_id")

    def __init__(self, error: object = None) -> None:
        context = context_for(error) or now()
        span: Any = context.get(SPAN_KEY)
        _, trace_id, span_id, self.sampled = texts_of(None if span is None else span.get_span_context())
        self.trace_id = "" if trace_id == "0" else trace_id
        self.span_id = "" if span_id == "0" else span_id
        self.correlation = explicit(context)

    @property
    def triple(self) -> tuple[str, str, bool]:
        """Trace id, span id, sampled."""
        return self.trace_id, self.span_id, self.sampled


class _Handed(threading.local):
    """The record of the standard library that this thread hands to its handlers: some hand it on to loguru."""

    record: object = None


handed: Final = _Handed()
watched: Final[list[str]] = []  # the libraries that are imported: without one nobody has to know of the record


def install(lines: Lines, undo: ExitStack) -> None:
    """Follow each library from when the app imports it."""
    from importlib import import_module

    from otel_perf.core.patches import on_import

    def begin(library: str, module: str) -> Callable[[Any], None]:
        def imported(found: Any) -> None:
            watched.append(library)
            undo.callback(watched.remove, library)
            import_module(f"otel_perf.logs.{module}").install(found, lines, undo)

        return imported

    undo.callback(setattr, lines, "on", False)
    for library, module in LIBRARIES.items():
        on_import(library, begin(library, module), undo, lines.guard)


def place_of(depth: int) -> tuple[Place, str]:
    """File, line, function and module of the nearest frame of the app, ``depth`` frames up at least. About 0.5 µs."""
    frame: Any = sys._getframe(depth)
    while frame is not None:
        module = frame.f_globals.get("__name__") or ""
        if not module.startswith(_OURS):
            code = frame.f_code
            return (code.co_filename, frame.f_lineno, code.co_name), module
        frame = frame.f_back
    return ("", 0, ""), ""
