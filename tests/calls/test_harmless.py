"""Whatever the app's functions and objects do, measuring them harms nothing. Each of these was a defect."""

import asyncio
import gc
import os
import sys
import threading
import types
import weakref

import pytest
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, StatusCode

import otel_perf as perf
from otel_perf.calls import lazy_span
from otel_perf.calls.function import FUNCTIONS
from otel_perf.calls.lazy_span import LazySpan
from otel_perf.core import guard
from tests.calls.conftest import counts_of


@pytest.fixture
def counting(calls, absorbing, monkeypatch):
    """Errors of ours are counted, as in production."""
    monkeypatch.setattr(lazy_span.RECORDER, "guard", guard.Guard("calls"))
    return calls


def test_an_exception_that_cannot_be_shown_is_raised_and_ends_its_call(counting):
    class Odd(Exception):
        def __str__(self):
            raise RuntimeError

    @perf.monitored(name="bad")
    def bad():
        raise Odd

    with pytest.raises(Odd):
        bad()
    assert trace.get_current_span() is INVALID_SPAN
    assert (counts_of("bad").count, counts_of("bad").errors) == (1, 1)
    assert counting.spans[0].status.status_code is StatusCode.ERROR
    assert counting.spans[0].status.description == "Odd"


def test_a_recursion_that_is_too_deep_leaves_no_span_behind(calls):
    @perf.monitored
    def leaf(depth):
        return depth

    def recurse(depth):
        return leaf(recurse(depth + 1))

    for _ in range(20):
        with pytest.raises(RecursionError):
            recurse(0)
        with pytest.raises(RecursionError):
            perf.monitored(name="again")(lambda: recurse(0))()
    assert trace.get_current_span() is INVALID_SPAN


def test_a_finalizer_may_make_a_block_while_one_is_made(calls):
    class Closing:
        def __del__(self):
            with perf.monitored("cleanup", attributes={"a": 1}):
                pass

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(200):
            made = [Closing()]
            made.append(made)
            del made
            perf.monitored(f"phase {number}", attributes={"b": 2})
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert counts_of("cleanup").count == 200


def test_what_one_thread_sets_while_another_makes_it_real_is_all_there(calls):
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(200):
            span = LazySpan(FUNCTIONS.add("raced", "auto", {}))
            thread = threading.Thread(target=span.get_span_context)
            thread.start()
            for number in range(20):
                span.set_attribute(f"a{number}", number)
                span.add_event(f"e{number}")
            thread.join()
            span.finish()
    finally:
        sys.setswitchinterval(switch)
    assert len(calls.spans) == 200
    assert {len(span.attributes) for span in calls.spans} == {20}
    assert {len(span.events) for span in calls.spans} == {20}


def test_async_generators_that_are_left_open_close_without_a_word(calls, caplog):
    done = []

    @perf.monitored
    async def count():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            done.append(1)

    kept = []

    async def main():
        kept.append(count())
        await anext(kept[0])

    asyncio.run(main())
    FUNCTIONS.turn(False)
    kept.clear()
    asyncio.run(main())
    assert done == [1, 1]
    assert "RuntimeError" not in caplog.text


def test_a_coroutine_in_the_old_style_can_still_be_awaited(calls):
    @perf.monitored
    @types.coroutine
    def old():
        yield
        return 3

    async def main():
        return await old()

    assert asyncio.run(main()) == 3
    assert counts_of("old").count == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_goes_on_with_its_parents_call_neither_counts_nor_ends_it(calls):
    reading, writing = os.pipe()
    child = -1

    @perf.monitored(name="serve")
    def serve():
        nonlocal child
        lazy_span.before_fork()
        child = os.fork()
        if child == 0:
            lazy_span.after_fork_in_child()

    serve()
    if child == 0:
        os.write(writing, b"%d %d" % (len(calls.spans), len(FUNCTIONS.counts())))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 100) == b"0 0"
    assert len(calls.spans) == 1
    assert counts_of("serve").count == 1


def test_a_measured_method_of_a_measured_class_counts_once(calls):
    @perf.monitored
    class Repo:
        @perf.monitored
        def load(self):
            return 1

    assert Repo().load() == 1
    assert counts_of("load").count == 1


def test_a_property_of_another_kind_is_not_flattened(calls):
    class caching(property):
        pass

    with pytest.raises(TypeError, match="cannot be called"):
        perf.monitored(caching(lambda self: 1))


def test_what_is_thrown_into_a_generator_is_not_kept_alive(calls):
    class Payload(Exception):
        pass

    def steps():
        yield 1

    def throw(steps):
        running = steps()
        next(running)
        try:
            running.throw(Payload())
        except Payload as error:
            return weakref.ref(error)

    gc.disable()
    try:
        assert throw(steps)() is None
        assert throw(perf.monitored(steps))() is None
    finally:
        gc.enable()


def test_a_block_that_began_while_nothing_was_measured_ends_nobodys_call(calls):
    block = perf.monitored("shared")
    with perf.monitored("outer") as outer:
        FUNCTIONS.turn(False)
        block.__enter__()
        FUNCTIONS.turn(True, slow=3600)
        block.__exit__(None, None, None)
        assert trace.get_current_span() is outer
    assert counts_of("outer").count == 1


def test_a_span_that_has_ended_takes_nothing_more(calls):
    @perf.monitored(name="work")
    def work():
        return trace.get_current_span()

    span = work()
    span.update_name("late")
    span.add_event("late")
    span.set_status(StatusCode.ERROR)
    span.get_span_context()
    assert (calls.spans[0].name, calls.spans[0].events, calls.spans[0].status.status_code) == (
        "work",
        (),
        StatusCode.UNSET,
    )


def test_a_call_of_days_is_counted(calls):
    from otel_perf.calls import call
    from otel_perf.testing import FixedClock

    clock = FixedClock()
    clock.advance(1)
    call.set_clock(clock.monotonic)
    try:
        perf.monitored(name="serve")(lambda: clock.advance(30 * 86_400))()
    finally:
        call.set_clock(None)
    assert counts_of("serve").count == sum(counts_of("serve").buckets) == 1


def test_calls_of_an_exporter_are_counted_and_make_no_spans(calls):
    """With urllib3 watched, our own sender's calls would each make a span, and each span another request."""
    from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value

    @perf.monitored(name="send")
    def send():
        raise OSError

    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        with pytest.raises(OSError):
            send()
    finally:
        detach(token)
    assert not calls.spans
    assert counts_of("send").errors == 1
