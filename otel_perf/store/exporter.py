"""The SDK's side of the store: a span processor, a log processor and a metric exporter that feed it."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk._logs import LogRecordProcessor, ReadableLogRecord
from opentelemetry.sdk.metrics import (
    Counter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    UpDownCounter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from otel_perf.core.census import SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.sdk._logs import ReadWriteLogRecord
    from opentelemetry.sdk.metrics.export import MetricsData
    from opentelemetry.sdk.resources import Resource

    from otel_perf.store.writer import Lane, Writer

    Rest = Callable[[float], None]

YOUNG: Final = 1.0  # seconds
PART: Final = 16  # items encoded in one go: less than a millisecond
_OF_THE_MACHINE: Final = {SCOPE, "opentelemetry.instrumentation.system_metrics"}
_FORKS_REMEMBERED: Final = 8
_FIELDS: Final = {"log_record", "resource", "instrumentation_scope", "limits"}
_NOWHERE: Final = Context()
# A frozen dataclass sets its fields one by one, for 1 µs; filled in one go it is the same.
_IS_OPEN: Final = {item.name for item in fields(ReadableLogRecord)} == _FIELDS and "__slots__" not in vars(
    ReadableLogRecord
)


def encode_spans(spans: Sequence[ReadableSpan], rest: Rest | None = None) -> bytes:
    """Spans as a serialized ``ExportTraceServiceRequest``; 16–19 µs a span. ``rest``: see :func:`in_parts`."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans

    made: bytes = in_parts(encode_spans, spans, ("resource_spans", "scope_spans", "spans"), rest).SerializeToString()
    return made


def encode_logs(records: Sequence[ReadableLogRecord], rest: Rest | None = None) -> bytes:
    """Log records as a serialized ``ExportLogsServiceRequest``. ``rest``: see :func:`in_parts`."""
    from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs

    def encode(part: Sequence[Any]) -> Any:
        return encode_logs([each if type(each) is ReadableLogRecord else each.emitted() for each in part])

    message = in_parts(encode, records, ("resource_logs", "scope_logs", "log_records"), rest)
    made: bytes = message.SerializeToString()
    return made


def encode_metrics(batches: Sequence[MetricsData]) -> bytes:
    """Collections of metrics as one serialized ``ExportMetricsServiceRequest``."""
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

    # A serialized message that is appended to another is merged into it by whoever reads both.
    return b"".join(encode_metrics(batch).SerializeToString() for batch in batches)


def in_parts(
    encode: Callable[[Sequence[Any]], Any], items: Sequence[Any], names: tuple[str, str, str], rest: Rest | None
) -> Any:
    """The message that ``encode`` makes of ``items``, a few at a time; between them ``rest`` is told how long one took.

    A thread that encodes all at once has the interpreter for 5 ms (the switch interval) each time that a request lets
    go of it, for a socket or a lock.
    """
    if rest is None:
        return encode(items)
    began = time.perf_counter()
    whole = encode(items[:PART])
    if len(items) > PART:
        known: dict[tuple[Any, ...], Any] = {}
        _index(whole, names, known)
        for start in range(PART, len(items), PART):
            rest(time.perf_counter() - began)
            began = time.perf_counter()
            _merge(encode(items[start : start + PART]), whole, names, known)
    return whole


def _index(whole: Any, names: tuple[str, str, str], known: dict[tuple[Any, ...], Any]) -> None:
    of_resource, of_scope, _ = names
    for resource in getattr(whole, of_resource):
        key = resource.schema_url, resource.resource.SerializeToString()
        known[key] = resource
        for scope in getattr(resource, of_scope):
            known[(*key, scope.schema_url, scope.scope.SerializeToString())] = scope


def _merge(part: Any, whole: Any, names: tuple[str, str, str], known: dict[tuple[Any, ...], Any]) -> None:
    """Put what is in ``part`` into ``whole``, under the resources and scopes that it has already."""
    of_resource, of_scope, of_item = names
    for resource in getattr(part, of_resource):
        key: tuple[Any, ...] = (resource.schema_url, resource.resource.SerializeToString())
        if key not in known:
            getattr(whole, of_resource).append(resource)
            _index(whole, names, known)
            continue
        scopes = getattr(known[key], of_scope)
        for scope in getattr(resource, of_scope):
            inner = (*key, scope.schema_url, scope.scope.SerializeToString())
            if inner in known:
                getattr(known[inner], of_item).extend(getattr(scope, of_item))
            else:
                scopes.append(scope)
                known[inner] = scopes[-1]


