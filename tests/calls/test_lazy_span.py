"""A lazy span is OpenTelemetry's span at any moment, and nothing when nobody needs it."""

import asyncio
import contextvars
import gc
import logging
import os
import sys
import threading
import time

import pytest
from opentelemetry import baggage, metrics, propagate, trace
from opentelemetry import context as context_api
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Span, SpanContext, Status, StatusCode, TraceFlags

import otel_perf as perf
from otel_perf.calls import lazy_span
from otel_perf.calls.function import FUNCTIONS
from otel_perf.calls.lazy_span import LazySpan
from otel_perf.calls.statistics import LazyAwareFilter
from otel_perf.core import guard
from tests.calls.conftest import counts_of


class _Tracer:
    """The one of the provider in force: OpenTelemetry's proxy keeps the first."""

    def __getattr__(self, name):
        return getattr(trace.get_tracer("t"), name)


tracer = _Tracer()


def current():
    return trace.get_current_span()


def measured(body, **options):
    """Run ``body`` inside a monitored call named work."""

    @perf.monitored(name="work", **options)
    def work():
        return body()

    return work()


def named(calls, name="work"):
    (found,) = [span for span in calls.spans if span.name == name]
    return found


def test_a_quick_call_makes_no_span(calls):
    assert isinstance(measured(current), LazySpan)
    assert not calls.spans


@pytest.mark.parametrize(
    "need",
    [
        lambda: tracer.start_span("child").end(),
        lambda: current().get_span_context(),
        lambda: propagate.inject({}),
        lambda: current().attributes,
        lambda: current().name,
    ],
    ids=["child", "context", "propagation", "attributes", "name"],
)
def test_whoever_needs_it_makes_it_real_with_its_parents_and_its_true_start(need, calls):
    @perf.monitored(name="outer")
    def outer():
        began.append(time.time_ns())
        time.sleep(0.003)
        measured(need)

    began = [time.time_ns()]
    outer()
    work, outer_span = named(calls), named(calls, "outer")
    assert work.parent.span_id == outer_span.context.span_id
    assert outer_span.parent is None
    assert began[0] <= outer_span.start_time <= began[1]
    assert outer_span.start_time + 3_000_000 <= work.start_time <= work.end_time <= outer_span.end_time


def test_a_slow_call_becomes_real_at_its_end(calls):
    FUNCTIONS.turn(True, slow=0.002)
    measured(lambda: time.sleep(0.004))
    span = named(calls)
    assert 4_000_000 <= span.end_time - span.start_time < 1_000_000_000
    assert abs(span.end_time - time.time_ns()) < 1_000_000_000


def test_a_span_made_real_at_its_end_claims_no_cpu_time(calls):
    """Nobody looked at the thread's CPU clock at its start: detectors that need it have to skip it."""
    started = []

    class Watching(SpanProcessor):
        def on_start(self, span, parent_context=None):
            started.append((span.start_time, time.time_ns()))

    calls.tracer_provider.add_span_processor(Watching())
    FUNCTIONS.turn(True, slow=0.002)
    measured(lambda: time.sleep(0.004))
    ((start, told),) = started
    assert told - start >= 4_000_000, "a processor hears of it when it is over, and can tell"
    assert not [key for key in named(calls).attributes if key.startswith("perf.")]


def test_what_was_set_before_is_kept_in_its_order(calls):
    other = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))
    rows = [1, 2]

    def body():
        span = current()
        assert span.is_recording()
        span.set_attribute("a", 1)
        span.set_attributes({"b": rows, "a": 2})
        rows.append(3)
        span.add_event("one", {"n": 1})
        span.add_event("two", timestamp=7)
        span.add_link(other, {"why": "x"})
        span.update_name("renamed")
        span.set_status(Status(StatusCode.OK))
        assert isinstance(span, LazySpan)
        assert span.is_lazy
        span.get_span_context()
        assert not span.is_lazy
        span.set_attribute("c", 3)
        span.add_event("three")

    measured(body, attributes={"given": True})
    (span,) = calls.spans
    assert span.name == "renamed"
    assert {key: span.attributes[key] for key in ("a", "b", "c", "given")} == {
        "a": 2,
        "b": (1, 2),
        "c": 3,
        "given": True,
    }
    assert [event.name for event in span.events] == ["one", "two", "three"]
    assert span.events[1].timestamp == 7
    assert span.start_time <= span.events[0].timestamp <= span.events[2].timestamp <= span.end_time
    assert [(link.context, link.attributes) for link in span.links] == [(other, {"why": "x"})]
    assert span.status.status_code is StatusCode.OK
    assert counts_of("work").count == 1


