"""``monitored`` keeps whatever a function is, and its span covers what runs."""

import asyncio
import contextlib
import contextvars
import functools
import inspect
import pickle
import threading

import pytest
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, StatusCode

import otel_perf as perf
from otel_perf.calls.function import FUNCTIONS
from tests.calls.conftest import counts_of

always = perf.monitored(span="always")


def current():
    return trace.get_current_span()


def names(calls):
    return [span.name.rpartition(".")[2] for span in calls.spans]


# --- the eighteen checks -----------------------------------------------------------------------------


def test_a_sync_functions_span_covers_it(calls):
    @always
    def work():
        assert not calls.spans
        return current().get_span_context().span_id

    assert work() == calls.spans[0].context.span_id
    assert calls.spans[0].attributes["code.function.name"].endswith("work")
    assert calls.spans[0].attributes["code.file.path"] == __file__


def test_a_coroutine_is_covered_while_it_awaits(calls):
    @always
    async def work():
        before = current().get_span_context().span_id
        await asyncio.sleep(0.01)
        assert not calls.spans
        assert current().get_span_context().span_id == before

    asyncio.run(work())
    assert calls.spans[0].end_time - calls.spans[0].start_time >= 10_000_000


def test_iscoroutinefunction_is_kept(calls):
    @perf.monitored
    async def work():
        pass

    assert inspect.iscoroutinefunction(work)


def test_a_generator_is_covered_from_its_first_step_to_its_end(calls):
    @always
    def count():
        yield current().get_span_context().span_id
        yield current().get_span_context().span_id

    steps = count()
    assert not calls.spans
    first = next(steps)
    assert not calls.spans
    assert [first, *steps] == [calls.spans[0].context.span_id] * 2


def test_isgeneratorfunction_is_kept(calls):
    @perf.monitored
    def count():
        yield 1

    assert inspect.isgeneratorfunction(count)


def test_send_and_the_return_value_pass(calls):
    @perf.monitored
    def echo():
        got = yield "first"
        try:
            got = yield got
        except KeyError as error:
            got = yield error
        return "end"

    steps = echo()
    assert next(steps) == "first"
    assert steps.send("sent") == "sent"
    error = KeyError()
    assert steps.throw(error) is error
    with pytest.raises(StopIteration, match="end"):
        next(steps)
    assert counts_of("echo").count == 1

    def outer():
        return (yield from echo())

    through = outer()
    next(through)
    through.send(1)
    assert through.throw(KeyError()) is not None
    with pytest.raises(StopIteration) as stop:
        next(through)
    assert stop.value.value == "end"


@pytest.mark.parametrize("mode", ["auto", "always", "never"])
def test_no_context_leaks_from_a_generator_into_its_consumer(mode, calls):
    inner = trace.get_tracer("t")

    @perf.monitored(span=mode)
    def count():
        for number in range(3):
            with inner.start_as_current_span("inside"):
                yield number

    before = contextvars.copy_context()
    steps = count()
    for _ in steps:
        assert current() is INVALID_SPAN
        assert list(contextvars.copy_context().items()) == list(before.items())
        with inner.start_as_current_span("outside") as outside:
            assert outside.parent is None
    assert current() is INVALID_SPAN


def test_an_async_generator_is_covered(calls):
    @always
    async def count():
        yield current().get_span_context().span_id
        await asyncio.sleep(0)
        yield current().get_span_context().span_id

    async def consume():
        found = []
        async for item in count():
            assert current() is INVALID_SPAN
            found.append(item)
        return found

    assert inspect.isasyncgenfunction(count)
    assert asyncio.run(consume()) == [calls.spans[0].context.span_id] * 2


def test_asend_and_athrow_pass(calls):
    @perf.monitored
    async def echo():
        got = yield "first"
        try:
            got = yield got
        except KeyError as error:
            yield error

    async def consume():
        steps = echo()
        error = KeyError()
        return [
            await anext(steps),
            await steps.asend("sent"),
            await steps.athrow(error) is error,
            await anext(steps, "end"),
        ]

    assert asyncio.run(consume()) == ["first", "sent", True, "end"]


def test_an_async_generator_left_early_runs_its_finally_and_ends_its_span(calls, caplog):
    done = []

    @always
    async def count():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            done.append(current().get_span_context().span_id)

    async def consume():
        steps = count()
        assert await anext(steps) == 1
        await steps.aclose()
        assert current() is INVALID_SPAN
        async for _ in count():  # left without aclose: the event loop closes it, in a task of its own
            break
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(consume())
    assert done == [span.context.span_id for span in calls.spans]
    assert len(done) == 2
    assert [span.status.status_code for span in calls.spans] == [StatusCode.UNSET] * 2
    assert "detach" not in caplog.text


