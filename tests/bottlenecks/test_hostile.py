"""Whatever an app does with its spans: nothing raises, nothing grows without a bound, nothing stays, nothing is lost."""

import gc
import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind

from otel_perf.bottlenecks.recorder import OPEN, SPANS
from otel_perf.bottlenecks.root import KINDS
from tests.bottlenecks.conftest import MS, costs_fit, ids, in_threads, kept_of, wait_for

MANY = 20_000


@pytest.fixture
def running(app):
    running = app()
    yield running
    assert costs_fit(running.spans())
    assert running.pipeline.guards.get("bottlenecks") is None or running.pipeline.guards["bottlenecks"].errors == 0


def everything_came(running, made):
    received = ids(running.spans())
    assert set(received) == set(made)
    assert set(received.values()) == {1}


def in_context(span):
    return trace.set_span_in_context(span)


def test_spans_that_never_end_are_counted_once_there_are_too_many(running):
    spans = [running.tracer.start_span("leak") for _ in range(MANY)]
    assert len(running.processor.open) == OPEN
    assert running.processor.skipped == MANY - OPEN
    for span in spans:
        span.end()
    assert len(running.spans()) == MANY
    assert running.processor.open == {} == running.processor.roots


def test_children_that_never_end_do_not_turn_the_feature_off_for_good(running):
    """GIVEN an app that forgets to end one span of each request WHEN it ran for long THEN slow requests are still seen."""
    leaked = []
    for _ in range(OPEN + 10):
        with running.tracer.start_as_current_span("request"):
            leaked.append(running.tracer.start_span("forgotten"))
    with running.tracer.start_as_current_span("slow"):
        running.call("query", 0.6)
    assert "slow_io" in {found["perf.bottleneck.kind"] for span, found in running.findings() if span.name != "request"}


def test_a_child_that_never_ends_does_not_keep_the_rest_of_its_trace(running):
    leaked = []
    for _ in range(3):
        with running.tracer.start_as_current_span("request"):
            leaked.append(running.tracer.start_span("forgotten"))
            for _ in range(100):
                running.tracer.start_span("step").end()
    running.flush()
    traces = {span.get_span_context().trace_id for span in leaked}
    roots = kept_of(traces)
    assert sum(len(root.ended) for root in roots) == 0


def test_a_second_end_changes_nothing(running, made):
    with running.tracer.start_as_current_span("root") as root:
        child = running.tracer.start_span("child", start_time=time.time_ns() - 80 * MS)
        child.end()
        child.end()
    root.end()
    everything_came(running, made)
    assert running.processor.open == {}


def test_children_may_outlive_their_parents(running, made):
    old = time.time_ns() - 300 * MS
    root = running.tracer.start_span("root", start_time=old)
    middle = running.tracer.start_span("middle", in_context(root), start_time=old)
    leaf = running.tracer.start_span("leaf", in_context(middle), start_time=old)
    root.end(old + 100 * MS)
    middle.end(old + 200 * MS)
    late = running.tracer.start_span("late", in_context(middle))
    leaf.end()
    late.end()
    everything_came(running, made)
    assert running.processor.open == {} == running.processor.roots
    assert running.processor.kept == 0
    assert kept_of({root.get_span_context().trace_id}) == []


@pytest.mark.parametrize("shift", [-3_600_000, -60, 60, 3_600_000])
def test_clocks_may_step(running, made, shift):
    """Spans whose end is before their start, or far away from now (ms)."""
    now = time.time_ns()
    with running.tracer.start_as_current_span("root"):
        for name in ("first", "second"):
            running.tracer.start_span(name).end(now + shift * MS)
            running.tracer.start_span(name, start_time=now + shift * MS).end(now)
    running.tracer.start_span("backwards").end(now + shift * MS)
    everything_came(running, made)
    assert running.processor.open == {} == running.processor.roots


def test_an_end_in_the_future_holds_nobody_up(running):
    """GIVEN a root that stays open WHEN a span says that it ends in an hour THEN a flush hands it on, and the next ones."""
    root = running.tracer.start_span("worker")
    with trace.use_span(root):
        running.tracer.start_span("odd").end(time.time_ns() + 3_600_000 * MS)
        running.tracer.start_span("next", start_time=time.time_ns() - 100 * MS).end()
    assert {span.name for span in running.spans()} == {"odd", "next"}
    root.end()


def test_times_that_are_no_integers_break_nothing(running, made):
    now = time.time_ns()
    with running.tracer.start_as_current_span("root", start_time=float(now - 200 * MS)):
        running.tracer.start_span("half", start_time=now - 100 * MS + 0.5, kind=SpanKind.CLIENT).end(now - 0.5)
    assert len(running.processor.open) == 0
    running.flush()
    assert {span.name for span in running.exporter.get_finished_spans()} == {"root", "half"}