@pytest.mark.parametrize(
    "fail",
    [
        lambda: current().record_exception(ValueError("handled")),
        lambda: current().set_status(StatusCode.ERROR, "handled"),
        lambda: current().set_status(Status(StatusCode.ERROR, "handled")),
    ],
    ids=["record_exception", "code", "status"],
)
def test_a_failure_that_was_handled_makes_it_real_at_its_end(fail, calls):
    measured(fail)
    span = named(calls)
    told = [event.attributes["exception.message"] for event in span.events] or [span.status.description]
    assert told == ["handled"]


def test_much_that_is_set_makes_it_real_instead_of_growing(calls):
    def body():
        for number in range(1000):
            current().add_event(str(number))
        return current().is_lazy

    assert not measured(body)
    assert len(named(calls).events) == 128
    assert named(calls).dropped_events == 872


def test_attributes_alone_leave_it_lazy(calls):
    measured(lambda: current().set_attributes({"a": 1}))
    assert not calls.spans


def test_a_quick_call_in_a_trace_is_skipped_and_its_child_is_not(calls):
    with tracer.start_as_current_span("request") as request:
        measured(lambda: None)
        measured(lambda: tracer.start_span("query").end())
    assert [span.name for span in calls.spans] == ["query", "work", "request"]
    assert named(calls).parent.span_id == request.get_span_context().span_id


# --- logs, metrics, baggage --------------------------------------------------------------------------


def test_a_log_line_that_is_kept_carries_its_ids(start, home):
    from tests.stored import lines, spans

    pipeline = start()

    def body():
        logging.getLogger("shop").warning("kept")
        logging.getLogger("shop").debug("dropped before it is made")

    measured(body)
    pipeline.shutdown()
    (span,), (entry,) = spans(home), lines(home)
    assert (entry.trace_id, entry.span_id) == (span.trace_id, span.span_id)


def test_metrics_and_dropped_log_lines_leave_it_lazy(start, home):
    from tests.stored import points, spans

    pipeline = start(OTEL_METRICS_EXEMPLAR_FILTER="trace_based")
    counter = metrics.get_meter("m").create_counter("made")
    histogram = metrics.get_meter("m").create_histogram("took")

    def body():
        counter.add(1)
        histogram.record(3.0)
        logging.getLogger("shop").debug("dropped")

    for _ in range(10):
        measured(body)
    pipeline.shutdown()
    assert spans(home) == []
    assert {point.name: point.count for point in points(home)}["perf.call.duration"] == 10


def test_exemplars_come_from_real_spans_only(calls):
    reader = InMemoryMetricReader()
    provider = MeterProvider(
        [reader], exemplar_filter=LazyAwareFilter(AlwaysOnExemplarFilter()), shutdown_on_exit=False
    )
    counter = provider.get_meter("m").create_counter("made")

    def body():
        counter.add(1)
        assert current().is_lazy
        current().get_span_context()
        counter.add(1)

    measured(body)
    (point,) = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert point.value == 2
    assert [exemplar.span_id for exemplar in point.exemplars] == [named(calls).context.span_id]


def test_baggage_and_other_values_of_the_context_stay(calls):
    token = context_api.attach(baggage.set_baggage("user", "7"))
    try:
        assert measured(lambda: measured(lambda: baggage.get_baggage("user"))) == "7"
        assert measured(lambda: measured(lambda: baggage.get_baggage("user"), span="never"), span="never") == "7"

        def set_inside():
            inner = context_api.attach(baggage.set_baggage("cart", "9"))
            try:
                return measured(lambda: (baggage.get_baggage("user"), baggage.get_baggage("cart")))
            finally:
                context_api.detach(inner)

        assert measured(set_inside) == ("7", "9")
    finally:
        context_api.detach(token)
    assert measured(lambda: measured(lambda: baggage.get_all())) == {}


# --- sampling ----------------------------------------------------------------------------------------


