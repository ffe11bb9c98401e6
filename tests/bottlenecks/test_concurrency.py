"""Many traces at once: each finding is on the trace that it belongs to, and nowhere else."""

import asyncio
import time

import pytest
from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks.baseline import Baselines
from otel_perf.bottlenecks.trace import Surroundings, Trace
from tests.bottlenecks.conftest import NOISE, costs_fit, in_threads


def kinds_by_root(app):
    """Root's name → the kinds found in its trace."""
    roots = {span.context.trace_id: span.name for span in app.spans() if span.parent is None}
    found = {name: set() for name in roots.values()}
    for span, finding in app.findings():
        found[roots[span.context.trace_id]].add(finding["perf.bottleneck.kind"])
    return found


def test_of_a_hundred_tasks_the_slow_ones_are_found(app):
    """Nested task groups; every tenth task makes a slow call, every tenth the same call again and again."""
    app = app()

    async def call(name, seconds):
        with app.tracer.start_as_current_span(name, kind=SpanKind.CLIENT):
            await asyncio.sleep(seconds)

    async def request(number):
        kind = {3: "slow", 7: "repeats"}.get(number % 10, "healthy")
        with app.tracer.start_as_current_span(f"{kind} {number}"):
            async with asyncio.TaskGroup() as group:
                group.create_task(call("config", 0.02))
                if kind == "slow":
                    group.create_task(call("report", 0.8))
            if kind == "repeats":
                for _ in range(8):
                    await call("SELECT item", 0.015)

    async def ten(first):
        async with asyncio.TaskGroup() as group:
            for number in range(first, first + 10):
                group.create_task(request(number))

    async def main():
        async with asyncio.TaskGroup() as group:
            for first in range(0, 100, 10):
                group.create_task(ten(first))

    asyncio.run(main())
    found = kinds_by_root(app)
    assert len(found) == 100
    for name, kinds in found.items():
        kind = name.split()[0]
        kinds -= {"loop_block"} | NOISE
        assert kinds == {"slow": {"slow_io"}, "repeats": {"n_plus_one"}, "healthy": set()}[kind], name
    assert costs_fit(app.spans())


def test_of_sixteen_threads_each_has_its_own_findings(app):
    app = app()

    def work(index):
        with app.tracer.start_as_current_span(f"{'odd' if index % 2 else 'even'} {index}"):
            if index % 2:
                app.call("report", 0.7)
            else:
                app.call("config", 0.06)

    in_threads(work, 16)
    found = kinds_by_root(app)
    assert {name for name, kinds in found.items() if "slow_io" in kinds} == {
        f"odd {index}" for index in range(1, 16, 2)
    }
    assert all(kinds <= NOISE for name, kinds in found.items() if name.startswith("even"))
    assert costs_fit(app.spans())


@pytest.mark.parametrize("longest_first", [True, False])
def test_calls_at_the_same_time_in_one_loop_are_not_taken_for_one_inside_the_other(app, longest_first):
    """SQLAlchemy's spans are put into each other by their times; tasks that run at once are not."""
    app = app()
    seen = []
    app.processor.finished = seen.append
    seconds = [0.12, 0.06, 0.06] if longest_first else [0.06, 0.06, 0.12]

    async def call(duration):
        with app.tracer.start_as_current_span("call", kind=SpanKind.CLIENT):
            await asyncio.sleep(duration)

    async def main():
        with app.tracer.start_as_current_span("root"):
            await asyncio.gather(*map(call, seconds))

    asyncio.run(main())
    (root,) = seen
    app.analyst.finished(root)
    trace = Trace(root, Baselines(), Surroundings())
    assert len(trace.top.children) == 3


def test_gathered_calls_are_not_found_to_be_one_after_the_other(app):
    app = app()

    async def call():
        with app.tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes={"http.request.method": "GET"}):
            await asyncio.sleep(0.1)

    async def main():
        with app.tracer.start_as_current_span("root"):
            await asyncio.gather(*(call() for _ in range(6)))

    asyncio.run(main())
    assert app.kinds() <= {"loop_block"} | NOISE


def test_what_one_trace_waits_for_is_not_said_of_another(app):
    """GIVEN two threads, one in a slow call and one computing nothing THEN a healthy neighbour stays healthy."""
    app = app()

    def work(index):
        for number in range(3):
            with app.tracer.start_as_current_span(f"{index} {number}"):
                app.call("query", 0.6 if (index, number) == (0, 1) else 0.05)
                time.sleep(0.001)

    in_threads(work, 4)
    assert {name for name, kinds in kinds_by_root(app).items() if kinds - NOISE} == {"0 1"}
