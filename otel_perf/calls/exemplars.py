"""Keeps a measurement from making the span real that is current: an exemplar is not what a span is needed for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.metrics import ExemplarFilter

from otel_perf.calls.lazy_span import LazySpan

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.util.types import Attributes


class LazyAwareFilter(ExemplarFilter):
    """Another filter's answer, but no under a span that is still lazy: it has no ids, and may never have any."""

    def __init__(self, other: ExemplarFilter) -> None:
        self._other = other

    def should_sample(self, value: float, time_unix_nano: int, attributes: Attributes, context: Context) -> bool:
        """Whether the measurement may become an exemplar."""
        span = trace.get_current_span(context)
        if isinstance(span, LazySpan) and span.is_lazy:
            return False
        return self._other.should_sample(value, time_unix_nano, attributes, context)
