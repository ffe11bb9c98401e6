"""The short way of our own events: what is stored is what the SDK's way stores, and whoever else wants to see them does."""

import pytest
from opentelemetry import trace
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk._logs._internal import Logger, SynchronousMultiLogRecordProcessor

import otel_perf as perf
from otel_perf.core import guard
from otel_perf.core.events import BOTTLENECK, BUSINESS_SCOPE
from otel_perf.logs import emit
from otel_perf.logs.redaction import MARK
from tests.stored import events as stored
from tests.stored import spans

STALLED = BOTTLENECK.name  # a machine that stalls makes a finding of the first event's imports


class Watching(LogRecordProcessor):
    """Somebody else's."""

    def __init__(self):
        self.seen = []

    def on_emit(self, log_record):
        record = log_record.log_record
        if record.event_name != STALLED:
            self.seen.append((record.event_name, dict(record.attributes)))

    def shutdown(self):
        pass

    def force_flush(self, timeout_millis=30_000):
        return True


@pytest.fixture
def made(monkeypatch):
    """How often the SDK's objects were made while the event was emitted."""
    names = []
    original = emit.Event.emitted

    def emitted(self):
        names.append(self.name)
        return original(self)

    monkeypatch.setattr(emit.Event, "emitted", emitted)
    return names


def say():
    with trace.get_tracer("t").start_as_current_span("request"), perf.correlation("c-1"):
        perf.business_event("order.placed", order_id=7, amount=9.5, password="hunter2", note="ok")
    perf.business_event("order.lost", of="nobody")


def told(home):
    made = []
    for name in ("order.placed", "order.lost"):
        (event,) = stored(home, name)
        made.append((
            event.attributes, event.body, event.severity_text, event.severity, event.scope,
            event.resource["service.name"], bool(event.trace_id), bool(event.span_id),
        ))  # fmt: skip
        assert event.time > 0
    (span,) = spans(home)
    assert stored(home, "order.placed")[0].trace_id == span.trace_id
    return made, [(event[0], event[-1]) for event in span.events if event[0] != STALLED]


@pytest.mark.parametrize("way", ["short", "the SDK's"])
def test_both_ways_store_the_same(start, home, made, monkeypatch, way):
    if way != "short":
        monkeypatch.setattr(emit, "steps_of", lambda *_: None)
    pipeline = start()
    say()
    assert made == ([] if way == "short" else ["order.placed", "order.lost"])
    pipeline.shutdown()
    assert {"order.placed", "order.lost"} <= set(made)  # when they were encoded, at the latest
    fields = {"order_id": 7, "amount": 9.5, "password": MARK, "note": "ok", "perf.correlation.id": "c-1"}
    usual = ("", "INFO", 9, BUSINESS_SCOPE, "shop")
    assert told(home) == (
        [(fields, *usual, True, True), ({"of": "nobody"}, *usual, False, False)],
        [("order.placed", fields)],
    )


def test_somebody_elses_processor_that_comes_later_sees_them(start, home):
    pipeline = start()
    say()
    watching = Watching()
    pipeline.providers.logger.add_log_record_processor(watching)
    say()
    pipeline.shutdown()
    assert [name for name, _ in watching.seen] == ["order.placed", "order.lost"]
    assert watching.seen[0][1]["password"] == MARK
    assert len(stored(home, "order.placed")) == 2


@pytest.mark.parametrize("place", [Logger, SynchronousMultiLogRecordProcessor])
def test_what_somebody_put_around_the_sdks_way_is_called(start, home, monkeypatch, place):
    called = []
    name = "emit" if place is Logger else "on_emit"
    original = getattr(place, name)

    def around(self, record):
        called.append(record.log_record.event_name)
        return original(self, record)

    monkeypatch.setattr(place, name, around)
    pipeline = start()
    say()
    pipeline.shutdown()
    assert called[:2] == ["order.placed", "order.lost"]
    assert len(stored(home, "order.placed")) == 1


def test_the_sdk_counts_its_records_where_it_is_asked_to(start, monkeypatch, made):
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    pipeline = start()
    say()
    assert made == ["order.placed", "order.lost"]
    pipeline.shutdown()


def test_a_provider_without_processors_is_none(monkeypatch):
    logger = LoggerProvider(shutdown_on_exit=False).get_logger("t")
    assert emit.steps_of(logger, ()) == ()
    assert emit.steps_of(object(), ()) is None


@pytest.mark.parametrize("part", ["redaction.Redactor.field", "bridge.attributes_of"])
def test_a_step_that_fails_lets_no_secret_out_and_keeps_the_event(start, home, monkeypatch, part):
    monkeypatch.setattr(guard, "_strict", False)
    pipeline = start()
    with monkeypatch.context() as broken, trace.get_tracer("t").start_as_current_span("request"):
        broken.setattr(f"otel_perf.logs.{part}", lambda *_a, **_k: 1 / 0)
        perf.business_event("order.placed", password="hunter2")
    pipeline.shutdown()
    (event,) = stored(home, "order.placed")
    assert "hunter2" not in str(event)
    assert event.trace_id == spans(home)[0].trace_id
