"""What was found is on the local root, on the span that shows it, in a log event and in a counter; all else stays."""

import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from otel_perf.bottlenecks.finding import Finding, enriched
from otel_perf.bottlenecks.record import Record
from tests.bottlenecks.conftest import MS
from tests.stored import logs, points


def ago(milliseconds):
    return time.time_ns() - int(milliseconds * MS)


@pytest.fixture
def slow(app):
    """One trace: a root, a function and its slow call."""
    app = app()
    end = time.time_ns()
    root = app.tracer.start_span("GET /orders", start_time=end - 800 * MS, kind=SpanKind.SERVER)
    with trace.use_span(root):
        load = app.tracer.start_span("load", start_time=end - 790 * MS)
        with trace.use_span(load):
            app.tracer.start_span(
                "SELECT", kind=SpanKind.CLIENT, start_time=end - 780 * MS,
                attributes={"db.system": "postgresql", "db.statement": "SELECT a FROM b WHERE c = 'secret'"},
            ).end(end)  # fmt: skip
        load.end(end)
        app.tracer.start_span("quick", start_time=end).end(end)
    root.end(end)
    return app


def test_the_root_says_what_is_worst(slow):
    root = slow.by_name()["GET /orders"]
    assert root.attributes["perf.bottleneck"] is True
    assert root.attributes["perf.bottleneck.kinds"] == ("slow_io",)
    assert 0.5 < root.attributes["perf.bottleneck.cost"] < 0.8
    assert root.attributes["perf.bottleneck.top"].startswith("GET /orders waited ")
    assert root.attributes["perf.gc_time"] >= 0
    assert 0 <= root.attributes["perf.self_time"] < 0.1
    assert [event.name for event in root.events] == []


def test_the_span_that_shows_it_has_the_finding(slow):
    call = slow.by_name()["SELECT"]
    assert call.attributes["perf.bottleneck.kinds"] == ("slow_io",)
    assert call.attributes["perf.self_time"] > 0.7
    assert "perf.bottleneck" not in call.attributes
    (event,) = call.events
    found = event.attributes
    assert event.name == "perf.bottleneck"
    assert found["perf.bottleneck.kind"] == "slow_io"
    assert found["perf.bottleneck.cost"] == slow.by_name()["GET /orders"].attributes["perf.bottleneck.cost"]
    assert found["perf.bottleneck.count"] == 1
    assert found["perf.bottleneck.culprit"] == "SELECT a FROM b WHERE c = ?"
    assert found["code.file.path"].endswith("tests/bottlenecks/test_enrichment.py")
    assert found["code.function.name"] == "slow"
    assert found["code.line.number"] > 1
    assert "secret" not in found["perf.bottleneck.evidence"]
    assert "SELECT a FROM b WHERE c = ?" in found["perf.bottleneck.evidence"]


def test_the_others_are_left_as_they_are(slow):
    for name in ("load", "quick"):
        assert dict(slow.by_name()[name].attributes) == {}
        assert list(slow.by_name()[name].events) == []


def test_it_is_an_event_and_counted(slow, home):
    root, call = slow.by_name()["GET /orders"], slow.by_name()["SELECT"]
    slow.pipeline.shutdown()
    (event,) = [entry for entry in logs(home) if entry.event_name == "perf.bottleneck"]
    assert event.body == root.attributes["perf.bottleneck.top"]
    assert event.attributes["perf.bottleneck.kind"] == "slow_io"
    assert (event.trace_id, event.span_id) == (f"{call.context.trace_id:032x}", f"{call.context.span_id:016x}")
    (point,) = [point for point in points(home) if point.name == "perf.bottlenecks"]
    assert (point.value, point.attributes) == (1, {"kind": "slow_io", "culprit": "SELECT a FROM b WHERE c = ?"})
    (cost,) = [each for each in points(home) if each.name == "perf.bottlenecks.cost"]
    assert cost.attributes == point.attributes
    assert cost.value == pytest.approx(root.attributes["perf.bottleneck.cost"], abs=1e-6)


def test_a_trace_without_a_finding_is_not_touched(app):
    app = app()
    with app.tracer.start_as_current_span("root", start_time=ago(90), attributes={"a": 1}):
        app.tracer.start_span("long", start_time=ago(80)).end()
    for span in app.spans():
        assert dict(span.attributes) in ({"a": 1}, {})
    assert app.findings() == []


def test_a_copy_has_everything_that_the_span_had():
    provider = TracerProvider(shutdown_on_exit=False)
    tracer = provider.get_tracer("scope", "1.2", attributes={"s": 1})
    parent = tracer.start_span("parent")
    span = tracer.start_span(
        "name", trace.set_span_in_context(parent), kind=SpanKind.CLIENT,
        attributes={"a": 1, "list": ["x", "y"]}, links=[Link(parent.get_span_context(), {"l": 1})],
    )  # fmt: skip
    span.add_event("event", {"e": 1})
    span.record_exception(ValueError("v"))
    span.set_status(Status(StatusCode.ERROR, "why"))
    span.end()
    record = Record(SpanKind.CLIENT, span.start_time, span.end_time, 0, span)
    finding = Finding("kind", record, "evidence", 0.5, "culprit")
    copy = enriched(span, {"perf.x": 1}, [finding])
    for name in (
        "name", "context", "parent", "kind", "status", "start_time", "end_time", "resource", "links",
        "instrumentation_scope", "dropped_attributes", "dropped_events", "dropped_links",
    ):  # fmt: skip
        assert getattr(copy, name) == getattr(span, name), name
    assert dict(copy.attributes) == {"a": 1, "list": ("x", "y"), "perf.x": 1}
    assert [event.name for event in copy.events] == ["event", "exception", "perf.bottleneck"]
    assert copy.events[:2] == span.events
    assert copy.events[2].timestamp == span.end_time
    assert [event.name for event in span.events] == ["event", "exception"]
    assert "perf.x" not in span.attributes


def test_what_was_dropped_stays_counted(app, monkeypatch):
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3")
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "2")
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1")
    app = app()
    link = Link(trace.SpanContext(1, 1, is_remote=False))
    with app.tracer.start_as_current_span("root", start_time=ago(700), links=[link, link, link]) as root:
        for number in range(8):
            root.set_attribute(f"a{number}", number)
            root.add_event(f"e{number}")
        app.tracer.start_span("call", kind=SpanKind.CLIENT, start_time=ago(690)).end()
    found = app.by_name()["root"]
    assert found.attributes["perf.bottleneck"] is True
    assert (found.dropped_attributes, found.dropped_events, found.dropped_links) == (5, 6, 2)
    assert len([name for name in found.attributes if not name.startswith("perf.")]) == 3
    assert len(found.events) == 2


def test_a_copy_of_a_bare_span_works():
    span = ReadableSpan("bare")
    copy = enriched(span, {"a": 1}, ())
    assert (copy.name, dict(copy.attributes), list(copy.events)) == ("bare", {"a": 1}, [])
    assert isinstance(copy._events, BoundedList)


def test_a_root_in_one_thread_says_what_cpu_it_took(app):
    app = app()
    with app.tracer.start_as_current_span("root"):
        app.call("query", 0.55)
    root = app.by_name()["root"]
    assert 0 <= root.attributes["perf.cpu_time"] < 0.4
    if "perf.runqueue_time" in root.attributes:
        assert root.attributes["perf.runqueue_time"] >= 0
