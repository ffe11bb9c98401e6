"""The request that is served here, from its first line to its access line.

That is longer than there is a span, and so lines before and after it take their ids from the request; those before it
a trace id that is drawn for them, and that the first span then has.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, set_span_in_context

from otel_perf.core.ids import KEY, SPAN_KEY, attach, detach, explicit, given, now, span_of
from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.sdk._logs import ReadWriteLogRecord
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from otel_perf.core.guard import Guard

_SERVER: Final = SpanKind.SERVER  # looking it up costs as much as the comparison


class Request:
    """One request, for as long as a server is at it. Any of its threads may read it."""

    def __init__(self, ambient: Context) -> None:
        self.ambient = ambient  # the context that the server itself runs in
        self.headers: Callable[[], Mapping[str, str]] | None = None  # by lower-case name; None: not seen yet
        self.correlation = ""  # what its headers gave
        self.span: SpanContext | None = None  # of its server's span, or of the first one
        self.has_server_span = False
        self.taken = False  # a span has the trace id that was drawn for it
        self.left: tuple[Any, Context] | None = None  # attached beneath what the app has left attached for its body
        self.goes_on = False  # its body is made after the server's call, and told when it is closed
        self._reader = 0  # the thread that reads the headers
        self._context: tuple[Any, Context] | None = None

    def context(self) -> Context | None:
        """The ids of the request as a context; ``None`` while nothing is known of it. 0.2 µs once it is made."""
        span = self.span or self._before_the_span()
        known = self._context
        if known is not None and known[0] is span:
            return known[1]
        if span is None and not self.correlation:
            return None
        context = self.ambient if span is None else set_span_in_context(NonRecordingSpan(span), self.ambient)
        if self.correlation:
            context = given(self.correlation, context)
        self._context = (span, context)
        return context

    def _before_the_span(self) -> SpanContext | None:
        """The caller's ids, or the trace id that the request's first span is going to have, or has (unsampled)."""
        drawn: SpanContext | None = vars(self).get("drawn")
        # Whoever reads headers may log (W3C's baggage does, of what is none), and that line asks again.
        if drawn is None and self.headers is not None and self._reader != get_ident():
            self._reader = get_ident()
            drawn = self._of_caller()
            self._reader = 0
            if drawn is None and (draw := _drawing.draw) is not None:
                drawn = SpanContext(draw(), 0, is_remote=False)
            if drawn is not None:
                drawn = vars(self).setdefault("drawn", drawn)  # one step of the interpreter's: one thread wins
        return drawn

    def _of_caller(self) -> SpanContext | None:
        if self.headers is None:
            return None
        try:  # the app's threads and executors ask for it as well, and a propagator may be anybody's, or none
            from opentelemetry.propagate import extract

            context = extract(self.headers(), context=context_api.Context())
        except Exception:
            return None
        self.correlation = self.correlation or explicit(context)  # its baggage may have one
        return span_of(context)

    def trace_id_for_root(self, draw: Callable[[], int]) -> int:
        """The trace id of a root span: for the first one the id that lines have already."""
        if self.taken or self.span is not None:
            return draw()
        self.taken = True
        drawn = self._before_the_span()
        if drawn is None:  # its headers are not known: what a span has, its lines have from now on
            drawn = vars(self).setdefault("drawn", SpanContext(draw(), 0, is_remote=False))
        return draw() if drawn.is_remote else drawn.trace_id


class _Drawing:
    """Where trace ids are drawn; nothing is as long as no SDK of ours is there."""

    def __init__(self) -> None:
        self.draw: Callable[[], int] | None = None


_drawing: Final = _Drawing()
request: Final[ContextVar[Request | None]] = ContextVar("otel_perf_request", default=None)


def fallback() -> Context | None:
    """The context of the request that is served here, for where no span is current."""
    served = request.get()
    return None if served is None else served.context()


def carried() -> Context:
    """The context that work started here goes on in: the current one, or the request's where no span is current."""
    context = now()
    if request.get() is not None and span_of(context) is None:
        return fallback() or context
    return context


