"""What is in serialized OTLP export requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def count(bodies: Iterable[tuple[str, bytes]]) -> dict[str, int]:
    """Items by kind in ``bodies``, which are (signal, serialized request)."""
    found = {"server_spans": 0, "spans": 0, "logs": 0, "metrics": 0}
    for signal, body in bodies:
        if signal == "traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans = [span for scope in resource.scope_spans for span in scope.spans]
                found["spans"] += len(spans)
                found["server_spans"] += sum(span.kind == Span.SPAN_KIND_SERVER for span in spans)
        elif signal == "logs":
            logs = ExportLogsServiceRequest.FromString(body)
            found["logs"] += sum(len(scope.log_records) for part in logs.resource_logs for scope in part.scope_logs)
        elif signal == "metrics":
            for part in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                found["metrics"] += sum(len(scope.metrics) for scope in part.scope_metrics)
    return found


def span_ids(bodies: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """Trace and span id, 24 bytes together, of every span in ``bodies``, which are as for :func:`count`."""
    for signal, body in bodies:
        if signal == "traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        yield span.trace_id + span.span_id
