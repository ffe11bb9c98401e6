"""The help for tests does what its docstrings say."""

import logging

import pytest
from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger

from otel_perf import testing
from otel_perf.core import guard
from otel_perf.core.clock import SYSTEM_CLOCK


def test_spans_logs_and_metrics_are_captured_with_known_ids(perf_capture):
    with trace.get_tracer("t").start_as_current_span("a"):
        get_logger("l").emit(body="hello")
    metrics.get_meter("m").create_counter("made").add(2, {"k": "v"})
    metrics.get_meter("m").create_histogram("took").record(5)
    (span,) = perf_capture.spans
    assert (span.name, span.context.trace_id, span.context.span_id) == ("a", 1, 1)
    assert [record.log_record.body for record in perf_capture.logs] == ["hello"]
    assert perf_capture.metrics() == {"made": [(2, {"k": "v"})], "took": [(5, {})]}
    perf_capture.clear()
    assert perf_capture.spans == perf_capture.logs == ()
    assert testing.SequentialIds().is_trace_id_random() is False


def test_the_globals_and_the_mode_come_back(caplog):
    before = trace.get_tracer_provider()
    guard.strict(False)
    with pytest.raises(ValueError, match="inside True False"), testing.capture():
        raise ValueError(f"inside {guard.is_strict()} {trace.get_tracer_provider() is before}")
    assert trace.get_tracer_provider() is before
    assert not guard.is_strict()
    assert logging.getLogger("otel_perf").handlers == []


def test_a_fixed_clock_moves_when_told():
    clock = testing.FixedClock(1000)
    clock.advance(2.5)
    assert (clock.time_ns(), clock.monotonic()) == (2_500_001_000, 2.5)
    assert SYSTEM_CLOCK.time_ns() > 0
    assert SYSTEM_CLOCK.monotonic() > 0
