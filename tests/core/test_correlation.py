"""The correlation id: given or the trace's, in blocks, functions, tasks and requests."""

import asyncio
import contextvars
import inspect
import threading

import pytest
from hypothesis import given as property_test
from hypothesis import strategies
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

import otel_perf as perf
from otel_perf.core import ids
from otel_perf.core import served as module
from otel_perf.core.correlation import current
from otel_perf.core.ids import KEY, LIMIT, checked, now
from otel_perf.core.served import Request, begin_request, end_request, request


def in_span(trace_id=0xAB, span_id=1, context=None):
    span = NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags(1)))
    return set_span_in_context(span, Context() if context is None else context)


@property_test(strategies.text())
def test_an_id_is_short_and_can_be_printed(text):
    found = checked(text)
    assert found == "" or (found == text.strip() and found.isascii() and found.isprintable() and len(found) <= LIMIT)
    assert checked(found) == found


@pytest.mark.parametrize("value", [None, 3, b"x", "", "  ", "a\nb", "\x7f", "é", "x" * (LIMIT + 1)])
def test_what_is_no_id(value):
    assert checked(value) == ""


def test_the_id_is_the_given_one_or_the_traces_or_none():
    assert current() == ""
    assert current(in_span()) == f"{0xAB:032x}"
    assert current(baggage.set_baggage(KEY, "mine", in_span())) == "mine"
    assert current(baggage.set_baggage(KEY, "bro\nken", in_span())) == f"{0xAB:032x}"
    assert current(baggage.set_baggage(KEY, 7, Context())) == ""


def test_a_block_and_blocks_within_it():
    with perf.correlation("outer"):
        assert perf.correlation.current() == "outer"
        with perf.correlation("inner"):
            assert current() == "inner"
        assert current() == "outer"
    assert current() == ""


def test_a_block_that_fails_is_left():
    with pytest.raises(ZeroDivisionError), perf.correlation("x"):
        1 / 0  # noqa: B018
    assert current() == ""


def test_one_object_serves_many_blocks_at_once():
    one = perf.correlation("one")
    with one, perf.correlation("two"):
        with one:
            assert current() == "one"
        assert current() == "two"
    assert current() == ""


def test_functions_and_coroutines():
    @perf.correlation("job-17")
    def plain(a, *, b=2):
        """Document."""
        return a, b, current()

    @perf.correlation("job-18")
    async def asynchronous(a):
        await asyncio.sleep(0)
        return a, current()

    async def many():
        async with perf.correlation("many"):
            return await asyncio.gather(asynchronous(1), asynchronous(2)), current()

    assert plain(1) == (1, 2, "job-17")
    assert plain.__doc__ == "Document."
    assert str(inspect.signature(plain)) == "(a, *, b=2)"
    assert inspect.iscoroutinefunction(asynchronous)
    assert asyncio.run(many()) == ([(1, "job-18"), (2, "job-18")], "many")
    assert current() == ""


def test_a_generator_function_is_refused_at_once():
    with pytest.raises(TypeError, match="generator function"):

        @perf.correlation("x")
        def numbers():
            yield 1


class Unprintable:
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "expected"),
    [(17, "17"), (" x ", "x"), ("a\nb", "a?b"), ("né", "n?"), ("x" * 200, "x" * LIMIT), ("", ""), (Unprintable(), "")],
)
def test_any_value_becomes_an_id(value, expected):
    with perf.correlation(value):
        assert current() == expected


@property_test(strategies.text())
def test_what_is_given_is_always_an_id(text):
    with perf.correlation(text):
        assert current() in {"", checked(current())}


def test_a_block_that_ends_in_another_context_says_nothing(caplog):
    block = perf.correlation("x")
    contextvars.copy_context().run(block.__enter__)
    block.__exit__(None, None, None)
    assert caplog.records == []


# --- requests ------------------------------------------------------------------------------------------


@pytest.fixture
def drawn():
    """An id generator that counts, with ours in front."""

    class Generator:
        count = 0

        def generate_trace_id(self):
            self.count += 1
            return self.count

    generator = Generator()
    undo = module.draw_with(generator)
    yield generator
    undo()
    assert "generate_trace_id" not in vars(generator)
    assert generator.generate_trace_id() == generator.count


