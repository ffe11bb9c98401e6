"""The wide record: one a request, with its own numbers and nobody else's."""

import logging
import os
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, set_span_in_context

from otel_perf.core import cleaning, lookups, resident
from otel_perf.logs import request_record
from otel_perf.logs import requests as module
from otel_perf.logs.requests import Requests
from otel_perf.memory.caches import LRUCache
from tests.bottlenecks.conftest import NOISE
from tests.e2e.support import wait_for
from tests.stored import events, logs

TRACER = "t"
HTTP = {"http.request.method": "GET", "http.route": "/orders/{id}", "url.path": "/orders/7", "url.query": "key=secret"}


def tracer():
    return trace.get_tracer(TRACER)


def serve(name="GET /orders/{id}", kind=SpanKind.SERVER, attributes=HTTP, **options):
    return tracer().start_as_current_span(name, kind=kind, attributes=attributes, **options)


def call(attributes, inner=None):
    with tracer().start_as_current_span("call", kind=SpanKind.CLIENT, attributes=attributes):
        if inner is not None:
            call(inner)


def records(home):
    return events(home, "perf.request")


def remote(trace_id, span_id=1):
    """The context of a request that another process made."""
    return set_span_in_context(NonRecordingSpan(SpanContext(trace_id, span_id, True, TraceFlags(1))))


# --- what is in it -----------------------------------------------------------------------------------


def test_a_request_is_one_record(start, home, monkeypatch):
    monkeypatch.setattr(lookups, "_again", time.perf_counter() + 3600)
    pipeline = start()
    with serve() as span:
        call({"db.system": "sqlite", "db.statement": "SELECT 1"})
        call({"db.system.name": "postgresql", "db.query.text": "SELECT 2"})
        call({"http.request.method": "GET", "url.full": "http://x/"})
        call({"rpc.system": "grpc"})
        with tracer().start_as_current_span("inner"):
            logging.getLogger("shop").warning("careful")
        logging.getLogger("shop").error("broken")
        logging.getLogger("shop").warning("again")
        span.set_attribute("http.response.status_code", 201)
    pipeline.shutdown()
    (record,) = records(home)
    found = record.attributes
    assert record.body.startswith("GET /orders/{id} 201 in ")
    assert record.severity_text == "INFO"
    assert record.trace_id == f"{span.get_span_context().trace_id:032x}"
    assert record.span_id == f"{span.get_span_context().span_id:016x}"
    took = found.pop("perf.request.duration")
    times = [found.pop(f"perf.request.{kind}.time") for kind in ("db", "http", "other")]
    assert all(0 < seconds < took for seconds in times)
    assert 0 <= found.pop("perf.request.cpu_time") <= took + 0.02
    assert isinstance(found.pop("perf.request.memory.growth"), int)
    assert {name: value for name, value in found.items() if not name.startswith("perf.bottleneck.")} == {
        "perf.request.name": "GET /orders/{id}", "perf.request.kind": "server", "perf.request.spans": 5,
        "perf.request.overlapping": 0, "http.request.method": "GET", "http.route": "/orders/{id}",
        "http.response.status_code": 201, "perf.request.db.calls": 2, "perf.request.http.calls": 1,
        "perf.request.other.calls": 1, "perf.request.logs.warn": 2, "perf.request.logs.error": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("seconds", "said"), [(0.0123456, "12.3"), (2.4503, "2,450"), (0.99996, "1,000")])
def test_its_sentence_has_no_exponent(seconds, said):
    sentence = request_record._sentence(SimpleNamespace(name="GET"), HTTP, {"perf.request.duration": seconds})
    assert sentence == f"GET /orders/{{id}} in {said} ms"


def test_old_conventions_are_read_and_the_query_is_left_out(start, home):
    pipeline = start()
    with serve("GET", attributes={"http.method": "GET", "http.target": "/a/b?token=secret", "http.status_code": 404}):
        pass
    with serve("GET", attributes={"http.method": "GET", "http.url": "https://user:pw@host/c?token=secret"}):
        pass
    pipeline.shutdown()
    found = {record.attributes["url.path"]: record.attributes for record in records(home)}
    assert sorted(found) == ["/a/b", "/c"]
    assert (found["/a/b"]["http.request.method"], found["/a/b"]["http.response.status_code"]) == ("GET", 404)
    assert "secret" not in repr(found)


