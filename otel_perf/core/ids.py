"""What a context says of the work in it: its span, and the correlation id that it was given.

A given id is an entry of W3C baggage, so that it goes wherever the OpenTelemetry context goes.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry.baggage import _BAGGAGE_KEY, set_baggage
from opentelemetry.trace.propagation import _SPAN_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext

KEY: Final = "perf.correlation.id"  # the entry of the baggage, and the attribute of spans and log records
LIMIT: Final = 128  # characters of an id

# The context API in front of its ContextVar costs 0.1 µs a call; another runtime than the default one keeps it.
_variable: Any = getattr(context_api._RUNTIME_CONTEXT, "_current_context", None)
now: Callable[[], Context] = _variable.get if _variable is not None else context_api.get_current
attach: Callable[[Context], Any] = _variable.set if _variable is not None else context_api.attach
_detach: Callable[[Any], None] = _variable.reset if _variable is not None else context_api._RUNTIME_CONTEXT.detach
SPAN_KEY: Final = _SPAN_KEY


def detach(token: Any) -> None:
    """Undo :func:`attach`; one that was made in another context (a coroutine that others stepped) is left."""
    with suppress(ValueError):
        _detach(token)


def checked(value: object) -> str:
    """``value`` as an id, or ``""`` if it cannot be one: an id is 1 to 128 printable ASCII characters. 0.2 µs."""
    if isinstance(value, str) and value.isascii():
        value = value.strip()
        if 0 < len(value) <= LIMIT and value.isprintable():
            return value
    return ""


def explicit(context: Context) -> str:
    """The id that the work of ``context`` was given, or ``""``. 0.1 µs where there is no baggage."""
    baggage = context.get(_BAGGAGE_KEY)
    return checked(baggage.get(KEY)) if baggage and isinstance(baggage, dict) else ""


def span_of(context: Context) -> SpanContext | None:
    """The ids of the current span of ``context``, if it has one."""
    span: Any = context.get(SPAN_KEY)
    if span is None:
        return None
    ids: SpanContext = span.get_span_context()
    return ids if ids.is_valid else None


def given(correlation_id: str, context: Context) -> Context:
    """``context`` with ``correlation_id`` in its baggage."""
    return set_baggage(KEY, correlation_id, context)
