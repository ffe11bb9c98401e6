"""What was found: its names, and how it goes onto spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util import BoundedList

from otel_perf.core.census import Metric
from otel_perf.core.events import BOTTLENECK
from otel_perf.core.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_perf.bottlenecks.place import Place
    from otel_perf.bottlenecks.record import Record

KINDS: Final = "perf.bottleneck.kinds"
SKIPPED: Final = Metric(
    "perf.bottlenecks.skipped", "{span}", "counter", "Spans and local roots that were not looked at, by reason"
)
BOTTLENECKS: Final = Metric("perf.bottlenecks", "{finding}", "counter", "Bottlenecks found, by kind and culprit")
COST: Final = Metric(
    "perf.bottlenecks.cost", "s", "counter", "Time on critical paths that mending them would save, by kind and culprit"
)


@record
class Finding:
    """One bottleneck in one trace."""

    kind: str
    record: Record  # the span that shows it
    evidence: str  # a sentence
    cost: float  # seconds that mending it would save
    culprit: str  # span name or function
    count: int = 1
    place: Place | None = None

    def attributes(self) -> dict[str, Any]:
        """As attributes of an event."""
        found: dict[str, Any] = {
            "perf.bottleneck.kind": self.kind,
            "perf.bottleneck.evidence": self.evidence,
            "perf.bottleneck.cost": round(self.cost, 6),
            "perf.bottleneck.count": self.count,
            "perf.bottleneck.culprit": self.culprit,
        }
        if self.place is not None:
            found["code.function.name"] = self.place.function
            found["code.file.path"] = self.place.path
            found["code.line.number"] = self.place.line
        return found


def enriched(span: ReadableSpan, attributes: Mapping[str, Any], findings: Sequence[Finding]) -> ReadableSpan:
    """A copy of ``span`` with ``attributes`` and an event for each finding; what was dropped stays counted."""
    merged = BoundedAttributes(attributes={**(span.attributes or {}), **attributes}, immutable=True)
    merged.dropped = span.dropped_attributes
    at = span.end_time
    events = [*span.events, *(SpanEvent(BOTTLENECK.name, finding.attributes(), at) for finding in findings)]
    copied: BoundedList[SpanEvent] = BoundedList.from_seq(len(events), events)
    copied.dropped = span.dropped_events
    return ReadableSpan(
        name=span.name,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=merged,
        events=copied,
        links=span._links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
        instrumentation_info=span._instrumentation_info,
    )
