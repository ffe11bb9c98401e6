"""Each detector on a small real program: what it says, of which line, and that its healthy twin says nothing."""

import asyncio
import contextlib
import gc
import inspect
import mmap
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from opentelemetry.trace import SpanKind

from tests.bottlenecks.conftest import NOISE, costs_fit

pytestmark = pytest.mark.alone  # they judge what is slow


async def _request(running, program):
    with running.tracer.start_as_current_span("request"):
        await program(running)


@pytest.fixture
def check(app):
    """Run a program as one trace; its finding of a kind, or what else was found."""

    def check(program, kind, *, found, times=1):
        running = app()
        for _ in range(times):
            if inspect.iscoroutinefunction(program):
                asyncio.run(_request(running, program))
            else:
                with running.tracer.start_as_current_span("request"):
                    program(running)
        spans = running.spans()
        assert costs_fit(spans)
        findings = [finding for _, finding in running.findings()]
        kinds = {finding["perf.bottleneck.kind"] for finding in findings}
        if not found:
            assert kind not in kinds
            assert kinds <= NOISE
            return None
        mine = [finding for finding in findings if finding["perf.bottleneck.kind"] == kind]
        assert mine, kinds
        finding = mine[-1]
        root = next(span for span in reversed(spans) if span.name == "request")
        assert 0 <= finding["perf.bottleneck.cost"] <= (root.end_time - root.start_time) / 1e9 + 1e-6
        assert finding["perf.bottleneck.cost"] >= 0.005 or kind == "memory_growth"
        assert root.attributes["perf.bottleneck"] is True
        assert kind in root.attributes["perf.bottleneck.kinds"]
        assert "request" in finding["perf.bottleneck.evidence"]
        return finding

    return check


def line_of(function, text):
    """The number of the line of ``function`` that has ``text``."""
    lines, first = inspect.getsourcelines(function)
    return next(first + number for number, line in enumerate(lines) if text in line)


def is_at(finding, function, text):
    assert finding["code.file.path"].endswith("tests/bottlenecks/test_detectors.py")
    assert finding["code.function.name"].split(".")[-1] == function.__name__
    assert finding["code.line.number"] == line_of(function, text)


@pytest.fixture
def database():
    """SQLite with its instrumentor, where a row takes some time."""
    SQLite3Instrumentor().instrument()
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.create_function("slowly", 1, lambda value: time.sleep(0.012) or value)
        yield connection
    SQLite3Instrumentor().uninstrument()


def test_the_same_query_for_each_row_is_found(check, database):
    def load(app):
        for number in range(10):
            database.cursor().execute("SELECT slowly(?) WHERE 'x' = 'y' OR 1 = 1", (number,)).fetchall()

    finding = check(load, "n_plus_one", found=True)
    assert finding["perf.bottleneck.count"] == 10
    assert finding["perf.bottleneck.culprit"] == "SELECT slowly(?) WHERE ? = ? OR ? = ?"
    assert finding["perf.bottleneck.cost"] > 0.05
    is_at(finding, load, "database.cursor().execute")


def test_one_query_for_all_rows_is_healthy(check, database):
    def load(app):
        database.cursor().execute("SELECT slowly(1), slowly(2), slowly(3), slowly(4), slowly(5)").fetchall()

    check(load, "n_plus_one", found=False)


def test_calls_one_after_the_other_that_could_run_at_once_are_found(check):
    def page(app):
        app.call("prices", 0.13)
        app.call("stock", 0.13)
        app.call("reviews", 0.13)

    finding = check(page, "serial_io", found=True)
    assert finding["perf.bottleneck.count"] == 3
    assert 0.1 < finding["perf.bottleneck.cost"] < 0.35


def test_the_same_calls_at_once_are_healthy(check):
    def page(app):
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda name: app.call(name, 0.13), ["prices", "stock", "reviews"]))

    check(page, "serial_io", found=False)


