"""Every call is counted, exactly, whatever runs beside it."""

import asyncio
import math
import sys
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

import otel_perf as perf
from otel_perf.calls import call as module
from otel_perf.calls.function import FUNCTIONS
from otel_perf.core.buckets import BUCKETS, OFFSET
from otel_perf.testing import FixedClock
from tests.calls.conftest import counts_of


@pytest.fixture
def clock():
    """A clock that only the test moves."""
    clock = FixedClock()
    clock.advance(5.0)
    module.set_clock(clock.monotonic)
    yield clock
    module.set_clock(None)


def test_threads_that_change_every_microsecond_lose_no_call(calls):
    @perf.monitored
    def work(number):
        if number % 10 == 0:
            raise ValueError

    def load():
        for number in range(20_000):
            with suppress(ValueError):
                work(number)

    FUNCTIONS.turn(True, slow=3600.0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    counts = counts_of("work")
    assert counts.count == sum(counts.buckets) == 80_000
    assert counts.errors == 8_000
    assert 0 < counts.minimum <= counts.total / counts.count <= counts.maximum
    assert counts.self_total == pytest.approx(counts.total)


@given(st.floats(1e-9, 1e6))
def test_a_duration_falls_into_the_bucket_of_an_exponential_histogram(duration):
    """scale 3: bucket i is from 2 ** (i / 8) to 2 ** ((i + 1) / 8)."""
    index = int(8 * math.log2(duration) + OFFSET)
    assert 0 <= index < BUCKETS
    assert 2.0 ** ((index - OFFSET) / 8) <= duration * (1 + 1e-12)
    assert duration <= 2.0 ** ((index + 1 - OFFSET) / 8) * (1 + 1e-12)


def test_sums_are_exact_and_self_time_leaves_out_what_is_beneath(calls, clock):
    @perf.monitored
    def inner(seconds):
        clock.advance(seconds)

    @perf.monitored
    def outer():
        clock.advance(1.0)
        inner(2.0)
        clock.advance(0.5)
        inner(4.0)

    outer()
    found = counts_of("outer"), counts_of("inner")
    assert [(counts.count, counts.total, counts.self_total) for counts in found] == [(1, 7.5, 1.5), (2, 6.0, 6.0)]
    assert (found[1].minimum, found[1].maximum) == (2.0, 4.0)


def test_a_call_that_takes_no_time_at_all_is_counted(calls, clock):
    perf.monitored(name="work")(lambda: None)()
    counts = counts_of("work")
    assert (counts.count, counts.total, sum(counts.buckets)) == (1, 0.0, 1)


def test_a_plain_span_in_between_changes_nothing(calls, clock):
    from opentelemetry import trace

    @perf.monitored
    def inner():
        clock.advance(2.0)

    @perf.monitored
    def outer():
        with trace.get_tracer("t").start_as_current_span("between"):
            inner()

    outer()
    assert counts_of("outer").self_total == 0.0


def test_children_at_the_same_time_count_once(calls, clock):
    """From 1 to 4 s the first one runs, from 2 to 3 the second: three seconds are not the parent's own."""

    async def main():
        gates = {name: asyncio.Event() for name in ("first", "second")}

        @perf.monitored
        async def child(name):
            await gates[name].wait()

        @perf.monitored
        async def parent():
            clock.advance(1.0)
            first = asyncio.create_task(child("first"))
            await asyncio.sleep(0)
            clock.advance(1.0)
            second = asyncio.create_task(child("second"))
            await asyncio.sleep(0)
            clock.advance(1.0)
            gates["second"].set()
            await second
            clock.advance(1.0)
            gates["first"].set()
            await first
            clock.advance(1.0)

        await parent()

    asyncio.run(main())
    parent, child = counts_of("parent"), counts_of("child")
    assert (parent.total, parent.self_total) == (5.0, 2.0)
    assert (child.total, child.self_total) == (4.0, 4.0)


def test_a_task_that_outlives_its_parent_is_no_part_of_it(calls, clock):
    async def main():
        @perf.monitored
        async def child():
            await asyncio.sleep(0)
            clock.advance(10.0)

        @perf.monitored
        async def parent():
            task = asyncio.create_task(child())
            await asyncio.sleep(0)
            clock.advance(2.0)
            return task

        await (await parent())

    asyncio.run(main())
    assert (counts_of("parent").total, counts_of("parent").self_total) == (2.0, 0.0)
    assert counts_of("child").total == 12.0


def test_what_a_generators_consumer_does_is_not_its_own_time(calls, clock):
    @perf.monitored
    def steps():
        clock.advance(1.0)
        yield
        clock.advance(2.0)

    @perf.monitored
    def consumer():
        for _ in steps():
            clock.advance(5.0)

    consumer()
    assert (counts_of("steps").total, counts_of("steps").self_total) == (8.0, 3.0)
    assert (counts_of("consumer").total, counts_of("consumer").self_total) == (8.0, 5.0)


def test_a_function_that_is_stepped_down_is_only_counted(calls):
    @perf.monitored
    def work():
        return 1

    @perf.monitored
    def each():
        yield 1

    from otel_perf.calls.decorators import MARK

    for function in (work, each):
        FUNCTIONS.step_down(getattr(function, MARK))
    FUNCTIONS.turn(True, slow=3600.0)
    assert [work() for _ in range(7)] == [1] * 7
    assert list(each()) == [1]
    assert (counts_of("work").count, counts_of("work").untimed, counts_of("each").untimed) == (0, 7, 1)


def test_a_decorated_closure_is_forgotten_with_its_maker(calls):
    import gc

    for _ in range(100):
        perf.monitored(name="closure")(lambda: None)()
    gc.collect()
    assert counts_of("closure").count == 100
