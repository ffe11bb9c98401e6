"""Random trees of calls, once with plain spans and once with lazy ones: what comes out is a subset, and the same.

The clock is the test's, so that times must be equal to the nanosecond.
"""

import asyncio
import contextvars
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from unittest import mock

import opentelemetry.sdk.trace as sdk_trace
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

import otel_perf as perf
from otel_perf.calls import call, lazy_span
from otel_perf.calls.function import FUNCTIONS, Functions
from otel_perf.testing import FixedClock, capture

SLOW = 0.010
REMOTE = SpanContext(1 << 80, 1 << 40, is_remote=True, trace_flags=TraceFlags(1))
KINDS = ("sync", "async", "task", "thread", "generator", "async generator", "block")
# What a call does by itself, in steps; a number is the child with that index.
ACTIONS = ("wait", "wait long", "log", "attribute", "event", "rename", "handled", "plain child")


@dataclass
class Node:
    kind: str
    steps: list
    children: list
    fails: bool
    name: str = ""

    def everyone(self):
        yield self
        for child in self.children:
            yield from child.everyone()


def nodes(children):
    steps = st.lists(st.sampled_from(ACTIONS), max_size=3)
    return st.builds(Node, st.sampled_from(KINDS), steps, children, st.booleans())


TREES = st.recursive(nodes(st.just([])), lambda inner: nodes(st.lists(inner, max_size=3)), max_leaves=12)


class Runner:
    """Runs a tree under one kind of span."""

    def __init__(self, clock, *, lazy):
        self.clock = clock
        self.lazy = lazy
        self.caught = []  # names of the calls that raised, as their callers saw it

    def act(self, step, number, node):
        span = trace.get_current_span()
        match step:
            case "wait":
                self.clock.advance(0.001)
            case "wait long":
                self.clock.advance(0.020)
            case "log":
                span.get_span_context()
            case "attribute":
                span.set_attribute("at", node.name)
            case "event":
                span.add_event("happened", {"in": node.name}, timestamp=self.clock.time_ns())
            case "rename":
                span.update_name(f"{node.name} renamed")
            case "handled":
                span.record_exception(ValueError(node.name), timestamp=self.clock.time_ns())
            case "plain child":
                with trace.get_tracer("t").start_as_current_span(f"{node.name}/plain/{number}"):
                    self.clock.advance(0.001)

    def cover(self, function, node):
        """``function`` with a span around each call."""
        attributes = {"node": node.name}
        if self.lazy:
            return perf.monitored(name=node.name, attributes=attributes)(function)
        tracer = trace.get_tracer("t")
        if asyncio.iscoroutinefunction(function):

            async def coroutine():
                with tracer.start_as_current_span(node.name, attributes=attributes):
                    return await function()

            return coroutine

        def plain():
            with tracer.start_as_current_span(node.name, attributes=attributes):
                return function()

        return plain

    async def body(self, node):
        for number, step in enumerate(node.steps):
            self.act(step, number, node)
            if number < len(node.children):
                await self.run(node.children[number])
        for child in node.children[len(node.steps) :]:
            await self.run(child)
        if node.fails:
            raise LookupError(node.name)

    def sync_body(self, node):
        drive(self.body(node))

    async def run(self, node):
        """One call, whose error its caller handles."""
        try:
            await getattr(self, node.kind.replace(" ", "_"))(node)
        except LookupError as error:
            self.caught.append(str(error))

    async def sync(self, node):
        self.cover(lambda: self.sync_body(node), node)()

    async def async_(self, node):
        async def work():
            await self.body(node)

        await self.cover(work, node)()

    async def task(self, node):
        # Driven by hand in a context of its own, as a task is.
        error = []

        def run():
            try:
                drive(self.async_(node))
            except LookupError as raised:
                error.append(raised)

        contextvars.copy_context().run(run)
        if error:
            raise error[0]

    async def thread(self, node):
        error = []

        def run():
            try:
                drive(self.async_(node))
            except LookupError as raised:
                error.append(raised)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
        thread.start()
        thread.join()
        if error:
            raise error[0]

    async def block(self, node):
        if self.lazy:
            with perf.monitored(node.name, attributes={"node": node.name}):
                await self.body(node)
        else:
            with trace.get_tracer("t").start_as_current_span(node.name, attributes={"node": node.name}):
                await self.body(node)

    async def generator(self, node):
        if not self.lazy:
            await self.sync(node)
            return

        def steps():
            yield 1
            self.sync_body(node)
            yield 2

        for _ in self.cover(steps, node)():
            pass

    async def async_generator(self, node):
        if not self.lazy:
            await self.async_(node)
            return

        async def steps():
            yield 1
            await self.body(node)
            yield 2

        async for _ in self.cover(steps, node)():
            pass