def test_an_unsampled_trace_stays_unsampled(calls):
    calls.tracer_provider.sampler = ParentBased(ALWAYS_OFF)
    with tracer.start_as_current_span("request"):

        def body():
            context = current().get_span_context()
            assert context.is_valid
            assert not context.trace_flags.sampled
            assert not current().is_recording()
            with tracer.start_as_current_span("child") as child:
                assert child.get_span_context().trace_id == context.trace_id
                assert not child.get_span_context().trace_flags.sampled

        measured(body)
    assert not calls.spans


def test_the_sampler_is_asked_what_it_would_be_asked_at_the_start(calls):
    asked = []

    class Asking(Sampler):
        def should_sample(
            self, parent_context, trace_id, name, kind=None, attributes=None, links=None, trace_state=None
        ):
            parent = trace.get_current_span(parent_context).get_span_context()
            here = trace.get_current_span().get_span_context()
            asked.append((name, dict(attributes or {}).get("given"), parent.span_id, here.span_id))
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)

        def get_description(self):
            return "asking"

    calls.tracer_provider.sampler = Asking()
    with tracer.start_as_current_span("request") as request:
        parent = request.get_span_context().span_id

        def body():
            current().set_attribute("later", True)
            current().get_span_context()

        measured(body, attributes={"given": 1})
    assert asked[1:] == [("work", 1, parent, parent)]


# --- threads, tasks and processes ----------------------------------------------------------------------


def test_a_task_that_outlives_the_call_finds_its_parent(calls):
    async def main():
        async def later():
            await asyncio.sleep(0.005)
            tracer.start_span("late").end()

        @perf.monitored(name="work")
        async def work():
            return asyncio.create_task(later())

        await (await work())

    asyncio.run(main())
    late, work = named(calls, "late"), named(calls)
    assert late.parent.span_id == work.context.span_id
    assert work.end_time < late.start_time
    assert len(calls.spans) == 2


def test_a_thread_that_got_the_context_finds_its_parent(calls):
    def body():
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(lambda: tracer.start_span("threaded").end(),))
        thread.start()
        thread.join()

    measured(body)
    assert named(calls, "threaded").parent.span_id == named(calls).context.span_id


