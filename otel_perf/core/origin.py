"""Remembers in which span an exception was raised.

When an uncaught exception reaches ``sys.excepthook``, or the line with which a server logs it, its span has
ended and its context is gone, with the correlation id that the work was given. So a span that ends because of
an exception leaves its ids on the exception; the innermost span comes first.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    StatusCode,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)

from otel_perf.core.ids import KEY, checked, explicit, given, now

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

# A plain tuple of ints and a text, so that the exception can still be pickled to a process without OpenTelemetry.
ATTRIBUTE: Final = "__otel_perf_span__"


class OriginProcessor:
    """A span processor; costs a status check for every span that ends well."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing."""

    def _on_ending(self, span: Span) -> None:
        """Nothing."""

    def on_end(self, span: ReadableSpan) -> None:
        """Leave the span's ids on the exception that is on its way through it."""
        if span.status.status_code is not StatusCode.ERROR:
            return
        error = sys.exc_info()[1]
        context = span.context
        if error is None or context is None:
            return
        with contextlib.suppress(Exception):  # __slots__, or a class that forbids attributes
            known = getattr(error, ATTRIBUTE, None)
            if known is None or known[0] != context.trace_id:  # one exception may be raised again elsewhere
                # A request's id that came as baggage is in the context no more where its server's span ends.
                correlation_id = explicit(now()) or checked((span.attributes or {}).get(KEY))
                ids = (context.trace_id, context.span_id, int(context.trace_flags), correlation_id)
                setattr(error, ATTRIBUTE, ids)

    def shutdown(self) -> None:
        """Nothing."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Nothing to flush."""
        return True


def origin_of(error: BaseException | None) -> Context | None:
    """The context of the span that ``error`` ended, or ``None`` if a span is current or none is known."""
    if get_current_span().get_span_context().is_valid:
        return None
    ids = getattr(error, ATTRIBUTE, None)
    if ids is None:
        return None
    trace_id, span_id, flags, correlation_id = ids
    context = set_span_in_context(NonRecordingSpan(SpanContext(trace_id, span_id, False, TraceFlags(flags))))
    return given(correlation_id, context) if correlation_id else context