def test_a_message_that_is_handled_is_a_record(start, home):
    pipeline = start()
    with serve(
        "run/tasks.add", SpanKind.CONSUMER, {"celery.task_name": "tasks.add", "messaging.destination": "celery"}
    ):
        pass
    pipeline.shutdown()
    (record,) = records(home)
    assert record.attributes["perf.request.kind"] == "consumer"
    assert record.attributes["celery.task_name"] == "tasks.add"
    assert record.attributes["messaging.destination.name"] == "celery"
    assert record.body.startswith("run/tasks.add in ")


@pytest.mark.parametrize("kind", [SpanKind.INTERNAL, SpanKind.CLIENT, SpanKind.PRODUCER])
def test_other_roots_are_none(start, home, kind):
    pipeline = start()
    with serve("work", kind), serve("below"):  # a server span below another one is no request of its own
        pass
    pipeline.shutdown()
    assert records(home) == []


def test_a_call_of_a_driver_within_one_of_an_orm_is_one_call(start, home):
    pipeline = start()
    with serve():
        call({"db.system": "postgresql"}, inner={"db.system": "postgresql", "db.statement": "SELECT 1"})
        call({"http.method": "GET"}, inner={"http.method": "GET"})
        with tracer().start_as_current_span("between"):
            call({"rpc.system": "grpc"}, inner={"http.method": "POST"})
    pipeline.shutdown()
    found = records(home)[0].attributes
    assert [found.get(f"perf.request.{kind}.calls") for kind in ("db", "http", "other")] == [1, 1, 1]
    assert found["perf.request.db.time"] < found["perf.request.duration"]
    assert found["perf.request.http.time"] >= 0


def test_an_error_is_a_record_too(start, home):
    pipeline = start()
    with pytest.raises(ZeroDivisionError), serve():
        1 / 0  # noqa: B018
    with serve() as span:
        span.set_attribute("http.response.status_code", 503)
    with serve(record_exception=False, end_on_exit=False) as span:
        try:
            raise ValueError("half")
        except ValueError:
            span.set_status(StatusCode.ERROR)
            span.end()
    pipeline.shutdown()
    failed, refused, ended = records(home)
    assert (failed.severity_text, refused.severity_text, ended.severity_text) == ("ERROR", "ERROR", "ERROR")
    assert failed.attributes["exception.type"] == "ZeroDivisionError"
    assert failed.attributes["exception.message"] == "division by zero"
    assert "exception.type" not in refused.attributes
    assert ended.attributes["exception.type"] == "ValueError"


def test_an_exception_that_was_handled_is_none(start, home):
    pipeline = start()
    try:
        raise ValueError("handled")
    except ValueError:
        with serve():
            pass
    pipeline.shutdown()
    assert "exception.type" not in records(home)[0].attributes
    assert records(home)[0].severity_text == "INFO"


def test_what_was_found_of_bottlenecks_is_on_it(start, home):
    pipeline = start()
    query = {"db.system": "sqlite", "db.statement": "SELECT 1"}
    with serve(), tracer().start_as_current_span("SELECT", kind=SpanKind.CLIENT, attributes=query):
        time.sleep(0.55)
    with serve("quick"):
        pass
    pipeline.shutdown()
    by_name = {record.attributes["perf.request.name"]: record.attributes for record in records(home)}
    slow = by_name["GET /orders/{id}"]
    assert "slow_io" in slow["perf.bottleneck.kinds"]
    assert slow["perf.bottleneck.cost"] > 0.1
    assert slow["perf.bottleneck.top"]
    assert NOISE.issuperset(by_name["quick"].get("perf.bottleneck.kinds", ()))


def test_there_is_one_without_the_detection_of_bottlenecks(start, home):
    pipeline = start(OTEL_PERF_BOTTLENECKS="off")
    with serve():
        pass
    pipeline.shutdown()
    assert len(records(home)) == 1


def test_cache_look_ups_of_that_time_are_on_it(start, home, monkeypatch):
    monkeypatch.setattr(lookups, "REST", 0)
    monkeypatch.setattr(lookups, "_again", 0.0)  # whatever tests before it have read
    pipeline = start()
    cache = LRUCache("prices", max_entries=10)
    cache["a"] = 1
    with serve():
        for key in ("a", "a", "a", "b"):
            cache.get(key)
    pipeline.shutdown()
    found = records(home)[0].attributes
    assert (found["perf.request.cache.hits"], found["perf.request.cache.misses"]) == (3, 1)
    del cache