def test_a_class_stays_a_class_with_its_public_methods_covered(calls):
    @always
    class Repo:
        """A repository."""

        limit = 3

        def __init__(self):
            self.rows = []

        def load(self):
            return self._private()

        def _private(self):
            return current().get_span_context().span_id

        @staticmethod
        def static():
            return current().get_span_context().span_id

        @classmethod
        def create(cls):
            return cls(), current().get_span_context().span_id

        @property
        def size(self):
            return current()

    assert isinstance(Repo, type)
    assert Repo.__doc__ == "A repository."
    repo, _ = Repo.create()
    assert isinstance(repo, Repo)
    assert repo.load() == calls.spans[1].context.span_id
    assert Repo.static() == calls.spans[2].context.span_id
    assert repo.size is INVALID_SPAN
    assert names(calls) == ["create", "load", "static"]


def test_a_staticmethod_object_is_covered(calls):
    class Repo:
        @perf.monitored
        @staticmethod
        def load(a):
            return a

        @staticmethod
        @perf.monitored
        def store(a):
            return a

    assert (Repo.load(1), Repo().load(2), Repo.store(3)) == (1, 2, 3)
    assert isinstance(vars(Repo)["load"], staticmethod)
    assert counts_of("load").count == 2


def test_a_classmethod_object_is_covered(calls):
    class Repo:
        @perf.monitored
        @classmethod
        def create(cls, a):
            return cls, a

    class Other(Repo):
        pass

    assert Other.create(1) == (Other, 1)
    assert counts_of("create").count == 1


def test_a_property_object_is_covered(calls):
    class Repo:
        @perf.monitored
        @property
        def size(self):
            "How many."
            return 4

        @size.setter
        def size(self, value):
            self.value = value

    repo = Repo()
    repo.size = 3
    assert (repo.size, repo.value, Repo.size.__doc__) == (4, 3, "How many.")
    assert counts_of("size").count == 1


def test_a_cached_property_is_covered(calls):
    class Repo:
        @perf.monitored
        @functools.cached_property
        def size(self):
            return 4

    repo = Repo()
    assert (repo.size, repo.size) == (4, 4)
    assert counts_of("size").count == 1


def test_a_partial_is_covered(calls):
    def add(a, b):
        return a + b

    assert perf.monitored(functools.partial(add, 1))(2) == 3
    assert counts_of("add").count == 1

    async def later(a):
        return a

    measured = perf.monitored(functools.partial(later, 1))
    assert inspect.iscoroutinefunction(measured)
    assert asyncio.run(measured()) == 1


def test_signature_annotations_and_documentation_are_kept(calls):
    def work(a: int, /, b: str = "x", *rest: float, key: bool, **others: bytes) -> list[int]:
        """What it does."""

    work.mark = 1
    measured = perf.monitored(work)
    assert inspect.signature(measured) == inspect.signature(work)
    assert measured.__doc__ == "What it does."
    assert (measured.__name__, measured.__qualname__, measured.__module__) == ("work", work.__qualname__, __name__)
    assert inspect.get_annotations(measured) == inspect.get_annotations(work)
    assert inspect.unwrap(measured) is work
    assert measured.mark == 1
    assert inspect.isfunction(measured)


def test_the_attributes_of_an_lru_cache_are_kept(calls):
    @perf.monitored
    @functools.lru_cache(maxsize=2)
    def load(a):
        return a

    load(1)
    load(1)
    assert load.cache_info().hits == 1
    load.cache_clear()
    assert load.cache_info().currsize == 0
    assert load.cache_parameters()["maxsize"] == 2


def test_an_exception_is_recorded_and_raised_again(calls):
    @perf.monitored
    def work():
        raise LookupError("no such order")

    with pytest.raises(LookupError, match="no such order"):
        work()
    (span,) = calls.spans
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "LookupError: no such order"
    assert span.events[0].attributes["exception.type"] == "LookupError"
    assert counts_of("work").errors == counts_of("work").count == 1


@pytest.mark.parametrize("mode", ["auto", "always", "never"])
def test_the_context_is_as_before_afterwards(mode, calls):
    @perf.monitored(span=mode)
    def work(fail):
        if fail:
            raise ValueError

    with trace.get_tracer("t").start_as_current_span("request") as request:
        work(False)
        assert current() is request
        with pytest.raises(ValueError):
            work(True)
        assert current() is request


# --- the rest ----------------------------------------------------------------------------------------


@perf.monitored
def at_module_level(a):
    return a


def test_a_function_is_pickled_by_its_name(calls):
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level


def test_methods_bind_and_nested_and_recursive_calls_count(calls):
    class Tree:
        @perf.monitored
        def depth(self, n):
            return 0 if n == 0 else 1 + self.depth(n - 1)

    assert Tree().depth(50) == 50
    counts = counts_of("depth")
    assert counts.count == 51
    assert counts.self_total <= counts.total


def test_a_generator_closed_early_ends_cleanly(calls):
    done = []

    @always
    def count():
        try:
            yield 1
            yield 2
        finally:
            done.append(current().get_span_context().span_id)

    steps = count()
    next(steps)
    steps.close()
    assert done == [calls.spans[0].context.span_id]
    assert calls.spans[0].status.status_code is StatusCode.UNSET
    assert counts_of("count").errors == 0


