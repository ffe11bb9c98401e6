"""What the SDK's metrics see of the calls beside the histogram, and what keeps a measurement from making spans real.

The one module of this feature that needs the SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.sdk.metrics import ExemplarFilter

from otel_perf.calls import CALL_ERRORS, CALL_SELF_TIME, CALL_UNTIMED
from otel_perf.calls.lazy_span import LazySpan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.context import Context
    from opentelemetry.util.types import Attributes

    from otel_perf.calls.function import Functions
    from otel_perf.core.census import Metric, Reading


def sources(functions: Functions) -> dict[Metric, Callable[[], Iterable[Reading]]]:
    """What the census reads beside the histogram."""

    def of(field: str) -> Callable[[], Iterable[Reading]]:
        def source() -> Iterable[Reading]:
            found = [(getattr(counts, field), counts.attributes) for counts in functions.counts()]
            return [reading for reading in found if reading[0]]

        return source

    return {CALL_SELF_TIME: of("self_total"), CALL_ERRORS: of("errors"), CALL_UNTIMED: of("untimed")}


class LazyAwareFilter(ExemplarFilter):
    """Another filter's answer, but no under a span that is still lazy: it has no ids, and may never have any."""

    def __init__(self, other: ExemplarFilter) -> None:
        self._other = other

    def should_sample(self, value: float, time_unix_nano: int, attributes: Attributes, context: Context) -> bool:
        """Whether the measurement may become an exemplar."""
        span = trace.get_current_span(context)
        if type(span) is LazySpan and span.is_lazy:
            return False
        return self._other.should_sample(value, time_unix_nano, attributes, context)