def test_links_that_go_in_circles_are_only_links(running, made):
    first = running.tracer.start_span("first", start_time=time.time_ns() - 200 * MS)
    second = running.tracer.start_span("second", in_context(first), links=[Link(first.get_span_context())])
    first.add_link(second.get_span_context())
    second.add_link(second.get_span_context())
    second.end()
    first.end()
    everything_came(running, made)
    by_name = running.by_name()
    assert by_name["first"].links[0].context.span_id == second.get_span_context().span_id
    assert len(by_name["second"].links) == 2


def test_of_a_crowd_of_children_some_are_kept_and_all_are_handed_on(running, made):
    with running.tracer.start_as_current_span("root", start_time=time.time_ns() - 500 * MS):
        for number in range(MANY):
            running.tracer.start_span(f"child {number % (2 * KINDS)}").end()
        (root,) = running.processor.roots.values()
        assert len(root.ended) == SPANS
        assert len(root.counted) == KINDS
        del root
    everything_came(running, made)
    assert running.processor.kept == 0


def test_the_crowd_leaves_nothing_behind(running):
    with running.tracer.start_as_current_span("root", start_time=time.time_ns() - 500 * MS) as root:
        for _ in range(MANY):
            running.tracer.start_span("child").end()
    running.flush()
    assert kept_of({root.get_span_context().trace_id}) == []


def test_the_count_of_what_is_kept_returns_to_zero(running):
    """GIVEN many children, each with a child WHEN the root was looked at, if at all THEN nothing counts as kept."""
    for _ in range(2):
        with running.tracer.start_as_current_span("root"):
            for _ in range(600):
                with running.tracer.start_as_current_span("item"):
                    running.tracer.start_span("query").end()
    running.flush()
    assert running.processor.kept == 0


def test_only_so_many_spans_are_kept_in_the_process(running, made, monkeypatch):
    monkeypatch.setattr(running.processor, "most_kept", 1_000)
    with running.tracer.start_as_current_span("batch", start_time=time.time_ns() - 500 * MS):
        for _ in range(20):
            with running.tracer.start_as_current_span("part"):
                for _ in range(100):
                    running.tracer.start_span("step").end()
        assert 1_000 <= running.processor.kept <= 1_100
    everything_came(running, made)
    assert running.processor.kept == 0


def test_a_trace_whose_calls_are_not_kept_is_not_said_to_be_busy_itself(running, monkeypatch):
    """GIVEN that another root has used up what is kept THEN a request that waits for a call is not taken for its own time."""
    monkeypatch.setattr(running.processor, "most_kept", 100)
    batch = running.tracer.start_span("batch")
    with trace.use_span(batch):
        for _ in range(100):
            running.tracer.start_span("step").end()
    for _ in range(5):
        with running.tracer.start_as_current_span("request"):
            running.call("query", 0.15)
    found = running.findings("self_time", "cpu_bound")
    batch.end()
    assert found == []


def test_names_are_remembered_up_to_a_limit(running):
    for number in range(2_000):
        running.tracer.start_span(f"GET /items/{number}").end()
        with running.tracer.start_as_current_span("root"):
            running.tracer.start_span(f"SELECT {number}", kind=SpanKind.CLIENT).end()
    baselines = running.processor._baselines
    assert len(baselines.roots) == 1_000
    assert len(baselines.clients) == 1_000


def test_long_statements_are_not_remembered_as_a_whole(running):
    """Five hundred bulk inserts of 10 kB each would be 5 MB, for ever; of 1 MB each, half a gigabyte."""
    with running.tracer.start_as_current_span("root"):
        for number in range(500):
            statement = f"INSERT INTO t VALUES ({number}" + 10_000 * "x"
            running.tracer.start_span("INSERT", kind=SpanKind.CLIENT, attributes={"db.statement": statement}).end()
    running.flush()
    running.exporter.clear()
    kept = sum(len(text) for key in running.processor._baselines.clients for text in key)
    assert kept < 1_000_000


def test_the_found_culprits_are_counted_up_to_a_limit(running, monkeypatch):
    monkeypatch.setattr("otel_perf.bottlenecks.analyst.HELD", 60.0)
    long_ago = time.time_ns() - 10_000 * MS
    for number in range(300):
        with running.tracer.start_as_current_span("root", start_time=long_ago):
            running.tracer.start_span(f"call {number}", kind=SpanKind.CLIENT, start_time=long_ago).end()
    running.analyst.flush(60.0)
    readings = list(running.analyst.readings())
    assert len(readings) <= 202
    assert sum(number for number, _ in readings) >= 300
    assert "other" in {attributes["culprit"] for _, attributes in readings}


