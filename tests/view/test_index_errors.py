"""The errors of the page are those of the report."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_perf.analysis.errors import short
from otel_perf.analysis.summary import summarize
from otel_perf.core.events import BUSINESS_SCOPE
from otel_perf.store.database import StoreReader
from otel_perf.view.reading import Question, Reading
from otel_perf.view.summaries import errors
from tests.view.test_index import build, one_span, put

TRACE = b"t" * 16
STACK = 'Traceback (most recent call last):\n  File "/app/shop/orders.py", line 12, in place\nValueError: no'


def attribute(of, key, value):
    pair = of.attributes.add()
    pair.key, pair.value.string_value = key, value


def failed(trace=TRACE, parent=b"", raised="", stack="", kind="", name="work", sid=b"s" * 8, span_kind=1):
    request = one_span(tid=trace, sid=sid, parent=parent, name=name)
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.status.code, span.status.message, span.kind = 2, "it failed", span_kind
    if raised:
        event = span.events.add()
        event.name = "exception"
        attribute(event, "exception.type", raised)
        attribute(event, "exception.message", "no")
        if stack:
            attribute(event, "exception.stacktrace", stack)
    if kind:
        attribute(span, "error.type", kind)
    return "traces", request


def line(text="it failed", trace=TRACE, raised="", event="", severity=17, logger="app", stack="", says=""):
    request = ExportLogsServiceRequest()
    of = request.resource_logs.add()
    attribute(of.resource, "service.name", "shop")
    scope = of.scope_logs.add()
    scope.scope.name = logger
    record = scope.log_records.add()
    record.time_unix_nano, record.severity_number, record.severity_text = 10**18, severity, "ERROR"
    record.trace_id, record.event_name, record.body.string_value = trace, event, text
    if raised:
        attribute(record, "exception.type", raised)
    if stack:
        attribute(record, "exception.stacktrace", stack)
    if says:
        attribute(record, "exception.message", says)
    return "logs", request


def reported(home):
    reader = StoreReader(home)
    try:
        groups = summarize(reader, top=1000).errors
    finally:
        reader.close()
    found = Counter()
    for group in groups:  # one without a place is of one source, of which only the last is said
        found[short(group.type), group.place or group.source] += group.count
    return found


def shown(path):
    reading = Reading(path)
    assert reading.begin()
    try:
        return Counter({(row["type"], row["spot"]): row["count"] for row in errors(reading, Question({}))["errors"]})
    finally:
        reading.close()


@pytest.mark.parametrize(("says", "told"), [("no stock", "no stock"), ("", "order failed")])
def test_an_exception_is_told_by_what_it_says_itself(says, told, tmp_path):
    """GIVEN ``log.exception("order failed")`` THEN its type stands beside its own message, as in spans."""
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, *line("order failed", raised="ValueError", says=says))
    build(path, home)
    reader = StoreReader(home)
    try:
        (group,) = summarize(reader).errors
    finally:
        reader.close()
    reading = Reading(path)
    assert reading.begin()
    try:
        (row,) = errors(reading, Question({}))["errors"]
    finally:
        reading.close()
    assert (group.message, row["message"]) == (told, told)


CASES = {
    "five lines of one trace": [line(f"line {number}") for number in range(5)],
    "a request from another service that failed": [failed(parent=b"remote!!", span_kind=2)],
    "an exception through several spans, logged as well": [
        failed(raised="builtins.ValueError", sid=b"1" * 8, stack=STACK),
        failed(raised="builtins.ValueError", sid=b"2" * 8),
        line(raised="ValueError"),
    ],
    "the line before the span": [line(raised="ValueError"), failed(raised="ValueError")],
    "a line of another exception": [failed(raised="ValueError"), line(raised="KeyError", stack=STACK)],
    "two types in one trace": [failed(raised="ValueError"), failed(raised="KeyError", sid=b"2" * 8)],
    "failed spans beside one with an exception": [
        failed(sid=b"1" * 8),
        failed(raised="ValueError", sid=b"2" * 8),
        failed(sid=b"3" * 8, kind="timeout"),
    ],
    "failed spans of a trace without any": [failed(sid=b"1" * 8, kind="http.Timeout"), failed(sid=b"2" * 8)],
    "lines without a trace": [line(trace=b""), line(trace=b"", raised="ValueError"), failed(raised="ValueError")],
    "nobody caught it": [line(event="perf.uncaught_error", raised="ValueError", severity=9), line(severity=13)],
    "events that are no lines": [line(event="order.placed", logger=BUSINESS_SCOPE), line(event="perf.request")],
    "a mark that is severe": [line(event="perf.health.changed")],
}


@pytest.mark.parametrize("is_backwards", [False, True], ids=["in order", "backwards"])
@pytest.mark.parametrize("together", [False, True], ids=["built once", "built after each batch"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_errors_are_the_reports(tmp_path, case, is_backwards, together):
    home, path = tmp_path / "home", tmp_path / "index.db"
    for signal, request in case[::-1] if is_backwards else case:
        put(home, signal, request)
        if together:
            build(path, home)
    build(path, home)
    found = shown(path)
    assert sum(found.values()) == sum(reported(home).values())
    if not is_backwards:
        assert found == reported(home)  # of exceptions that are one, the place is that of the first


def test_five_lines_are_five_errors(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    for number in range(5):
        put(home, *line(f"line {number}"))
    build(path, home)
    assert shown(path) == {("ERROR", "log app"): 5}


KINDS = st.sampled_from(["", "ValueError", "app.KeyError"])
TRACES = st.sampled_from([b"1" * 16, b"2" * 16, b"3" * 16])
SPANS = st.builds(lambda trace, raised, kind: failed(trace=trace, raised=raised, kind=kind), TRACES, KINDS, KINDS)
LINES = st.builds(lambda trace, raised: line(trace=trace, raised=raised), st.one_of(TRACES, st.just(b"")), KINDS)


@settings(max_examples=20, deadline=None)
@given(made=st.lists(st.one_of(SPANS, LINES), min_size=1, max_size=15), seed=st.integers(0, 99))
def test_errors_are_the_reports_whatever_comes_and_when(tmp_path_factory, made, seed):
    folder = tmp_path_factory.mktemp("errors")
    home, path, chance = folder / "home", folder / "index.db", random.Random(seed)
    for signal, request in made:
        put(home, signal, request)
        if chance.random() < 0.3:
            build(path, home)
    build(path, home)
    assert shown(path) == reported(home)