def test_cache_look_ups_of_an_earlier_request_are_not_on_it(start, home, monkeypatch):
    """GIVEN caches that are read as the first one begins, and may be read again as the second one ends."""
    pipeline = start()
    cache = LRUCache("prices", max_entries=10)
    cache["a"] = 1
    monkeypatch.setattr(lookups, "_again", 0.0)
    with serve("first"):
        monkeypatch.setattr(lookups, "_again", time.perf_counter() + 3600)
        for _ in range(3):
            cache.get("a")
    with serve("second"):
        cache.get("a")
        monkeypatch.setattr(lookups, "_again", 0.0)
    pipeline.shutdown()
    hits = {r.attributes["perf.request.name"]: r.attributes.get("perf.request.cache.hits") for r in records(home)}
    assert hits == {"first": 3, "second": None}
    del cache


def test_what_is_not_known_of_caches_is_left_out(start, home, monkeypatch):
    monkeypatch.setattr(lookups, "_again", time.perf_counter() + 3600)
    pipeline = start()
    with serve():
        pass
    pipeline.shutdown()
    assert not [name for name in records(home)[0].attributes if "cache" in name]


def test_memory_that_a_request_takes_is_on_it(start, home, monkeypatch):
    monkeypatch.setattr(resident, "RECENT", 0)
    pipeline = start()
    with serve():
        kept = bytearray(os.urandom(1)) * 50_000_000
    pipeline.shutdown()
    assert records(home)[0].attributes["perf.request.memory.growth"] > 40_000_000
    del kept


def test_cpu_is_the_threads_and_is_left_out_where_the_span_changes_threads(start, home):
    pipeline = start()
    with serve("here"):
        until = time.thread_time() + 0.03
        while time.thread_time() < until:
            pass
    span = tracer().start_span("moved", kind=SpanKind.SERVER)
    thread = threading.Thread(target=span.end)
    thread.start()
    thread.join()

    async def coroutine():
        with serve("loop"):
            pass

    import asyncio

    asyncio.run(coroutine())
    pipeline.shutdown()
    cpu = {r.attributes["perf.request.name"]: r.attributes.get("perf.request.cpu_time") for r in records(home)}
    assert 0.03 <= cpu["here"] < 0.2
    assert cpu["moved"] is None
    assert cpu["loop"] is None


class RecordOnly(Sampler):
    def should_sample(self, parent_context, trace_id, name, *arguments, **options):
        kinds = {"drop": Decision.DROP, "only": Decision.RECORD_ONLY}
        return SamplingResult(kinds.get(name, Decision.RECORD_AND_SAMPLE))

    def get_description(self):
        return "by name"


def test_a_span_that_is_recorded_but_not_sampled_has_a_record(start, home):
    pipeline = start()
    pipeline.providers.tracer.sampler = RecordOnly()
    for name in ("drop", "only", "sampled"):
        with serve(name):
            pass
    pipeline.shutdown()
    # What is sampled may have been looked at by now, and need not wait for it.
    assert sorted(record.attributes["perf.request.name"] for record in records(home)) == ["only", "sampled"]


@pytest.mark.parametrize("variables", [{"OTEL_PERF_LOGS_REQUESTS": "off"}, {"OTEL_PERF_LOGS": "off"}])
def test_they_can_be_turned_off(start, home, variables):
    pipeline = start(**variables)
    with serve():
        pass
    pipeline.shutdown()
    assert records(home) == []


# --- whose is what -----------------------------------------------------------------------------------


def test_two_requests_of_one_trace_in_one_process_keep_theirs(start, home):
    """A service that calls itself: both have the trace id, and what is under each is its own."""
    pipeline = start()
    context = remote(0xABC)
    outer = tracer().start_span("outer", kind=SpanKind.SERVER, context=context)
    below = set_span_in_context(outer)
    inner = tracer().start_span("inner", kind=SpanKind.SERVER, context=remote(0xABC, 2))
    within = set_span_in_context(inner)
    deep = tracer().start_span("deep", context=within)
    for parent, number in ((below, 1), (within, 2), (set_span_in_context(deep), 3)):
        for _ in range(number):
            tracer().start_span("q", kind=SpanKind.CLIENT, attributes={"db.system": "x"}, context=parent).end()
    with trace.use_span(deep):
        logging.getLogger("shop").warning("inner's")
    with trace.use_span(outer, end_on_exit=False):
        logging.getLogger("shop").error("outer's")
    deep.end()
    late = tracer().start_span("late", context=below)
    outer.end()  # the first one ends first
    late.end()
    tracer().start_span("q", kind=SpanKind.CLIENT, attributes={"db.system": "x"}, context=within).end()
    inner.end()
    pipeline.shutdown()
    found = {record.attributes["perf.request.name"]: record.attributes for record in records(home)}
    assert found["outer"]["perf.request.db.calls"] == 1
    assert found["inner"]["perf.request.db.calls"] == 6
    assert found["outer"].get("perf.request.logs.error") == 1
    assert "perf.request.logs.warn" not in found["outer"]
    assert found["inner"].get("perf.request.logs.warn") == 1
    assert found["outer"]["perf.request.overlapping"] == found["inner"]["perf.request.overlapping"] == 1


