"""The summary: what came since the last one, each period and at the end, and only once."""

import functools
import json
import logging
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace import SpanKind

import otel_perf as perf
from otel_perf.logs.summary import Summary
from otel_perf.memory.caches import LRUCache
from tests.e2e.support import wait_for
from tests.stored import events

HOUR = {"OTEL_PERF_LOGS_SUMMARY": "1h"}


def summaries(home):
    return events(home, "perf.summary")


def summary_of(pipeline):
    return pipeline.features["logs"].feature._assembly._summary


def make(pipeline):
    """What the thread that cleans up does, once requests that the machine made slow have been looked at."""
    assert pipeline.providers.tracer.force_flush()
    for _ in summary_of(pipeline).run():
        pass


def serve(route, failed=False):
    attributes = {
        "http.request.method": "GET",
        "http.route": route,
        "http.response.status_code": 500 if failed else 200,
    }
    with trace.get_tracer("t").start_as_current_span(route, kind=SpanKind.SERVER, attributes=attributes):
        pass


def test_it_says_what_there_was(start, home):
    pipeline = start(**HOUR)
    cache = LRUCache("prices", max_entries=10)

    @functools.lru_cache
    def known(number):
        return number

    @perf.monitored(name="work")
    def work(number):
        return 10 / number

    @perf.monitored(name="more")
    def more():
        for _ in range(5):
            work(1)

    for route, failed in (("/a", False), ("/a", True), ("/b", False)):
        serve(route, failed)
    more()
    with pytest.raises(ZeroDivisionError):
        work(0)
    cache.get("missing"), known(1), known(1)
    logging.getLogger("shop").warning("x")
    logging.getLogger("shop").error("y")
    perf.business_event("order.placed")
    query = {"db.system": "sqlite", "db.statement": "SELECT 1"}
    with (
        trace.get_tracer("t").start_as_current_span("slow"),
        trace.get_tracer("t").start_as_current_span("SELECT", kind=SpanKind.CLIENT, attributes=query),
    ):
        time.sleep(0.55)
    pipeline.shutdown()
    (summary,) = summaries(home)
    found = summary.attributes
    assert found["perf.summary.reason"] == "exit"
    assert 0.55 <= found["perf.summary.period"] < 60
    assert (found["perf.summary.requests"], found["perf.summary.requests.failed"]) == (3, 1)
    assert {row["name"]: (row["count"], row["failed"]) for row in found["perf.summary.routes"]} == {
        "GET /a": (2, 1), "GET /b": (1, 0),
    }  # fmt: skip
    functions = {row["name"]: row for row in found["perf.summary.functions"]}
    assert {name: (row["calls"], row["errors"]) for name, row in functions.items()} == {"work": (6, 1), "more": (1, 0)}
    assert 0 < functions["more"]["self_time"] < functions["more"]["time"]
    assert (found["perf.summary.logs.warn"], found["perf.summary.logs.error"]) == (1, 1)
    assert found["perf.summary.events"] == 1
    assert found["perf.summary.findings"] >= 1
    assert found["perf.summary.findings.kinds"]["slow_io"] == 1
    caches = {row["name"].rpartition(".")[2]: (row["hits"], row["misses"]) for row in found["perf.summary.caches"]}
    assert caches == {"prices": (0, 1), "known": (1, 1)}
    assert found["perf.summary.memory"] > 10_000_000
    assert found["perf.summary.cpu_time"] >= 0
    assert found["perf.summary.gc.collections"] >= 0
    assert "3 requests (1 failed" in summary.body
    assert "lines: 1 warn, 1 error" in summary.body
    del cache


def test_one_comes_each_period_from_the_thread_that_cleans_up(start, home):
    pipeline = start(OTEL_PERF_LOGS_SUMMARY="100ms", OTEL_PERF_STORE_DELAY="50ms")
    serve("/a")
    wait_for(lambda: len(summaries(home)) >= 3, what="three summaries")
    pipeline.shutdown()
    found = [summary.attributes for summary in summaries(home)]
    assert {entry["perf.summary.reason"] for entry in found[:3]} == {"interval"}
    assert sum(entry.get("perf.summary.requests", 0) for entry in found) == 1