def test_a_call_that_takes_half_a_second_is_found(check):
    def ask(app):
        app.call("report", 0.6)

    finding = check(ask, "slow_io", found=True)
    assert finding["perf.bottleneck.culprit"] == "report"
    assert 0.4 < finding["perf.bottleneck.cost"] < 0.65


def test_a_short_call_is_healthy(check):
    check(lambda app: app.call("report", 0.08), "slow_io", found=False)


def test_many_calls_at_once_of_which_the_other_side_serves_a_few_are_found(check):
    def ask(app, number):
        with app.tracer.start_as_current_span(
            "GET", kind=SpanKind.CLIENT, attributes={"http.request.method": "GET", "url.full": "http://shop/items/1"}
        ):
            time.sleep(0.03 * (1 + number // 4))

    def page(app):
        with ThreadPoolExecutor(24) as pool:
            list(pool.map(lambda number: ask(app, number), range(24)))

    finding = check(page, "fan_out", found=True)
    assert finding["perf.bottleneck.count"] == 24
    assert "GET shop/items/{}" in finding["perf.bottleneck.evidence"]


def test_a_few_calls_at_once_are_healthy(check):
    def page(app):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: app.call("GET", 0.06), range(8)))

    check(page, "fan_out", found=False)


def test_code_that_blocks_the_loop_is_found(check):
    def block():
        time.sleep(0.35)

    async def serve(app):
        await asyncio.sleep(0.06)
        block()
        await asyncio.sleep(0.06)

    finding = check(serve, "loop_block", found=True)
    is_at(finding, block, "time.sleep")
    assert 0.2 < finding["perf.bottleneck.cost"] < 0.5


def test_code_that_blocks_a_loop_that_a_synchronous_request_runs_is_found_at_its_line(check):
    """GIVEN a synchronous view that runs a coroutine, as async_to_sync does THEN its own time is told, of that line."""

    def block():
        time.sleep(0.3)

    def view(app):
        async def main():
            await asyncio.sleep(0.01)
            block()

        asyncio.run(main())

    finding = check(view, "self_time", found=True, times=5)
    is_at(finding, block, "time.sleep")


def test_code_that_awaits_is_healthy(check):
    async def serve(app):
        await asyncio.sleep(0.06)
        await asyncio.to_thread(time.sleep, 0.05)
        await asyncio.sleep(0.06)

    check(serve, "loop_block", found=False)


def test_waiting_for_a_thread_of_a_pool_is_found(check):
    with ThreadPoolExecutor(1) as pool:

        def page(app):
            app.free = pool.submit(time.sleep, 0.3)
            pool.submit(int).result()

        finding = check(page, "pool_wait", found=True)
    assert finding["perf.bottleneck.culprit"] == "a thread of a ThreadPoolExecutor of 1"
    assert 0.2 < finding["perf.bottleneck.cost"] < 0.4
    is_at(finding, page, "pool.submit(int)")


def test_waiting_is_found_again_where_work_has_waited_before(check):
    """CPython 3.11 takes a thread for idle that has gone from one piece of work to the next."""
    with ThreadPoolExecutor(1) as pool:

        def page(app):
            for _ in range(4):
                pool.submit(time.sleep, 0.02)
            pool.submit(int).result()
            app.free = pool.submit(time.sleep, 0.3)
            pool.submit(int).result()

        finding = check(page, "pool_wait", found=True)
    assert finding["perf.bottleneck.cost"] > 0.3


def test_a_pool_with_a_thread_left_is_healthy(check):
    def page(app):
        with ThreadPoolExecutor(2) as pool:
            app.one = pool.submit(time.sleep, 0.08)
            pool.submit(int).result()

    check(page, "pool_wait", found=False)


def test_work_that_nobody_waits_for_is_no_waiting(check):
    """GIVEN a job that is left to a busy pool, and a call of some length THEN the request waited for the call only."""
    with ThreadPoolExecutor(1) as pool:

        def page(app):
            app.busy = pool.submit(time.sleep, 0.4)
            app.later = pool.submit(int)
            app.call("stock", 0.3)

        check(page, "pool_wait", found=False)