def test_concurrent_requests_are_not_mixed_up(start, home):
    pipeline = start(OTEL_PERF_STORE_QUEUE="10000")
    barrier = threading.Barrier(16)

    def work(number):
        barrier.wait(10)
        for _ in range(10):
            with serve(f"r{number}"):
                for _ in range(number):
                    call({"db.system": "x"})
                logging.getLogger("shop").log(logging.ERROR if number % 2 else logging.WARNING, "x")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipeline.shutdown()
    found = records(home)
    assert len(found) == 160
    for record in found:
        number = int(record.attributes["perf.request.name"][1:])
        assert record.attributes.get("perf.request.db.calls", 0) == number
        assert record.attributes.get("perf.request.logs.error", 0) == number % 2
        assert record.attributes.get("perf.request.logs.warn", 0) == (number + 1) % 2


def span_of(name, context, parent, kind=SpanKind.INTERNAL):
    """What a processor sees of a span."""
    return SimpleNamespace(
        _context=context, context=context, _parent=parent, _kind=kind, kind=kind, name=name, _attributes=None,
        attributes={"db.system": "x"}, _start_time=0, _end_time=1, events=(),
        _status=SimpleNamespace(status_code=StatusCode.UNSET), status=SimpleNamespace(status_code=StatusCode.UNSET),
    )  # fmt: skip


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 30)), max_size=60))
def test_any_order_of_starts_and_ends_counts_each_span_for_its_own_request(steps):
    """Requests in 3 traces, children under any open span: a model that walks up the tree says whose each is."""
    requests = Requests(lambda: None)
    requests.on = True
    open_spans, expected, number = [], {}, 0

    def root_of(span):
        while span.above is not None:
            span = span.above
        return span

    for action, trace_number, choice in steps:
        if action == 0 or not open_spans:  # a request
            number += 1
            context = SpanContext(trace_number % 3 + 1, number, False, TraceFlags(1))
            span = span_of("r", context, None, SpanKind.SERVER)
            span.above = None
            expected[number] = 0
        elif action in {1, 2}:  # a call under an open span
            above = open_spans[choice % len(open_spans)]
            number += 1
            context = SpanContext(above.context.trace_id, number, False, TraceFlags(1))
            span = span_of("c", context, above.context, SpanKind.CLIENT)
            span.above = above
        else:  # an open one ends
            span = open_spans.pop(choice % len(open_spans))
            is_leaf = span.above is not None and all(other.above is not span for other in open_spans)
            root = root_of(span)
            if span.above is not None and root in open_spans and is_leaf:
                expected[root.context.span_id] += 1
                requests.on_end(span)
            elif span.above is None:
                below = [other for other in open_spans if root_of(other) is span]
                for other in below:  # what outlives its request is left out
                    open_spans.remove(other)
                requests.on_end(span)
            else:
                open_spans.append(span)
            continue
        requests.on_start(span)
        open_spans.append(span)
    for span in [span for span in open_spans if span.above is None]:
        requests.on_end(span)
    assert {span_id: request.spans for span_id, request in requests.ended.items()} == expected
    assert requests._open == {}


# --- bounds and life ---------------------------------------------------------------------------------


def test_open_requests_are_bounded(start, home, monkeypatch):
    monkeypatch.setattr(module, "OPEN", 5)
    pipeline = start()
    requests = pipeline.features["logs"].feature._assembly._requests
    leaked = [tracer().start_span("leaked", kind=SpanKind.SERVER) for _ in range(20)]
    assert len(requests._open) == 5
    assert requests.dropped == 15
    for span in leaked:
        span.end()
    pipeline.shutdown()
    assert len(records(home)) == 5


