"""The given correlation id in the headers of what comes in and goes out, wherever an instrumentor reads or writes them.

It stands in front of the propagators that are configured: every server's and worker's instrumentor asks for the context
of a carrier here, every client's and producer's writes its headers here. So the id is in the baggage of whatever span
begins, and httpx, requests, urllib3, aiohttp, gRPC and celery send it on as ``X-Request-ID`` beside the baggage.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import propagate
from opentelemetry.baggage import get_baggage, remove_baggage
from opentelemetry.propagators.textmap import TextMapPropagator, default_getter, default_setter

from otel_perf.core.ids import KEY, checked, explicit, given, now
from otel_perf.core.served import request

if TYPE_CHECKING:
    from contextlib import ExitStack

    from opentelemetry.context import Context

    from otel_perf.core.guard import Guard

HEADERS: Final = ("x-request-id", "x-correlation-id")  # in the order in which they are believed
SENT: Final = "X-Request-ID"


class CorrelationPropagator(TextMapPropagator):
    """The configured propagators, and the id. 1 µs a request that comes in, and as much for one that goes out."""

    def __init__(self, inner: TextMapPropagator, guard: Guard) -> None:
        self._inner = inner
        self._guard = guard
        self.active = True

    def extract(self, carrier: Any, context: Context | None = None, getter: Any = default_getter) -> Context:
        """The context of a carrier: a header's id takes the place of the baggage's; what is no id is left out."""
        found = self._inner.extract(carrier, context, getter)
        if self.active:
            try:
                return self._with_id(found, carrier, getter)
            except Exception as error:
                self._guard.handle(error)
        return found

    def _with_id(self, context: Context, carrier: Any, getter: Any) -> Context:
        for header in HEADERS:
            values = getter.get(carrier, header)
            if values and (found := checked(values if isinstance(values, str) else next(iter(values), None))):
                return given(found, context)
        sent = get_baggage(KEY, context)
        return remove_baggage(KEY, context) if sent is not None and not checked(sent) else context

    def inject(self, carrier: Any, context: Context | None = None, setter: Any = default_setter) -> None:
        """Write the headers; one that the app set itself stays."""
        self._inner.inject(carrier, context, setter)
        if self.active:
            try:
                correlation_id = explicit(now() if context is None else context)
                if not correlation_id and context is None and (served := request.get()) is not None:
                    correlation_id = served.correlation  # in a body that is made after the app's call, for one
                if correlation_id and self._inner.fields and not _has(carrier, SENT):
                    setter.set(carrier, SENT, correlation_id)
            except Exception as error:
                self._guard.handle(error)

    @property
    def fields(self) -> set[str]:
        """The headers that ``inject`` may write."""
        inner = self._inner.fields
        return {*inner, SENT.lower()} if inner and self.active else inner


def _has(carrier: Any, header: str) -> bool:
    """Whether a carrier has the header, however it is spelt; one that cannot be asked has not."""
    if not isinstance(carrier, Mapping) and not hasattr(carrier, "keys"):
        return False
    with suppress(Exception):
        return any(str(key).lower() == header.lower() for key in carrier.keys())  # noqa: SIM118  not every one iterates
    return False


def install(guard: Guard, undo: ExitStack) -> None:
    """Put it in front of the global propagator, until the undo."""
    before = propagate.get_global_textmap()
    ours = CorrelationPropagator(before, guard)
    propagate.set_global_textmap(ours)

    def restore() -> None:
        ours.active = False
        if propagate.get_global_textmap() is ours:
            propagate.set_global_textmap(before)

    undo.callback(restore)