setattr(Runner, "async", Runner.async_)


def drive(coroutine):
    """Run a coroutine that never waits for anything."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")


def run(tree, *, lazy, remote):
    """The spans by name, and the counts."""
    clock = FixedClock()
    clock.advance(5.0)  # a call that ended at 0.0 would not have ended
    fresh = Functions()
    with ExitStack() as stack:
        for module, name, fake in (
            (sdk_trace, "time_ns", clock.time_ns),
            (lazy_span, "time_ns", clock.time_ns),
        ):
            stack.enter_context(mock.patch.object(module, name, fake))
        call.set_clock(clock.monotonic)
        stack.callback(call.set_clock, None)
        for name in ("add", "block"):
            stack.enter_context(mock.patch.object(FUNCTIONS, name, getattr(fresh, name)))
        fresh.turn(True, slow=SLOW)
        captured = stack.enter_context(capture())
        if remote:
            stack.enter_context(trace.use_span(NonRecordingSpan(REMOTE)))
        runner = Runner(clock, lazy=lazy)
        drive(runner.run(tree))
    assert sorted(runner.caught) == sorted(node.name for node in tree.everyone() if node.fails)
    spans = {span.attributes.get("node", span.name): span for span in captured.spans}
    assert len(spans) == len(captured.spans)
    return spans, {counts.name: counts for counts in fresh.counts()}


def needed(node, durations):
    """Whether the call has to become a span."""
    asks = {"log", "handled", "plain child"} & set(node.steps)
    slow = durations[node.name] >= SLOW
    return bool(asks) or node.fails or slow or any(needed(child, durations) for child in node.children)


@pytest.mark.parametrize("remote", [False, True])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tree=TREES)
def test_lazy_spans_are_a_subset_of_plain_ones_and_equal(remote, tree):
    everyone = list(tree.everyone())
    for number, node in enumerate(everyone):
        node.name = f"n{number}"
    plain, _ = run(tree, lazy=False, remote=remote)
    lazy, counts = run(tree, lazy=True, remote=remote)

    durations = {name: (span.end_time - span.start_time) / 1e9 for name, span in plain.items()}
    wanted = {node.name for node in everyone if needed(node, durations)}
    assert lazy.keys() == wanted | {name for name in plain if "/plain/" in name}

    assert len({span.context.trace_id for span in [*lazy.values(), *(plain.values() if remote else ())]}) <= 1
    for name, span in lazy.items():
        other = plain[name]
        assert (span.name, span.start_time, span.end_time) == (other.name, other.start_time, other.end_time)
        assert (span.status.status_code, span.status.description) == (
            other.status.status_code,
            other.status.description,
        )
        assert [(event.name, event.timestamp) for event in span.events] == [
            (event.name, event.timestamp) for event in other.events
        ]
        mine = {key: value for key, value in span.attributes.items() if not key.startswith("code.")}
        assert mine == dict(other.attributes)
        assert parent_of(span, lazy) == nearest(other, plain, lazy)

    assert {name: found.count for name, found in counts.items()} == {node.name: 1 for node in everyone}
    assert {name: found.errors for name, found in counts.items()} == {node.name: int(node.fails) for node in everyone}
    for name, found in counts.items():
        assert found.total == pytest.approx(durations[name], abs=1e-9)


def parent_of(span, spans):
    """The name of its parent among ``spans``; an id if it is none of them."""
    if span.parent is None:
        return None
    names = {other.context.span_id: name for name, other in spans.items()}
    return names.get(span.parent.span_id, span.parent.span_id)


def nearest(span, spans, there):
    """The nearest ancestor that is in ``there``."""
    name = parent_of(span, spans)
    while name in spans and name not in there:
        name = parent_of(spans[name], spans)
    return name