def begin_request() -> tuple[Any, Any]:
    """A server begins with a request: the tokens for :func:`end_request`.

    asyncio hands a callback the context of whoever registered it. A connection that goes on reading from within a
    request thereby gives the next one its context (CPython's #140947): where that shows, the server's own is put back.
    """
    before = request.get()
    if before is None:
        return request.set(Request(now())), None
    return request.set(Request(before.ambient)), attach(before.ambient)


def end_request(tokens: tuple[Any, Any]) -> None:
    """The server is done with it, its last line included.

    What the app has left attached is put away, unless a body goes on in it: the server's next request begins with the
    server's context.
    """
    ours, theirs = tokens
    served = request.get()
    if theirs is not None:
        detach(theirs)
    elif served is not None and not served.goes_on and now() is not served.ambient:
        attach(served.ambient)
    with suppress(ValueError):
        request.reset(ours)


def draw_with(generator: Any) -> Callable[[], None]:
    """Let ``generator`` give the trace id that a request's lines have already to its first root span.

    0.1 µs a root span. The returned function undoes it. AttributeError if the generator cannot be changed.
    """
    original: Callable[[], int] = generator.generate_trace_id

    def generate_trace_id() -> int:
        served = request.get()
        return original() if served is None else served.trace_id_for_root(original)

    generator.generate_trace_id = generate_trace_id
    _drawing.draw = original

    def undo() -> None:
        _drawing.draw = None
        if vars(generator).get("generate_trace_id") is generate_trace_id:
            del generator.generate_trace_id

    return undo


class RequestProcessor:
    """A span processor: tells a request its span, and a local root its given correlation id. 0.2 µs a span."""

    def __init__(self) -> None:
        self.active = False

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note the ids."""
        if not self.active:
            return
        parent, found, served = span.parent, "", request.get()
        if parent is None or parent.is_remote:
            found = explicit(now() if parent_context is None else parent_context)
            if not found and served is not None:
                found = served.correlation  # of a body that is made after the app's call, for one
            if found:
                span.set_attribute(KEY, found)
        if served is not None and not served.has_server_span:
            is_server = span.kind is _SERVER
            if is_server or served.span is None:
                served.correlation = served.correlation or found  # the caller's baggage may have one
                served.span = span.context
                served.has_server_span = is_server

    def _on_ending(self, span: Span) -> None:
        """Nothing."""

    def on_end(self, span: ReadableSpan) -> None:
        """Nothing."""

    def shutdown(self) -> None:
        """Nothing."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing to flush."""
        return True


class RecordProcessor:
    """A log-record processor: every record and event, whoever emits it, has the ids of its work. 0.4 µs a record.

    A given id is an attribute; the trace id stands in the record already, unless no span was current in the request.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.active = False

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Add them."""
        if not self.active:
            return
        try:
            record = log_record.log_record
            context = record.context or now()
            if not record.trace_id and (fallen := fallback()) is not None:
                context = fallen
                span: Any = context.get(SPAN_KEY)
                if span is not None:
                    ids = span.get_span_context()
                    record.trace_id, record.span_id, record.trace_flags = ids.trace_id, ids.span_id, ids.trace_flags
            found = explicit(context)
            attributes: Any = record.attributes
            if found and KEY not in attributes:
                attributes[KEY] = found
        except Exception as error:
            self._guard.handle(error)

    def on_event(self, event: Any) -> None:
        """Add them to an event of ours (:class:`otel_perf.logs.emit.Event`)."""
        if not self.active:
            return
        try:
            context = event.context
            if not event.ids[0] and (fallen := fallback()) is not None:
                context = fallen
                span: Any = context.get(SPAN_KEY)
                if span is not None:
                    event.ids = span.get_span_context()
            found = explicit(context)
            if found and KEY not in event.attributes:
                event.attributes[KEY] = found
        except Exception as error:
            self._guard.handle(error)

    def shutdown(self) -> None:
        """Nothing."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing to flush."""
        return True