def test_a_pool_whose_threads_are_all_free_again_is_healthy(check):
    """GIVEN work that has waited, and been done WHEN threads are late for another reason THEN the pool is not full."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(time.sleep, [0.01] * 8))

        def page(app):
            app.one = pool.submit(time.sleep, 0.3)
            pool.submit(time.sleep, 0.2).result()

        check(page, "pool_wait", found=False)


def test_a_submit_that_fails_and_a_job_that_is_cancelled_are_no_waiting(check):
    pool = ThreadPoolExecutor(1)

    def page(app):
        busy = threading.Event()
        pool.submit(busy.wait, 10)
        assert pool.submit(int).cancel()
        busy.set()
        pool.shutdown()
        with pytest.raises(RuntimeError):
            pool.submit(int)
        app.call("stock", 0.3)

    check(page, "pool_wait", found=False)


def test_waiting_for_a_lock_is_found(check):
    lock, taken = threading.Lock(), threading.Event()

    def hold():
        with lock:
            taken.set()
            time.sleep(0.35)

    def update():
        with lock:
            pass

    def page(app):
        holder = threading.Thread(target=hold)
        holder.start()
        taken.wait(10)
        update()
        holder.join()

    finding = check(page, "lock_wait", found=True)
    is_at(finding, update, "with lock")
    assert 0.2 < finding["perf.bottleneck.cost"] < 0.4


def test_a_lock_that_is_free_is_healthy(check):
    lock = threading.Lock()

    def page(app):
        end = time.monotonic() + 0.07  # 0.1 s would be much of its own time, on a slow machine
        while time.monotonic() < end:
            with lock:
                time.sleep(0.0003)

    check(page, "lock_wait", found=False)


def test_waiting_for_a_lock_of_asyncio_is_found(check):
    async def hold(lock):
        async with lock:
            await asyncio.sleep(0.35)

    async def update(lock):
        async with lock:
            pass

    async def page(app):
        lock = asyncio.Lock()
        holder = asyncio.ensure_future(hold(lock))
        await asyncio.sleep(0)
        await update(lock)
        await holder

    finding = check(page, "lock_wait", found=True)
    is_at(finding, update, "async with lock")


def test_time_in_the_apps_own_code_is_found(check):
    def wait():
        time.sleep(0.25)

    finding = check(lambda app: wait(), "self_time", found=True, times=5)
    is_at(finding, wait, "time.sleep")
    assert finding["perf.bottleneck.culprit"].endswith("wait")


def test_computing_is_found(check):
    def compute():
        until = time.thread_time() + 0.3
        while time.thread_time() < until:
            sum(range(1_000))

    finding = check(lambda app: compute(), "cpu_bound", found=True, times=5)
    assert finding["code.function.name"].endswith("compute")
    assert finding["perf.bottleneck.cost"] > 0.2


@pytest.mark.parametrize("kind", ["self_time", "cpu_bound"])
def test_time_that_somebody_else_takes_is_not_the_apps_own(check, kind):
    check(lambda app: app.call("query", 0.2), kind, found=False, times=5)


def test_a_collection_that_the_app_asks_for_is_found(check):
    garbage = [[] for _ in range(1_500_000)]

    def tidy():
        gc.collect()

    finding = check(lambda app: tidy(), "gc_pause", found=True)
    del garbage
    assert finding["code.function.name"].endswith("tidy")
    assert finding["perf.bottleneck.culprit"].endswith("tidy")


def test_memory_that_a_request_takes_is_found(check):
    kept = []

    def load(app):
        for _ in range(100):
            kept.append(mmap.mmap(-1, 2**20))  # new pages, whatever earlier tests have left to the allocator
            kept[-1].write(b"x" * 2**20)
            time.sleep(0.002)

    try:
        finding = check(load, "memory_growth", found=True)
    finally:
        for each in kept:
            each.close()
    assert "memory grew by" in finding["perf.bottleneck.evidence"]
