"""Every span that is made comes out once, whatever ends first: the root, the feature, the process, a thread of ours."""

import json
import os
import time
from dataclasses import replace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind

from tests.bottlenecks.conftest import MS, ids, in_threads, wait_for
from tests.stored import key_of, process_of, spans


def ago(milliseconds):
    return time.time_ns() - int(milliseconds * MS)


def slow_root(app, name="slow"):
    """A trace that is looked at, and its call that is held back."""
    with app.tracer.start_as_current_span(name, start_time=ago(700)):
        app.tracer.start_span("call", kind=SpanKind.CLIENT, start_time=ago(650)).end()


def flag(path, value):
    path.write_text(json.dumps({"flags": {"perf.bottlenecks": {"variants": {"v": value}, "defaultVariant": "v"}}}))


def once(app, made):
    received = ids(app.spans())
    assert set(received) == set(made)
    assert set(received.values()) <= {1}


def test_short_spans_are_handed_on_at_once(app):
    app = app()
    with app.tracer.start_as_current_span("root"):
        app.tracer.start_span("quick").end()
        app.pipeline.providers.shaper._sinks[-1].force_flush()
        assert [span.name for span in app.spans(flush=False)] == ["quick"]


def test_long_spans_wait_for_their_root_and_a_flush_does_not(app, made):
    app = app()
    root = app.tracer.start_span("root", start_time=ago(200))
    with trace.use_span(root):
        app.tracer.start_span("long", start_time=ago(100)).end()
    app.processor._sinks[-1].force_flush()
    assert app.spans(flush=False) == ()
    assert [span.name for span in app.spans()] == ["long"]
    root.end()
    once(app, made)


def test_a_span_waits_a_second_or_two_for_a_root_that_stays_open(app, made):
    app = app()
    slow_root(app, "first")  # the thread that looks begins with the first root that is slow
    app.flush()
    app.exporter.clear()
    root = app.tracer.start_span("worker")
    with trace.use_span(root):
        app.tracer.start_span("long", start_time=ago(100)).end()

    def came():
        app.processor._sinks[-1].force_flush()
        return [span.name for span in app.spans(flush=False)] == ["long"]

    assert not came()
    assert wait_for(came, 2)
    root.end()


def test_a_span_waits_no_longer_where_no_root_was_slow_before(app):
    """GIVEN a process whose only root is a worker that never ends THEN its slow spans come out all the same."""
    app = app()
    root = app.tracer.start_span("worker")
    with trace.use_span(root):
        app.tracer.start_span("long", start_time=ago(100)).end()

    def came():
        app.processor._sinks[-1].force_flush()
        return len(app.spans(flush=False)) == 1

    assert wait_for(came, 2)
    root.end()


def test_shutdown_hands_on_what_is_held(app, made):
    app = app()
    slow_root(app)
    root = app.tracer.start_span("open", start_time=ago(200))
    with trace.use_span(root):
        app.tracer.start_span("held", start_time=ago(100)).end()
    app.pipeline.shutdown()
    received = ids(app.spans(flush=False))
    made.remove((root.get_span_context().trace_id, root.get_span_context().span_id))
    assert received == dict.fromkeys(made, 1)