def test_many_threads_that_need_it_at_once_get_one_span(calls):
    ids, switch = [], sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):

            def body():
                context, barrier = contextvars.copy_context(), threading.Barrier(4)

                def need():
                    barrier.wait()
                    ids.append(current().get_span_context().span_id)

                threads = [threading.Thread(target=context.copy().run, args=(need,)) for _ in range(4)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

            measured(body)
    finally:
        sys.setswitchinterval(switch)
    assert len(ids) == 200
    assert {span.context.span_id for span in calls.spans} == set(ids)
    assert len(calls.spans) == 50


def test_it_is_made_real_while_its_call_ends_in_another_thread(calls):
    """Whoever comes second still ends it, once."""
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            threads = []

            def body(threads=threads):
                threads.append(
                    threading.Thread(
                        target=contextvars.copy_context().run, args=(lambda: current().get_span_context(),)
                    )
                )
                threads[0].start()

            measured(body)
            threads[0].join()
    finally:
        sys.setswitchinterval(switch)
    assert len(calls.spans) == 300
    assert len({span.context.span_id for span in calls.spans}) == 300


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_inside_a_call_goes_on_under_one_span(start, home):
    from tests.stored import spans

    pipeline = start()

    def body():
        pid = os.fork()
        if pid == 0:
            tracer.start_span("in the child").end()
            trace.get_tracer_provider().force_flush()
            os._exit(0)
        os.waitpid(pid, 0)

    measured(body)
    pipeline.shutdown()
    found = {span.name: span for span in spans(home)}
    assert len(spans(home)) == 2
    assert found["in the child"].parent_id == found["work"].span_id


# --- traps -------------------------------------------------------------------------------------------


def test_callbacks_that_start_each_other_keep_nothing_alive(calls):
    """A chain of 20,000 kept 8 MB and then overflowed the stack, in a prototype."""
    kept = []

    async def main():
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        @perf.monitored(name="tick")
        def tick(left):
            if left == 10:
                gc.collect()
                kept.append(sum(type(item) is LazySpan for item in gc.get_objects()))
            if left:
                loop.call_soon(tick, left - 1)
            else:
                done.set()

        tick(5_000)
        await done.wait()

    asyncio.run(main())
    assert counts_of("tick").count == 5_001
    assert kept[0] < 10


def test_calls_may_nest_deeper_than_recursion_goes(calls):
    """Parents become real in a loop, not by recursion."""
    limit = sys.getrecursionlimit()

    async def main():
        @perf.monitored(name="deep")
        async def deep(left):
            if left:
                return await asyncio.create_task(deep(left - 1))
            return current().get_span_context()

        await deep(3_000)

    sys.setrecursionlimit(1_000)
    try:
        asyncio.run(main())
    finally:
        sys.setrecursionlimit(limit)
    assert len(calls.spans) == 3_001


def test_a_span_has_its_parents_even_if_processors_ask_for_the_current_one(calls):
    seen = []

    class Asking(SpanProcessor):
        def on_start(self, span, parent_context=None):
            seen.append((span.name, current().get_span_context().span_id, span.parent and span.parent.span_id))

    calls.tracer_provider.add_span_processor(Asking())
    measured(lambda: measured(lambda: current().get_span_context()))
    assert [name for name, _, _ in seen] == ["work", "work"]
    assert all((here or None) == parent for _, here, parent in seen)


def test_a_processor_that_fails_leaves_the_call_alone(calls, absorbing, monkeypatch, caplog):
    monkeypatch.setattr(lazy_span.RECORDER, "guard", guard.Guard("calls"))

    class Failing(SpanProcessor):
        def on_start(self, span, parent_context=None):
            raise RuntimeError("processor")

        def on_end(self, span):
            raise RuntimeError("processor")

    with tracer.start_as_current_span("request") as request:
        calls.tracer_provider.add_span_processor(Failing())
        found = measured(lambda: current().get_span_context())
        assert found == request.get_span_context()
        calls.tracer_provider._active_span_processor._span_processors = (
            calls.tracer_provider._active_span_processor._span_processors[:1]
        )
    assert "internal error in calls" in caplog.text
    assert lazy_span.RECORDER.guard.errors == 1


# --- the API, to its end -------------------------------------------------------------------------------


def test_it_may_be_ended_before_its_call(calls):
    def body():
        current().end()
        assert not current().is_recording()
        assert len(calls.spans) == 1

    measured(body)
    assert len(calls.spans) == 1


def test_after_its_end_nothing_is_kept(calls):
    span = measured(current)
    assert not span.is_recording()
    span.set_attribute("late", 1)
    context = span.get_span_context()
    assert context.is_valid
    assert named(calls).context == context
    assert "late" not in named(calls).attributes


def test_it_looks_like_a_span(calls):
    span = measured(current)
    assert isinstance(span, Span)
    assert "lazy" in repr(span)
    assert hash(span) == hash(span)
    assert span
    with pytest.raises(AttributeError):
        span.no_such_thing  # noqa: B018
    assert "Span" in repr(span)
    with trace.use_span(measured(current)):
        pass


def test_another_runtime_context_than_the_default_works_too(home):
    """Without the ContextVar at hand the context API itself is used."""
    from tests.e2e import programs

    program = """
import opentelemetry.context as api
class Other:
    def __init__(self, inner): self.inner = inner
    def get_current(self): return self.inner.get_current()
    def attach(self, context): return self.inner.attach(context)
    def detach(self, token): self.inner.detach(token)
api._RUNTIME_CONTEXT = Other(api._RUNTIME_CONTEXT)
import otel_perf as perf
from opentelemetry import trace
@perf.monitored(span="always")
def work(): return trace.get_current_span().get_span_context().span_id
from otel_perf.testing import capture
from otel_perf.calls.function import FUNCTIONS
FUNCTIONS.turn(True, slow=1)
with capture() as found:
    assert work() == found.spans[0].context.span_id
    assert trace.get_current_span() is trace.INVALID_SPAN
print("good")
"""
    assert programs.run(program, home, instrumented=False).out == "good\n"


def test_a_call_that_stayed_lazy_leaves_no_object_behind(calls):
    def work():
        current().set_attribute("a", 1)

    work = perf.monitored(work)
    work()
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        for _ in range(10_000):
            work()
        assert len(gc.get_objects()) - before < 50
    finally:
        gc.enable()
