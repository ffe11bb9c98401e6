"""Decodes stored batches into flat records, and into OTLP's JSON form."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    from otel_perf.store.database import Batch

_REQUESTS: dict[str, Any] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}
_SIGNAL_OF = {"resourceSpans": "traces", "resourceMetrics": "metrics", "resourceLogs": "logs"}
_ID_FIELDS = frozenset({"traceId", "spanId", "parentSpanId"})
_WHICH = ("k8s.pod.name", "container.id", "host.name", "process.pid")
KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
ERROR_STATUS = 2
DELTA = 1  # AGGREGATION_TEMPORALITY_DELTA
NO_VALUE = 1  # flag of a data point: the series ended, or could not be asked


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One span. Times in nanoseconds since the epoch; ids in hex, an empty parent for a root.

    It ends no sooner than it starts: one that has no end, or that of a clock that was set back, took no time.
    """

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    error: bool
    status: str
    attributes: dict[str, Any]
    events: tuple[tuple[str, dict[str, Any]], ...]
    scope: str
    resource: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Duration, never negative."""
        return max(0, self.end - self.start) / 1e9


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One log record or event (``event_name``)."""

    trace_id: str
    span_id: str
    time: int
    severity: int
    severity_text: str
    body: str
    event_name: str
    attributes: dict[str, Any]
    scope: str
    resource: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Buckets:
    """Those of an exponential histogram: bucket ``first + i`` ends at 2 ** ((first + i + 1) / 2 ** scale)."""

    scale: int
    first: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Point:
    """One data point: a number, or the count and sum of a histogram."""

    name: str
    unit: str
    time: int
    value: float
    count: int
    attributes: dict[str, Any]
    scope: str
    resource: dict[str, Any]
    delta: bool = False  # since the point before; else since the start
    buckets: Buckets | None = None
    start: int = 0  # from when on it counts; 0 where that is not said


