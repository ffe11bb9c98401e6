"""A program that knows nothing of otel-perf: OpenTelemetry's own SDK, sending traces, metrics and logs in protobuf."""

import logging

from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

traces, lines = TracerProvider(), LoggerProvider()
traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
lines.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
trace.set_tracer_provider(traces)
metrics.set_meter_provider(meters)
log = logging.getLogger("stranger")
log.addHandler(LoggingHandler(logger_provider=lines))
log.setLevel("INFO")

with trace.get_tracer("stranger").start_as_current_span("python says hello", attributes={"answer": 42}):
    log.warning("hello from Python")
    metrics.get_meter("stranger").create_counter("stranger.greetings").add(3)
for provider in (traces, lines, meters):
    provider.shutdown()
