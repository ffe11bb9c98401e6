"""Batches are encoded a few items at a time, and are the same as if all were encoded at once."""

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_at_once
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_perf.store.exporter import PART, encode_logs, encode_spans


def spans(count, resources=1, scopes=1):
    """Finished spans of so many resources and scopes, in turn."""
    made = InMemorySpanExporter()
    tracers = []
    for resource in range(resources):
        provider = TracerProvider(resource=Resource({"service.name": f"service {resource}"}), shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(made))
        tracers += [provider.get_tracer(f"scope {scope}", "1", schema_url="https://x/1") for scope in range(scopes)]
    for number in range(count):
        with tracers[number % len(tracers)].start_as_current_span(f"span {number}") as span:
            span.set_attribute("number", number)
            span.add_event("half way")
    return list(made.get_finished_spans())


def content(message):
    """Every span with its resource and scope, in the order in which it stands there."""
    return [
        (str(resource.resource), resource.schema_url, str(scope.scope), scope.schema_url, str(span))
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


@pytest.mark.parametrize(("resources", "scopes"), [(1, 1), (1, 3), (3, 1), (2, 40)])
@pytest.mark.parametrize("count", [1, PART, PART + 1, 7 * PART + 3])
def test_in_parts_it_is_what_it_is_at_once(count, resources, scopes):
    made = spans(count, resources, scopes)
    message = ExportTraceServiceRequest.FromString(encode_spans(made, lambda _: None))
    whole = encode_at_once(made)
    assert content(message) == content(whole)
    assert len(message.resource_spans) == len(whole.resource_spans)
    found = [len(resource.scope_spans) for resource in message.resource_spans]
    assert found == [len(resource.scope_spans) for resource in whole.resource_spans]


def test_between_the_parts_there_is_a_rest_as_long_as_the_last_part_took():
    rests = []
    encode_spans(spans(3 * PART + 1), rests.append)
    assert len(rests) == 3
    assert all(0 < seconds < 10 for seconds in rests)


def test_log_records_in_parts():
    kept = InMemoryLogRecordExporter()
    provider = LoggerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(kept))
    loggers = [provider.get_logger(name) for name in ("one", "two")]
    for number in range(5 * PART):
        loggers[number % 2].emit(body=f"line {number}")
    records = list(kept.get_finished_logs())
    rests = []
    message = ExportLogsServiceRequest.FromString(encode_logs(records, rests.append))
    assert message == ExportLogsServiceRequest.FromString(encode_logs(records))
    assert len(rests) == 4