def test_a_generator_may_go_on_in_another_thread_and_context(calls):
    @always
    def count():
        for _ in range(3):
            yield current().get_span_context().span_id

    steps, found = count(), []
    found.append(next(steps))
    thread = threading.Thread(target=lambda: found.append(next(steps)))
    thread.start()
    thread.join()
    found.append(contextvars.Context().run(next, steps))
    assert next(steps, None) is None
    assert set(found) == {calls.spans[0].context.span_id}


def test_a_failing_generator_is_an_error(calls):
    @perf.monitored
    def count():
        yield 1
        raise ValueError("at the end")

    with pytest.raises(ValueError, match="at the end"):
        list(count())
    assert calls.spans[0].status.status_code is StatusCode.ERROR


def test_a_cancelled_coroutine_is_no_error(calls):
    @always
    async def work():
        await asyncio.sleep(60)

    async def cancel():
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert calls.spans[0].status.status_code is StatusCode.UNSET
    assert counts_of("work").errors == 0


def test_a_coroutine_that_is_stepped_from_several_contexts_still_counts(calls):
    @perf.monitored
    async def work():
        await asyncio.sleep(0)
        return 3

    steps = work()
    contextvars.copy_context().run(steps.send, None)
    with pytest.raises(StopIteration, match="3"):
        contextvars.copy_context().run(steps.send, None)
    assert counts_of("work").count == 1


def test_a_block_is_measured_and_gives_its_span(calls):
    with perf.monitored("phase") as span:
        assert current() is span
        span.set_attribute("phase.number", 1)
        assert span.is_recording()
    assert counts_of("phase").count == 1
    assert not calls.spans
    with perf.monitored("other", span="always", attributes={"a": 1}) as span:
        span.set_attribute("b", 2)
    assert calls.spans[0].attributes == {"code.function.name": "other", "a": 1, "b": 2}
    with pytest.raises(KeyError), perf.monitored("phase"):
        raise KeyError
    assert counts_of("phase").errors == 1


def test_one_block_may_be_entered_again_and_by_many_threads(calls):
    block = perf.monitored("phase")
    with block, block:
        pass
    threads = [
        threading.Thread(target=lambda: [block.__enter__() and block.__exit__(None, None, None) for _ in range(200)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts_of("phase").count == 802
    assert current() is INVALID_SPAN


def test_a_block_decorates_too(calls):
    @perf.monitored("named")
    def work():
        return 5

    assert work() == 5
    assert counts_of("named").count == 1


def test_names_and_attributes_are_as_given(calls):
    @perf.monitored(name="place order", span="always", attributes={"team": "shop"})
    def work():
        pass

    work()
    assert calls.spans[0].name == "place order"
    assert calls.spans[0].attributes["team"] == "shop"
    assert calls.spans[0].attributes["code.function.name"].endswith("work")


def test_never_makes_no_span_and_is_in_nobodys_way(calls):
    @perf.monitored(span="never")
    def work():
        with trace.get_tracer("t").start_as_current_span("inside") as span:
            return span

    with trace.get_tracer("t").start_as_current_span("request") as request:
        assert work().parent.span_id == request.get_span_context().span_id
    assert names(calls) == ["inside", "request"]
    assert counts_of("work").count == 1


def test_switched_off_it_only_calls(calls):
    @perf.monitored
    def work():
        return current()

    @perf.monitored
    async def later():
        return current()

    @perf.monitored
    def count():
        got = yield current()
        return got

    @perf.monitored
    async def each():
        yield current()

    FUNCTIONS.turn(False)
    assert work() is INVALID_SPAN
    assert asyncio.run(later()) is INVALID_SPAN
    assert list(count()) == [INVALID_SPAN]

    async def consume():
        return [item async for item in each()]

    assert asyncio.run(consume()) == [INVALID_SPAN]
    with perf.monitored("phase") as span:
        assert span is INVALID_SPAN
    assert FUNCTIONS.counts() == []
    FUNCTIONS.turn(True, slow=3600)
    assert work() is not INVALID_SPAN


def test_what_cannot_be_measured_is_said(calls):
    with pytest.raises(TypeError, match=r"monitored: 3 cannot be called; it takes a function"):
        perf.monitored(3)
    with pytest.raises(ValueError, match="monitored: span is 'sometimes'; it must be one of auto, always, never"):
        perf.monitored(span="sometimes")
    with pytest.raises(ValueError, match="the name of a block is empty"):
        perf.monitored("")


def test_beyond_the_limit_functions_share_one_series(calls, monkeypatch):
    from otel_perf.calls.function import Functions

    functions = Functions()
    functions.limit = 2
    made = [functions.add(f"f{number}", "auto", {}) for number in range(5)]
    assert [function.counts.name for function in made] == ["f0", "f1", *["otel.metric.overflow"] * 3]
    assert functions.add("f0", "auto", {}).counts is made[0].counts