def value_of(value: AnyValue) -> Any:
    """The Python value of an OTLP one."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return attributes_of(value.kvlist_value.values)
    return getattr(value, kind)


def attributes_of(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    """A dict of OTLP attributes."""
    return {pair.key: value_of(pair.value) for pair in pairs}


def service_of(resource: dict[str, Any]) -> str:
    """Its ``service.name``."""
    return str(resource.get("service.name", "unknown_service"))


def _id(given: bytes) -> str:
    """In hex; nothing for only zeros, as which some SDKs write that there is none."""
    return given.hex() if any(given) else ""


def instance_of(resource: dict[str, Any]) -> str:
    """What tells a process from the others of its service: its id, or what an SDK that gives it none says of it."""
    given = resource.get("service.instance.id")
    return str(given) if given else " ".join(str(resource[name]) for name in _WHICH if name in resource)


def spans(batches: Iterable[Batch]) -> Iterator[SpanRecord]:
    """Every span of ``batches`` (of signal traces)."""
    for batch in batches:
        for of_resource in ExportTraceServiceRequest.FromString(batch.body).resource_spans:
            resource = attributes_of(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                for span in of_scope.spans:
                    yield _span(span, of_scope.scope.name, resource)


def _span(span: Any, scope: str, resource: dict[str, Any]) -> SpanRecord:
    return SpanRecord(
        _id(span.trace_id),
        _id(span.span_id),
        _id(span.parent_span_id),
        span.name,
        KINDS[span.kind] if 0 <= span.kind < len(KINDS) else KINDS[0],
        span.start_time_unix_nano,
        max(span.start_time_unix_nano, span.end_time_unix_nano),
        span.status.code == ERROR_STATUS,
        span.status.message,
        attributes_of(span.attributes),
        tuple((event.name, attributes_of(event.attributes)) for event in span.events),
        scope,
        resource,
    )


def logs(batches: Iterable[Batch]) -> Iterator[LogEntry]:
    """Every log record of ``batches`` (of signal logs)."""
    for batch in batches:
        for of_resource in ExportLogsServiceRequest.FromString(batch.body).resource_logs:
            resource = attributes_of(of_resource.resource.attributes)
            for of_scope in of_resource.scope_logs:
                for record in of_scope.log_records:
                    yield _log(record, of_scope.scope.name, resource)


def _log(record: Any, scope: str, resource: dict[str, Any]) -> LogEntry:
    body = value_of(record.body)
    return LogEntry(
        _id(record.trace_id),
        _id(record.span_id),
        record.time_unix_nano or record.observed_time_unix_nano,
        record.severity_number,
        record.severity_text,
        body if isinstance(body, str) else "" if body is None else repr(body),
        record.event_name,
        attributes_of(record.attributes),
        scope,
        resource,
    )


def spans_at(body: bytes, positions: Iterable[int]) -> dict[int, SpanRecord]:
    """Those spans of a batch, by their position in it; only they are decoded."""
    wanted, found, pos = set(positions), {}, 0
    for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        for of_scope in of_resource.scope_spans:
            for at in wanted & set(range(pos, pos + len(of_scope.spans))):
                resource = attributes_of(of_resource.resource.attributes)
                found[at] = _span(of_scope.spans[at - pos], of_scope.scope.name, resource)
            pos += len(of_scope.spans)
    return found


def log_at(body: bytes, position: int) -> LogEntry | None:
    """One log record of a batch; ``None`` if it has no such."""
    for of_resource in ExportLogsServiceRequest.FromString(body).resource_logs:
        for of_scope in of_resource.scope_logs:
            if position < len(of_scope.log_records):
                resource = attributes_of(of_resource.resource.attributes)
                return _log(of_scope.log_records[position], of_scope.scope.name, resource)
            position -= len(of_scope.log_records)
    return None


def points(batches: Iterable[Batch]) -> Iterator[Point]:
    """Every data point of ``batches`` (of signal metrics) that has a value, and one that is a number."""
    for batch in batches:
        for of_resource in ExportMetricsServiceRequest.FromString(batch.body).resource_metrics:
            resource = attributes_of(of_resource.resource.attributes)
            for of_scope in of_resource.scope_metrics:
                for metric in of_scope.metrics:
                    data = getattr(metric, metric.WhichOneof("data") or "gauge")
                    for point in data.data_points:
                        number = point.WhichOneof("value") if hasattr(point, "as_int") else "sum"
                        value = float(getattr(point, number)) if number else 0.0
                        if not number or point.flags & NO_VALUE or not isfinite(value):
                            continue
                        yield Point(
                            metric.name,
                            metric.unit,
                            point.time_unix_nano,
                            value,
                            int(point.count) if number == "sum" else 1,
                            attributes_of(point.attributes),
                            of_scope.scope.name,
                            resource,
                            getattr(data, "aggregation_temporality", 0) == DELTA,
                            _buckets(point) if metric.HasField("exponential_histogram") else None,
                            point.start_time_unix_nano,
                        )


def _buckets(point: Any) -> Buckets:
    return Buckets(point.scale, point.positive.offset, tuple(point.positive.bucket_counts))


def _turn_ids(node: Any, turn: Callable[[str], str]) -> None:
    """Write the ids in ``node``, and beneath it, in another way."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in _ID_FIELDS and isinstance(value, str):
                node[key] = turn(value)
            else:
                _turn_ids(value, turn)
    elif isinstance(node, list):
        for item in node:
            _turn_ids(item, turn)


def to_json(batch: Batch) -> str:
    """One line of OTLP JSON, with ids in hex as OTLP wants and not in protobuf's base64."""
    import base64
    import json

    from google.protobuf.json_format import MessageToDict

    document = MessageToDict(_REQUESTS[batch.signal].FromString(batch.body), use_integers_for_enums=True)

    _turn_ids(document, lambda value: base64.b64decode(value).hex())
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def from_json(line: str) -> Batch | None:
    """What :func:`to_json` wrote, or the Collector's file exporter; ``None`` for JSON that is no OTLP request.

    Raises ``ValueError`` for what is no JSON.
    """
    import base64
    import json

    from google.protobuf.json_format import ParseDict, ParseError

    from otel_perf.store.database import Batch

    document = json.loads(line)
    signal = next((name for key, name in _SIGNAL_OF.items() if isinstance(document, dict) and key in document), None)
    if signal is None:
        return None

    _turn_ids(document, lambda value: base64.b64encode(bytes.fromhex(value)).decode())
    try:
        request = ParseDict(document, _REQUESTS[signal](), ignore_unknown_fields=True)
    except ParseError as error:
        raise ValueError(str(error)) from error
    return Batch(0, signal, 0, 0, request.SerializeToString())