def test_the_first_root_span_has_the_trace_id_that_lines_before_it_have(drawn):
    tokens = begin_request()
    served = request.get()
    assert current() == ""  # the headers are not known: the caller may have a trace
    served.headers = dict
    assert current() == f"{1:032x}"
    assert current() == f"{1:032x}"
    assert drawn.generate_trace_id() == 1
    assert drawn.generate_trace_id() == 2
    end_request(tokens)
    assert current() == ""
    assert drawn.generate_trace_id() == 3


def test_a_request_without_lines_before_its_span_has_any_trace_id(drawn):
    tokens = begin_request()
    request.get().headers = dict
    assert drawn.generate_trace_id() == 1
    end_request(tokens)


def test_a_request_that_is_not_sampled_keeps_its_trace_id(start):
    start(OTEL_TRACES_SAMPLER="always_off")
    tokens = begin_request()
    span = trace.get_tracer("t").start_span("server", kind=trace.SpanKind.SERVER)
    assert current() == f"{span.get_span_context().trace_id:032x}"
    trace.get_tracer("t").start_span("another")
    assert current() == f"{span.get_span_context().trace_id:032x}"
    end_request(tokens)


def test_a_caller_says_which_trace_it_is(drawn):
    tokens = begin_request()
    request.get().headers = lambda: {"traceparent": f"00-{7:032x}-{8:016x}-01"}
    assert current() == f"{7:032x}"
    assert drawn.generate_trace_id() == 1
    end_request(tokens)


def test_the_id_in_a_callers_baggage_counts_before_the_span_too(drawn):
    tokens = begin_request()
    request.get().headers = lambda: {"baggage": "perf.correlation.id=from%20afar"}
    assert current() == "from afar"
    assert request.get().correlation == "from afar"
    end_request(tokens)


def test_a_propagator_that_fails_is_not_the_apps_trouble(drawn, monkeypatch):
    """The app's threads ask for the ids of the request where no span is current."""

    class Broken:
        def extract(self, *_, **__):
            raise RuntimeError

    monkeypatch.setattr("opentelemetry.propagate.propagator", Broken())
    tokens = begin_request()
    request.get().headers = dict
    assert current() == f"{1:032x}"
    assert module.carried() != now()
    end_request(tokens)


def test_threads_of_one_request_agree(drawn):
    served = Request(Context())
    served.headers = dict
    barrier, found = threading.Barrier(8), []

    def ask():
        barrier.wait()
        found.append(current(served.context()))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1


def test_a_context_that_leaks_into_the_next_request_is_put_back():
    outside = now()
    first = begin_request()
    token = ids.attach(in_span())

    def within_the_first():
        tokens = begin_request()
        try:
            return now(), request.get().ambient
        finally:
            end_request(tokens)

    assert contextvars.copy_context().run(within_the_first) == (outside, outside)
    assert current() == f"{0xAB:032x}"
    ids.detach(token)
    end_request(first)


def test_a_server_that_runs_in_a_span_keeps_it():
    token = ids.attach(in_span())
    tokens = begin_request()
    assert current() == f"{0xAB:032x}"
    end_request(tokens)
    ids.detach(token)


def test_a_request_knows_its_servers_span(start):
    start()
    tracer = trace.get_tracer("t")
    tokens = begin_request()
    served = request.get()
    served.correlation = "mine"
    tracer.start_span("before").end()
    server = tracer.start_span("server", kind=trace.SpanKind.SERVER)
    tracer.start_span("after", kind=trace.SpanKind.SERVER).end()
    server.end()
    assert served.span == server.get_span_context()
    assert current() == "mine"
    served.correlation = ""
    served.span = None
    end_request(tokens)


def test_a_local_root_has_the_given_id_as_an_attribute(start, home):
    from tests.stored import spans

    pipeline = start()
    tracer = trace.get_tracer("t")
    with perf.correlation("job-17"), tracer.start_as_current_span("root"), tracer.start_as_current_span("child"):
        pass
    with tracer.start_as_current_span("without"):
        pass
    pipeline.shutdown()
    found = {span.name: span.attributes.get(KEY) for span in spans(home)}
    assert found == {"root": "job-17", "child": None, "without": None}


def test_nothing_is_needed_to_use_it():
    """Without a pipeline the block works, and a request's context is what its headers say."""
    served = Request(Context())
    assert served.context() is None
    served.headers = dict
    assert served.context() is None
    served.correlation = "mine"
    assert current(served.context()) == "mine"
