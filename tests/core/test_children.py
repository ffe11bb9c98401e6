"""Threads, processes and work handed to processes go on in the context of who starts them."""

import asyncio
import multiprocessing
import multiprocessing.pool
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from opentelemetry.context import Context

import otel_perf as perf
from otel_perf.core import children, executors
from otel_perf.core.correlation import current
from otel_perf.core.ids import attach, detach, now, span_of
from otel_perf.core.served import begin_request, end_request, request
from tests.core.test_correlation import in_span

TRACE = f"{0xAB:032x}"


@pytest.fixture(autouse=True)
def installed():
    with ExitStack() as undo:
        executors.install(undo)
        children.install(undo)
        yield undo


@pytest.fixture
def span():
    token = attach(in_span())
    yield
    detach(token)


def look(*_):
    """Trace id and correlation id of where it runs."""
    ids = span_of(now())
    return (f"{ids.trace_id:032x}" if ids else ""), current()


def put_look(queue):
    queue.put(look())


class Mine(threading.Thread):
    """A thread with a ``run`` of its own."""

    def run(self):
        self.found = look()


def test_threads_of_every_kind(span):
    found = []
    plain = threading.Thread(target=lambda: found.append(look()))
    timer = threading.Timer(0.0, lambda: found.append(look()))
    mine = Mine()
    with perf.correlation("job"):
        for thread in (plain, timer, mine):
            thread.start()
    for thread in (plain, timer, mine):
        thread.join()
    assert [*found, mine.found] == [(TRACE, "job")] * 3
    assert not [name for name in vars(plain) if name.startswith("_otel")]


def test_a_thread_of_a_request_has_its_ids_where_no_span_is_current():
    tokens = begin_request()
    request.get().span = span_of(in_span())
    request.get().correlation = "mine"
    thread = Mine()
    thread.start()
    thread.join()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(look).result() == thread.found == (TRACE, "mine")
    end_request(tokens)


def test_workers_of_an_executor_belong_to_nobody(span):
    """GIVEN an executor whose thread began within a request THEN what others hand it has not that request's ids."""
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(look).result()[0] == TRACE
        token = attach(Context())
        assert pool.submit(look).result() == ("", "")
        detach(token)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_work_handed_to_processes(span, method):
    """GIVEN processes that were started within a request THEN each piece of work has the ids of who handed it over."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        with perf.correlation("one"):
            assert pool.submit(look).result(60) == (TRACE, "one")
        assert list(pool.map(look, [1, 2], timeout=60)) == [(TRACE, TRACE)] * 2
        token = attach(in_span(0xCD))
        assert pool.submit(look).result(60)[0] == f"{0xCD:032x}"
        detach(token)
        token = attach(Context())
        assert pool.submit(look).result(60) == ("", "")
        detach(token)


def test_run_in_executor_with_processes(span):
    async def main(pool):
        return await asyncio.get_running_loop().run_in_executor(pool, look)

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        assert asyncio.run(main(pool))[0] == TRACE


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_pools(span, kind):
    pool = multiprocessing.get_context("fork").Pool(1) if kind == "processes" else multiprocessing.pool.ThreadPool(1)
    with pool:
        assert pool.apply(look)[0] == TRACE
        assert pool.apply_async(func=look).get(30)[0] == TRACE
        assert [found[0] for found in pool.map(look, [1, 2])] == [TRACE] * 2
        assert [found[0] for found in pool.starmap(look, [(1, 2)])] == [TRACE]
        assert [found[0] for found in pool.imap(look, [1, 2])] == [TRACE] * 2
        assert [found[0] for found in pool.imap_unordered(look, [1, 2], chunksize=2)] == [TRACE] * 2
        token = attach(Context())
        assert pool.apply(look) == ("", "")
        detach(token)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_its_own(span, method):
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    target = put_look if method == "fork" else _installed_put_look
    process = context.Process(target=target, args=(queue,))
    with perf.correlation("job"):
        process.start()
    assert queue.get() == (TRACE, "job")
    process.join(30)
    assert process.exitcode == 0


def _installed_put_look(queue):
    """In a child that did not start under us: what a sitecustomize would have done, and the rest of its start."""
    process = multiprocessing.current_process()
    assert vars(process)["_otel_perf_context"]["traceparent"].split("-")[1] == TRACE
    token = attach(children._context_of(vars(process)["_otel_perf_context"]))
    queue.put(look())
    detach(token)


def fail():
    raise ValueError("mine")


def test_errors_and_what_cannot_be_pickled_are_as_without_us(span):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        with pytest.raises(ValueError, match="mine"):
            pool.submit(fail).result(30)
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pool.submit(lambda: 1).result(30)


def test_baggage_that_fails_is_not_carried():
    from opentelemetry import baggage

    class Odd:
        def __str__(self):
            raise RuntimeError

    token = attach(baggage.set_baggage("odd", Odd(), in_span()))
    assert children._carried(look) is look
    detach(token)


def test_without_a_context_nothing_is_wrapped():
    assert children._carried(look) is look
    thread = Mine()
    thread.start()
    thread.join()
    assert thread.found == ("", "")


def test_the_undo_restores(installed):
    ours = (threading.Thread.start, ProcessPoolExecutor.submit, multiprocessing.pool.Pool.apply_async)
    installed.close()
    now_there = (threading.Thread.start, ProcessPoolExecutor.submit, multiprocessing.pool.Pool.apply_async)
    assert [after is before.__wrapped__ for after, before in zip(now_there, ours, strict=True)] == [True] * 3
