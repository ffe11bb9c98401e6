"""Stamps records with the ids of the current span and passes them to the exporter.

The one place is ``logging.Logger.callHandlers``: it runs once for each record that its logger kept, for
loggers that do not propagate as well (uvicorn's), and needs no handler on the root logger, which would
silence ``logging.lastResort`` and turn a later ``basicConfig`` into nothing. Upstream's record factory
runs for records that are then dropped, and asks for the current span each time.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from os import getpid
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.ids import SPAN_KEY, explicit, now, span_of
from otel_perf.core.origin import origin_of
from otel_perf.core.served import fallback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import ExitStack

    from opentelemetry.context import Context

    from otel_perf.core.feature import Host
    from otel_perf.core.guard import Guard
    from otel_perf.logs import libraries

# The names that instrumentation-logging gives them, which formats in the wild already use.
TRACE_ID: Final = "otelTraceID"
SPAN_ID: Final = "otelSpanID"
SAMPLED: Final = "otelTraceSampled"
SERVICE_NAME: Final = "otelServiceName"
CORRELATION_ID: Final = "otelCorrelationID"  # ours: the trace id, or the id that the work was given
STAMPS: Final = frozenset({TRACE_ID, SPAN_ID, SAMPLED, SERVICE_NAME, CORRELATION_ID})

DEFAULT_FORMAT: Final = (
    "%(asctime)s %(levelname)s [%(name)s] [%(filename)s:%(lineno)d] "
    "[trace_id=%(otelTraceID)s span_id=%(otelSpanID)s resource.service.name=%(otelServiceName)s "
    "trace_sampled=%(otelTraceSampled)s] - %(message)s"
)
_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def context_for(error: object) -> Context | None:
    """The context of a line that is logged with ``error`` where no span is current; ``None`` if there is none.

    Servers log an error of the app after its span has ended, outside of its context, and their access lines too: of
    the span that the error ended, or else of the request that is served.
    """
    if span_of(now()) is not None:
        return None
    if isinstance(error, BaseException) and (origin := origin_of(error)) is not None:
        return origin
    return fallback()


def context_of(record: logging.LogRecord) -> Context | None:
    """As :func:`context_for`, of a record."""
    exc_info = record.exc_info
    return context_for(exc_info[1] if isinstance(exc_info, tuple) and len(exc_info) == 3 else None)


def is_from_elsewhere(fields: Mapping[str, Any]) -> bool:
    """Whether a record was stamped and exported where it was made: it came through a queue or a socket.

    Upstream's ids alone do not say so in the process that made it: its record factory puts them on every record, if the
    app has it installed.
    """
    return CORRELATION_ID in fields or (TRACE_ID in fields and fields.get("process") != getpid())


_KNOWN: Final = "_otel_perf_stamps"  # attribute of a context: what it puts on records, which never changes
_last: Final[list[tuple[Any, str, str, bool]]] = [(None, "0", "0", False)]


def texts_of(ids: Any) -> tuple[Any, str, str, bool]:
    """A span context, its trace id and span id as text (``"0"`` for what there is not), and whether it is sampled."""
    texts = _last[0]
    if texts[0] is not ids:  # the lines of one span follow each other; a span context never changes
        texts = _last[0] = (ids, *_as_texts(ids))
    return texts


def _as_texts(ids: Any) -> tuple[str, str, bool]:
    if ids is None or not ids.trace_id:
        return "0", "0", False
    # Four times as fast as formatting large numbers. Work that has no span yet may have a trace id.
    span_id = ids.span_id.to_bytes(8, "big").hex() if ids.span_id else "0"
    return ids.trace_id.to_bytes(16, "big").hex(), span_id, ids.trace_flags.sampled


def stamp(record: logging.LogRecord, service_name: str) -> bool:
    """Put the ids of its work on ``record``; ``False`` for one that came from elsewhere with its own. 0.4 µs."""
    fields = record.__dict__
    if (CORRELATION_ID in fields or TRACE_ID in fields) and is_from_elsewhere(fields):
        return False
    context = now()
    stamps = getattr(context, _KNOWN, None) or _stamps(context, record)
    fields[TRACE_ID], fields[SPAN_ID], fields[SAMPLED], correlation = stamps
    fields[SERVICE_NAME] = service_name
    fields[CORRELATION_ID] = correlation  # the last one: see json_format
    return True


def _stamps(context: Context, record: logging.LogRecord) -> tuple[str, str, bool, str]:
    """Trace id, span id, whether it is sampled, correlation id. 0.8 µs."""
    span: Any = context.get(SPAN_KEY)
    ids = None if span is None else span.get_span_context()
    if ids is not None and ids.is_valid:
        _, trace_id, span_id, sampled = texts_of(ids)
        stamps = trace_id, span_id, sampled, explicit(context) or trace_id
        with suppress(AttributeError):  # a context that takes none
            setattr(context, _KNOWN, stamps)
        return stamps
    context = context_of(record) or context
    span = context.get(SPAN_KEY)
    _, trace_id, span_id, sampled = texts_of(None if span is None else span.get_span_context())
    return trace_id, span_id, sampled, explicit(context) or trace_id


def install(
    host: Host,
    guard: Guard,
    undo: ExitStack,
    *,
    compose: libraries.Compose | None = None,
    keep_line: libraries.KeepLine | None = None,
) -> None:
    """Stamp and export every record from now on. ``compose`` and ``keep_line`` are for structlog and loguru."""
    from otel_perf.logs import libraries, upstream_handlers
    from otel_perf.logs.export import exporter_for
    from otel_perf.logs.filters import keep

    export = exporter_for(host)
    upstream_handlers.install(export, guard, undo)
    service_name = host.service_name
    watched, handed = libraries.watched, libraries.handed
    original = logging.Logger.callHandlers
    active = [True]

    def call_handlers(self: logging.Logger, record: logging.LogRecord) -> None:
        if active:
            try:
                if not keep(record):
                    return
                if stamp(record, service_name) and export is not None:
                    export(record)
            except Exception as error:  # the guard's with-statement costs more than the try
                guard.handle(error)
        if not watched:
            original(self, record)
            return
        before, handed.record = handed.record, record
        try:
            original(self, record)
        finally:
            handed.record = before

    # Code that looks for the caller of a logging function skips the frames whose file is logging's own
    # (findCaller, and the recipe that hands records to loguru); ours has to count as one of them.
    call_handlers.__code__ = call_handlers.__code__.replace(co_filename=original.__code__.co_filename)
    logging.Logger.callHandlers = call_handlers  # type: ignore[method-assign]

    def restore() -> None:
        active.clear()
        if logging.Logger.callHandlers is call_handlers:
            logging.Logger.callHandlers = original  # type: ignore[method-assign]

    undo.callback(restore)
    if host.environ.get("OTEL_PYTHON_LOG_CORRELATION", "").strip().lower() == "true":
        _format_root(host.environ, undo)
    libraries.install(libraries.Lines(guard, service_name, export, keep_line, compose), undo)


def _format_root(environ: Mapping[str, str], undo: ExitStack) -> None:
    """``OTEL_PYTHON_LOG_CORRELATION=true``: a root handler with the ids, until the app sets up its own.

    Upstream calls ``basicConfig`` here and so makes the app's own call do nothing. Ours steps back.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    level = root.level
    form = environ.get("OTEL_PYTHON_LOG_FORMAT") or DEFAULT_FORMAT
    ours = logging.StreamHandler()
    ours.setFormatter(logging.Formatter(form))
    root.addHandler(ours)
    root.setLevel(_LEVELS.get(environ.get("OTEL_PYTHON_LOG_LEVEL", "").strip().lower(), logging.INFO))
    original: Callable[..., None] = logging.basicConfig

    def step_back() -> None:
        if ours in root.handlers:
            root.removeHandler(ours)
            root.setLevel(level)

    def basic_config(**kwargs: Any) -> None:
        step_back()
        original(**kwargs)

    def restore() -> None:
        step_back()
        if logging.basicConfig is basic_config:
            logging.basicConfig = original

    logging.basicConfig = basic_config
    undo.callback(restore)