def test_spans_of_a_shared_trace_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "SHARED", 3)
    requests = Requests(lambda: None)
    requests.on = True
    roots = [span_of("r", SpanContext(1, number, False, TraceFlags(1)), None, SpanKind.SERVER) for number in (1, 2)]
    for root in roots:
        requests.on_start(root)
    for number in range(3, 50):
        requests.on_start(span_of("c", SpanContext(1, number, False, TraceFlags(1)), roots[1].context))
    assert len(requests._open[1].others.owners) <= 3


def test_records_come_from_the_thread_that_cleans_up(start, home, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.05)
    pipeline = start(OTEL_PERF_STORE_DELAY="50ms")
    with serve():
        pass
    wait_for(lambda: records(home), what="the record")
    assert [task.name for task in cleaning.tasks if "request" in task.name] == ["otel_perf.logs: request records"]
    pipeline.shutdown()
    assert len(records(home)) == 1
    assert [task.name for task in cleaning.tasks if "request" in task.name] == []


@pytest.mark.parametrize("waiting", [0, 3])
def test_nothing_waits_for_ever(start, home, monkeypatch, waiting):
    """Without the thread that cleans up, or when it is late, records are emitted where their request ends."""
    monkeypatch.setattr(module, "WAITING", waiting)
    pipeline = start(OTEL_PERF_CLEANUP="on" if waiting else "off")
    for _ in range(10):
        with serve():
            pass
    requests = pipeline.features["logs"].feature._assembly._requests
    assert len(requests._waiting) <= waiting
    pipeline.shutdown()
    assert len(records(home)) == 10


def test_a_forked_child_leaves_the_parents_requests_alone(start, home):
    pipeline = start()
    with serve("before"):
        pass
    with serve("around"):
        pid = os.fork()
        if pid == 0:
            try:
                with tracer().start_as_current_span(
                    "child's", kind=SpanKind.SERVER, context=trace.set_span_in_context(trace.INVALID_SPAN)
                ):
                    pass
                pipeline.flush()
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    pipeline.shutdown()
    assert sorted(record.attributes["perf.request.name"] for record in records(home)) == ["around", "before", "child's"]


def test_turning_the_feature_off_stops_it_and_emits_what_waits(start, home):
    pipeline = start()
    with serve("kept"):
        pass
    still = tracer().start_span("open", kind=SpanKind.SERVER)
    pipeline.step_down("logs", "the test")
    still.end()
    with serve("after"):
        pass
    pipeline.shutdown()
    assert [record.attributes["perf.request.name"] for record in records(home)] == ["kept"]


def test_a_slow_request_has_its_record_when_it_is_turned_off_while_that_is_looked_at(start, home):
    """GIVEN a request that waits for what is found of bottlenecks WHEN the feature is turned off THEN it is emitted."""
    pipeline = start()
    with serve("slow", start_time=time.time_ns() - 100_000_000):
        pass
    requests = pipeline.features["logs"].feature._assembly._requests
    pipeline.step_down("logs", "the test")
    assert not requests.ended
    pipeline.shutdown()
    assert [record.attributes["perf.request.name"] for record in records(home)] == ["slow"]


@pytest.mark.parametrize("where", ["_begin", "_end"])
def test_an_internal_error_leaves_the_span_alone(start, home, absorbing, monkeypatch, where):
    from tests.stored import spans

    pipeline = start()
    monkeypatch.setattr(Requests, where, lambda *_: 1 / 0)
    with serve():
        pass
    assert pipeline.guards["logs"].errors >= 1
    pipeline.shutdown()
    assert len(spans(home)) == 1


def test_levels_of_the_apps_own_count_for_the_nearest_one_below(start, home):
    logging.addLevelName(25, "NOTICE")
    pipeline = start()
    with serve():
        logging.getLogger("shop").setLevel(1)
        for level in (5, 10, 25, 50):
            logging.getLogger("shop").log(level, "x")
        logging.getLogger("shop").setLevel(0)
    pipeline.shutdown()
    found = records(home)[0].attributes
    levels = ("debug", "info", "warn", "error", "fatal")
    assert [found.get(f"perf.request.logs.{level}", 0) for level in levels] == [2, 1, 0, 0, 1]
    assert len([entry for entry in logs(home) if not entry.event_name]) == 4