def test_the_store_and_another_exporter_get_the_same(app, made, home):
    app = app()
    for _ in range(3):
        slow_root(app)
    other = {(f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"): span for span in app.spans()}
    app.pipeline.shutdown()
    stored = {key_of(span): span for span in spans(home)}
    assert len(stored) == len(made) == 6
    assert stored.keys() == other.keys()
    for key, span in stored.items():
        assert span.attributes.get("perf.bottleneck.kinds") == other[key].attributes.get("perf.bottleneck.kinds") or (
            tuple(span.attributes["perf.bottleneck.kinds"]) == other[key].attributes["perf.bottleneck.kinds"]
        )
    assert sum("perf.bottleneck" in span.attributes for span in stored.values()) == 3


def test_turning_it_off_hands_on_what_is_held(app, made, tmp_path):
    path = tmp_path / "flags.json"
    flag(path, True)
    app = app(OTEL_PERF_FLAGS_FILE=str(path))
    slow_root(app)
    root = app.tracer.start_span("open", start_time=ago(200))
    with trace.use_span(root):
        app.tracer.start_span("held", start_time=ago(100)).end()
        flag(path, False)
        app.pipeline.reload()
        app.processor._sinks[-1].force_flush()
        assert {span.name for span in app.spans(flush=False)} == {"slow", "call", "held"}
        app.tracer.start_span("after", start_time=ago(100)).end()
    root.end()
    once(app, made)


def test_turning_it_on_and_off_under_load_loses_nothing(app, made, tmp_path):
    path = tmp_path / "flags.json"
    flag(path, True)
    app = app(OTEL_PERF_FLAGS_FILE=str(path))
    stop = time.monotonic() + 0.8

    def work(index):
        if index == 0:
            value = True
            while time.monotonic() < stop:
                value = not value
                flag(path, value)
                app.pipeline.reload()
                time.sleep(0.01)
            return
        while time.monotonic() < stop or len(made) <= 50:
            slow_root(app)
            time.sleep(0.002)

    in_threads(work, 5)
    assert len(made) > 50
    once(app, made)


def test_many_threads_lose_nothing(app, made):
    app = app()

    def work(index):
        for number in range(40):
            with app.tracer.start_as_current_span("root", start_time=ago(80 if number % 4 else 10)):
                for _ in range(5):
                    app.tracer.start_span("step", start_time=ago(60 if number % 3 else 1)).end()

    in_threads(work, 16)
    assert len(made) == 16 * 40 * 6
    once(app, made)


def test_flushes_at_the_same_time_hand_nothing_on_twice(app, made):
    app = app()

    def work(index):
        for _ in range(20):
            slow_root(app)
            app.flush()

    in_threads(work, 8)
    once(app, made)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_splits_the_spans_between_parent_and_child(app, home):
    """Open, held and queued ones are the parent's; the child looks at its own, with threads of its own."""
    app = app()
    slow_root(app, "queued")
    root = app.tracer.start_span("around", start_time=ago(300))
    with trace.use_span(root):
        app.tracer.start_span("held", start_time=ago(100)).end()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                assert app.processor.open == {}
                app.tracer.start_span("inside").end()
                root.end()
                with trace.use_span(trace.INVALID_SPAN):
                    slow_root(app, "child")
                    with app.tracer.start_as_current_span("watched"):
                        assert wait_for(lambda: any(root.samples for root in app.processor.roots.values()), 5)
                assert wait_for(lambda: not app.analyst._queue, 5)
                app.pipeline.flush(5)
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0
    root.end()
    with app.tracer.start_as_current_span("later"):
        assert wait_for(lambda: any(root.samples for root in app.processor.roots.values()), 5)
    app.pipeline.shutdown()
    stored = spans(home)
    assert len({key_of(span) for span in stored}) == len(stored)
    by_process = {}
    for span in stored:
        by_process.setdefault(process_of(span), set()).add(span.name)
    mine = next(names for names in by_process.values() if "around" in names)
    childs = next(names for names in by_process.values() if "child" in names)
    assert mine == {"queued", "call", "held", "around", "later"}
    assert childs == {"inside", "child", "call", "watched"}
    flagged = [span for span in stored if span.attributes.get("perf.bottleneck")]
    assert {span.name for span in flagged} >= {"queued", "child"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_does_not_report_what_its_parent_found(app):
    app = app()
    slow_root(app)
    app.flush()
    assert sum(number for number, _ in app.analyst.readings()) > 0
    pid = os.fork()
    if pid == 0:
        os._exit(sum(number for number, _ in app.analyst.readings()))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_the_ones_own_parts_are_flushed_before_an_exporter_that_hangs(app):
    """A signal leaves two seconds: what is ours is made durable before somebody else's exporter is asked."""
    app = app()
    order = []

    class Ours(SpanProcessor):
        def __init__(self, part):
            self.part = part

        def force_flush(self, timeout_millis=30000):
            order.append("ours")
            return self.part.force_flush(timeout_millis)

    providers = app.pipeline.providers
    exporting = app.processor._sinks[-1]
    original = exporting.force_flush

    def force_flush(timeout_millis=None):
        order.append("theirs")
        return original(timeout_millis)

    exporting.force_flush = force_flush
    own = tuple(part if part is app.processor else Ours(part) for part in providers.own)
    app.pipeline.providers = replace(providers, own=own)
    app.pipeline.flush(2.0)
    assert order.index("theirs") > max(index for index, whose in enumerate(order) if whose == "ours")