def test_a_span_of_another_trace_with_a_parent_that_is_open_here_is_a_root(running, made):
    """A caller's id may be anything."""
    outer = running.tracer.start_span("outer")
    odd = trace.SpanContext(1234, outer.get_span_context().span_id, is_remote=True, trace_flags=trace.TraceFlags(1))
    inner = running.tracer.start_span("inner", in_context(trace.NonRecordingSpan(odd)))
    assert len(running.processor.roots) == 2
    inner.end()
    outer.end()
    everything_came(running, made)


def test_spans_that_are_not_sampled_are_not_recorded(app):
    running = app(OTEL_TRACES_SAMPLER="always_off")
    with running.tracer.start_as_current_span("root"):
        running.call("query", 0.01)
    assert running.processor.open == {}
    assert running.spans() == ()


def test_deep_traces_do_not_overflow_a_stack(running, made):
    old = time.time_ns() - 500 * MS
    spans = [running.tracer.start_span("root", start_time=old)]
    for _ in range(1_500):
        spans.append(running.tracer.start_span("level", in_context(spans[-1]), start_time=old))
    for span in reversed(spans):
        span.end()
    everything_came(running, made)
    assert kept_of({spans[0].get_span_context().trace_id}) == []


def lines_of_looking_at(running, queries):
    """Lines of Python that are executed to look at a batch job of so many queries in four parts."""
    clock = itertools.count(time.time_ns() - 60_000 * MS, MS)
    root = running.tracer.start_span("batch", start_time=next(clock))
    for _ in range(4):
        part = running.tracer.start_span("part", in_context(root), start_time=next(clock))
        for _ in range(queries // 4):
            call = running.tracer.start_span(
                "SELECT", in_context(part), kind=SpanKind.CLIENT, start_time=next(clock),
                attributes={"db.system": "sqlite", "db.statement": "SELECT a FROM t WHERE b = ?"},
            )  # fmt: skip
            call.end(next(clock))
        part.end(next(clock))
    root.end(next(clock))
    lines = 0

    def trace(frame, event, argument):
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        running.analyst.flush(60.0)
    finally:
        sys.settrace(before)
    return lines


def test_looking_at_a_large_trace_is_not_quadratic(running):
    """GIVEN a batch job with four times the queries WHEN it is looked at THEN that takes about four times the steps."""
    lines_of_looking_at(running, 40)  # imports, and what is remembered of a statement
    few, many = lines_of_looking_at(running, 200), lines_of_looking_at(running, 800)
    assert few > 1_000
    assert many < 6 * few
    assert len(running.findings("n_plus_one")) >= 8


def test_calls_of_which_none_was_kept_break_no_detector(running, made):
    """GIVEN a root that has as many spans as are kept WHEN it makes calls after that THEN they are only counted."""
    start = time.time_ns() - 2_000 * MS
    root = running.tracer.start_span("root", start_time=start)
    for _ in range(SPANS):
        running.tracer.start_span("step", in_context(root), start_time=start).end(start + 1)
    for _ in range(40):
        running.tracer.start_span("GET", in_context(root), kind=SpanKind.CLIENT, start_time=start).end(start + 900 * MS)
    root.end()
    everything_came(running, made)


def test_threads_that_share_a_root_lose_nothing(running, made):
    root = running.tracer.start_span("root", start_time=time.time_ns() - 200 * MS)

    def work(index):
        for number in range(500):
            old = time.time_ns() - (100 * MS if number % 10 == 0 else 0)
            running.tracer.start_span(f"child {index}", in_context(root), start_time=old).end()

    in_threads(work, 8)
    root.end()
    everything_came(running, made)
    assert running.processor.open == {}
    assert running.processor.kept == 0


def test_a_root_that_ends_in_another_thread_is_looked_at_there(running, made):
    root = running.tracer.start_span("root", start_time=time.time_ns() - 200 * MS)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(root.end).result()
    everything_came(running, made)
    assert "perf.cpu_time" not in running.by_name()["root"].attributes


def test_nothing_stays_after_mixed_work(running):
    traces = set()
    for _ in range(50):
        with running.tracer.start_as_current_span("root", start_time=time.time_ns() - 100 * MS) as root:
            traces.add(root.get_span_context().trace_id)
            with running.tracer.start_as_current_span("part"), ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda _: running.tracer.start_span("job").end(), range(4)))
    running.flush()
    gc.collect()
    assert wait_for(lambda: kept_of(traces) == [], 5)