class StoreSpanProcessor(SpanProcessor):
    """Queues every sampled span when it ends. About 0.5 µs a span; thread-safe."""

    def __init__(self, writer: Writer, lane: Lane) -> None:
        self.on = False
        self._writer = writer
        self._lane = lane
        # Resources of parents of this process. The SDK gives a forked child a resource of its own, so
        # a span that carries the parent's was begun before the fork, and the parent will store it.
        self._foreign: tuple[Resource, ...] = ()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue ``span``."""
        context = span.context
        if not self.on or context is None or not context.trace_flags.sampled:
            return
        if self._foreign and any(span.resource is foreign for foreign in self._foreign):
            return
        self._writer.offer(self._lane, span)

    def disown(self, resource: Resource) -> None:
        """In a forked child: leave the spans that carry ``resource`` to the parent."""
        self._foreign = (*self._foreign, resource)[-_FORKS_REMEMBERED:]

    def shutdown(self) -> None:
        """Nothing: the feature closes the writer, with one deadline for all signals."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Commit what was queued; honours ``timeout_millis``."""
        return self._writer.flush(timeout_millis / 1000)


class StoreLogProcessor(LogRecordProcessor):
    """Queues every log record. Thread-safe."""

    def __init__(self, writer: Writer, lane: Lane) -> None:
        self.on = False
        self._writer = writer
        self._lane = lane

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Queue a copy: processors that come after may change the record."""
        resource = log_record.resource
        if not self.on or resource is None:
            return
        given = log_record.log_record
        record = object.__new__(type(given))  # copy.copy asks the class how, for 2 µs
        # The ids are in the record; the context could hold anything alive.
        record.__dict__ = {**given.__dict__, "context": _NOWHERE}
        scope, limits = log_record.instrumentation_scope, log_record.limits
        if _IS_OPEN:
            readable = object.__new__(ReadableLogRecord)
            vars(readable).update(log_record=record, resource=resource, instrumentation_scope=scope, limits=limits)
        else:
            readable = ReadableLogRecord(record, resource, scope, limits=limits)
        self._writer.offer(self._lane, readable)

    def on_event(self, event: Any) -> None:
        """Queue an event of ours, that nobody else has or will have, as it is: :func:`encode_logs` makes the rest."""
        if self.on:
            event.context = _NOWHERE
            self._writer.offer(self._lane, event)

    def shutdown(self) -> None:
        """Nothing: the feature closes the writer, with one deadline for all signals."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Commit what was queued; honours ``timeout_millis``."""
        return self._writer.flush(timeout_millis / 1000)


class StoreMetricExporter(MetricExporter):
    """Queues each collection of metrics."""

    def __init__(self, writer: Writer, lane: Lane, environ: Mapping[str, str]) -> None:
        super().__init__(_temporality(environ), _aggregation(environ))
        self.on = False
        self._writer = writer
        self._lane = lane
        self._born = time.monotonic()

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Queue ``metrics_data``."""
        if self.on and not self._is_idle(metrics_data):
            self._writer.offer(self._lane, metrics_data)
        return MetricExportResult.SUCCESS

    def after_fork_in_child(self) -> None:
        """A child begins its own life."""
        self._born = time.monotonic()

    def _is_idle(self, metrics_data: MetricsData) -> bool:
        """Whether a process that is ending at once made nothing but gauges of the machine and of ours.

        The last collection of such a process says nothing, and storing it would cost a plain start
        (``python -c pass``) a fifth of its CPU: the encoder, SQLite and a thread.
        """
        if self._writer.used or time.monotonic() - self._born > YOUNG:
            return False
        scopes = {scope.scope.name for resource in metrics_data.resource_metrics for scope in resource.scope_metrics}
        return scopes <= _OF_THE_MACHINE

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Nothing: the feature closes the writer, with one deadline for all signals."""

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Commit what was queued; honours ``timeout_millis``."""
        return self._writer.flush(timeout_millis / 1000)


class StoreMetricReader(PeriodicExportingMetricReader):
    """Collects every ``OTEL_METRIC_EXPORT_INTERVAL`` (60 s) and once at the end, into the store."""


def _temporality(environ: Mapping[str, str]) -> dict[type[Any], AggregationTemporality]:
    """``OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE``, as the OTLP exporters read it."""
    kinds: tuple[type[Any], ...] = (
        Counter,
        UpDownCounter,
        Histogram,
        ObservableCounter,
        ObservableUpDownCounter,
        ObservableGauge,
    )
    chosen = dict.fromkeys(kinds, AggregationTemporality.CUMULATIVE)
    preference = environ.get("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "").strip().upper()
    delta = {"DELTA": (Counter, Histogram, ObservableCounter), "LOWMEMORY": (Counter, Histogram)}.get(preference, ())
    return chosen | dict.fromkeys(delta, AggregationTemporality.DELTA)


def _aggregation(environ: Mapping[str, str]) -> dict[type, Any]:
    """``OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION``, as the OTLP exporters read it."""
    name = environ.get("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "").strip()
    if name == "base2_exponential_bucket_histogram":
        return {Histogram: ExponentialBucketHistogramAggregation()}
    return {Histogram: ExplicitBucketHistogramAggregation()}
