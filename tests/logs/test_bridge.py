"""Events on the current span: under the specification's conditions, once, and never at the cost of anything else."""

import logging

import pytest
from opentelemetry import context, trace
from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, set_span_in_context

import otel_perf as perf
from otel_perf.core.events import FEATURE_CHANGED, not_mirrored
from tests.stored import apps_events, apps_logs, events, spans


def emit(name="user.seen", scope="their.library", **fields):
    get_logger(scope).emit(LogRecord(timestamp=5, severity_number=SeverityNumber.INFO, event_name=name, **fields))


def test_name_time_and_all_attributes_are_copied_and_the_record_goes_on(perf_capture):
    attributes = {"user": "a", "rows": [1, 2], "nested": {"b": 1}, "raw": b"x"}
    with trace.get_tracer("t").start_as_current_span("s"):
        emit(attributes=attributes, body="the body stays where it is")
    (event,) = perf_capture.spans[0].events
    assert (event.name, event.timestamp) == ("user.seen", 5)
    assert dict(event.attributes) == {"user": "a", "rows": (1, 2), "nested": {"b": 1}, "raw": b"x"}
    (record,) = perf_capture.logs
    assert record.log_record.body == "the body stays where it is"
    record.log_record.attributes["user"] = "changed by a later processor"
    assert event.attributes["user"] == "a"


def test_without_a_time_it_is_when_it_was_observed(perf_capture):
    with trace.get_tracer("t").start_as_current_span("s"):
        get_logger("l").emit(LogRecord(observed_timestamp=7, event_name="a"))
    assert perf_capture.spans[0].events[0].timestamp == 7


def test_the_span_is_that_of_the_records_context(perf_capture):
    tracer = trace.get_tracer("t")
    other = tracer.start_span("other")
    with tracer.start_as_current_span("current"):
        emit(context=set_span_in_context(other))
    other.end()
    assert {span.name: len(span.events) for span in perf_capture.spans} == {"current": 0, "other": 1}


@pytest.mark.parametrize("what", ["a line", "no span", "ended", "not recording", "ids of another"])
def test_what_is_not_mirrored(perf_capture, what):
    tracer = trace.get_tracer("t")
    with tracer.start_as_current_span("s") as span:
        if what == "a line":
            get_logger("l").emit(LogRecord(timestamp=5, body="x"))
        elif what == "no span":
            emit(context=context.Context({"something": "else"}))
        elif what == "ended":
            ended = tracer.start_span("ended")
            ended.end()
            emit(context=set_span_in_context(ended))
        elif what == "not recording":
            emit(context=set_span_in_context(NonRecordingSpan(span.get_span_context())))
        else:
            record = LogRecord(timestamp=5, event_name="a")
            record.span_id += 1
            get_logger("l").emit(record)
    assert len(perf_capture.logs) == 1
    assert all(span.events == () for span in perf_capture.spans)


def test_a_span_that_the_sampler_drops_takes_none(perf_capture):
    with TracerProvider(ALWAYS_OFF, shutdown_on_exit=False).get_tracer("t").start_as_current_span("s"):
        emit()
    assert len(perf_capture.logs) == 1


def test_our_own_events_are_not_mirrored(start, home):
    pipeline = start()
    with trace.get_tracer("t").start_as_current_span("s"):
        pipeline.event(FEATURE_CHANGED, {"a": 1})
    pipeline.shutdown()
    assert len(events(home, FEATURE_CHANGED.name)) == 1
    assert apps_events(spans(home)[0]) == ()


def test_names_can_opt_out(perf_capture):
    not_mirrored.add("noisy")
    try:
        with trace.get_tracer("t").start_as_current_span("s"):
            emit("noisy")
            emit("quiet")
    finally:
        not_mirrored.discard("noisy")
    assert [event.name for event in perf_capture.spans[0].events] == ["quiet"]


def test_a_full_span_keeps_the_events_that_it_has(perf_capture):
    with trace.get_tracer("t").start_as_current_span("s") as span:
        span.add_event("the app's own")
        for number in range(200):
            perf.business_event("many", number=number)
    (span,) = perf_capture.spans
    assert span.events[0].name == "the app's own"
    assert len(span.events) == 128
    assert span.dropped_events == 200 - 127
    assert len(perf_capture.logs) == 200


def test_the_spans_limits_hold(start, home, monkeypatch):
    monkeypatch.setenv("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "1")
    pipeline = start()
    with trace.get_tracer("t").start_as_current_span("s"):
        emit(attributes={"a": 1, "b": 2})
    pipeline.shutdown()
    assert apps_events(spans(home)[0]) == (("user.seen", {"b": 2}),)


def test_a_monitored_call_has_them_too(start, home):
    pipeline = start()

    @perf.monitored
    def work():
        perf.business_event("order.placed", order_id=1)

    work()
    pipeline.shutdown()
    (span,), (event,) = spans(home), events(home, "order.placed")
    assert apps_events(span) == (("order.placed", {"order_id": 1}),)
    assert (event.trace_id, event.span_id) == (span.trace_id, span.span_id)


def test_lines_that_name_an_event_are_events(start, home):
    pipeline = start()
    with trace.get_tracer("t").start_as_current_span("s"):
        logging.getLogger("shop").warning("placed", extra={"event.name": "order.placed", "order": 7})
    pipeline.shutdown()
    assert apps_events(spans(home)[0]) == (("order.placed", {"order": 7}),)


@pytest.mark.parametrize("variables", [{"OTEL_PERF_LOGS_SPAN_EVENTS": "off"}, {"OTEL_PERF_LOGS": "off"}])
def test_it_can_be_turned_off(start, home, variables):
    pipeline = start(**variables)
    with trace.get_tracer("t").start_as_current_span("s"):
        emit()
    pipeline.shutdown()
    assert len(apps_logs(home)) == 1
    assert apps_events(spans(home)[0]) == ()


def test_a_span_that_fails_costs_the_record_nothing(start, home, absorbing):
    class Odd(NonRecordingSpan):
        def is_recording(self):
            return True

        def add_event(self, *arguments, **options):
            raise RuntimeError("broken")

    pipeline = start()
    with trace.get_tracer("t").start_as_current_span("s") as span:
        emit(context=set_span_in_context(Odd(span.get_span_context())))
    assert pipeline.guards["logs"].errors == 1
    pipeline.shutdown()
    assert len(events(home, "user.seen")) == 1


def test_it_wants_events_only(start):
    start()
    logger = get_logger("l")
    assert logger.enabled(event_name="a")