def test_nothing_is_told_twice_and_nothing_is_left_out(start, home):
    pipeline = start(**HOUR)

    @perf.monitored(name="work")
    def work():
        """Nothing."""

    for number in (3, 0, 2):
        for _ in range(number):
            serve("/a")
            work()
            logging.getLogger("shop").warning("x")
            perf.business_event("order.placed")
        make(pipeline)
    serve("/a")
    pipeline.shutdown()
    found = [summary.attributes for summary in summaries(home)]
    assert [entry.get("perf.summary.requests", 0) for entry in found] == [3, 0, 2, 1]
    assert [entry.get("perf.summary.logs.warn", 0) for entry in found] == [3, 0, 2, 0]
    assert [entry.get("perf.summary.events", 0) for entry in found] == [3, 0, 2, 0]
    calls = [sum(row["calls"] for row in entry.get("perf.summary.functions", ())) for entry in found]
    assert calls == [3, 0, 2, 0]


@given(st.integers(0, 1000), st.lists(st.integers(0, 1000), max_size=20))
def test_differences_of_a_counter_add_up_to_what_it_counted(first, additions):
    summary = Summary.__new__(Summary)
    summary._before = {"a": first}
    total, told = first, 0
    for number in additions:
        total += number
        told += summary._since_last("a", total)
    assert told == sum(additions)


def test_a_counter_that_begins_anew_is_told_from_there():
    summary = Summary.__new__(Summary)
    summary._before = {"a": 10}
    assert [summary._since_last("a", value) for value in (12, 3, 3, 5)] == [2, 3, 0, 2]


def test_a_program_that_did_nothing_says_nothing_at_its_end(start, home):
    pipeline = start(**HOUR)
    with trace.get_tracer("t").start_as_current_span("a script"):
        pass
    pipeline.shutdown()
    assert [said for said in summaries(home) if "perf.summary.findings" not in said.attributes] == []


@pytest.mark.parametrize("variables", [{"OTEL_PERF_LOGS_SUMMARY": "0"}, {"OTEL_PERF_LOGS": "off", **HOUR}])
def test_it_can_be_turned_off(start, home, variables):
    pipeline = start(**variables)
    serve("/a")
    pipeline.shutdown()
    assert summaries(home) == []


def test_requests_are_summed_up_without_their_records(start, home):
    pipeline = start(OTEL_PERF_LOGS_REQUESTS="off", **HOUR)
    serve("/a")
    pipeline.shutdown()
    assert events(home, "perf.request") == []
    assert summaries(home)[0].attributes["perf.summary.requests"] == 1


def test_a_sudden_end_has_one_too_and_the_child_tells_only_its_own(start, home):
    pipeline = start(**HOUR)
    cache = LRUCache("prices", max_entries=10)
    for _ in range(3):
        serve("/parent")
        cache.get("missing")
        perf.business_event("parents")
    pid = os.fork()
    if pid == 0:
        try:
            serve("/child")
            cache.get("missing")
            pipeline.flush()
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    pipeline.shutdown()
    by_route = {summary.attributes["perf.summary.routes"][0]["name"]: summary.attributes for summary in summaries(home)}
    child, parent = by_route["GET /child"], by_route["GET /parent"]
    assert (child["perf.summary.requests"], parent["perf.summary.requests"]) == (1, 3)
    assert (child["perf.summary.cache.misses"], parent["perf.summary.cache.misses"]) == (1, 3)
    assert "perf.summary.events" not in child
    del cache


def test_the_end_does_not_wait_for_one_that_is_being_made(start, home):
    pipeline = start(**HOUR)
    serve("/a")
    half = summary_of(pipeline).run()
    next(half)  # the thread that makes it is stopped here, perhaps for ever
    began = time.monotonic()
    pipeline.shutdown()
    assert time.monotonic() - began < 5
    assert summaries(home) == []
    half.close()


def test_routes_are_bounded(start, home, monkeypatch):
    monkeypatch.setattr("otel_perf.logs.request_record.ROUTES", 3)
    pipeline = start(**HOUR)
    for number in range(10):
        serve(f"/{number}")
    pipeline.shutdown()
    found = summaries(home)[0].attributes
    assert found["perf.summary.requests"] == 10
    assert {row["name"]: row["count"] for row in found["perf.summary.routes"]}["other"] == 7


def test_a_part_that_fails_costs_the_app_nothing(start, absorbing, monkeypatch):
    pipeline = start(**HOUR)
    serve("/a")
    monkeypatch.setattr(Summary, "_of_requests", lambda *_: 1 / 0)
    pipeline.flush()
    assert pipeline.guards["logs"].errors == 1


def test_it_is_json_that_others_can_read(start, home):
    pipeline = start(**HOUR)
    serve("/a")
    pipeline.shutdown()
    assert json.loads(json.dumps(summaries(home)[0].attributes))["perf.summary.requests"] == 1
