"""Waiting for the garbage collector, the event loop, a pool or a lock; and what only looks like it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import httpx
import requests
from case import DATABASE, TRUST, Case, bottleneck, connect, healthy
from case_code import compute
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import QueuePool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# --- gc_pause ------------------------------------------------------------------------------------------


def collection() -> float:
    """What a full collection takes (s), without what the machine adds."""
    start = time.thread_time()
    gc.collect()
    return time.thread_time() - start


@contextmanager
def heap(case: Case) -> Iterator[list[Any]]:
    """So many objects live that a full collection takes as long as it should."""
    gc.collect()
    gc.freeze()
    wanted, kept = case.over(0.01), []
    while collection() < wanted:
        kept.append([[number] for number in range(10_000)])
    yield kept
    kept.clear()


@contextmanager
def small_heap(case: Case) -> Iterator[None]:
    """Little is looked at by a full collection."""
    gc.collect()
    gc.freeze()
    yield


@contextmanager
def heap_and_collector(case: Case) -> Iterator[None]:
    """Another thread collects a large heap while the operation waits for its call."""
    with heap(case):
        timer = threading.Timer(0.08, gc.collect)
        timer.start()
        yield
        timer.join()


@bottleneck("gc_pause", around=heap)
def collects_at_the_end(case: Case) -> Any:
    try:
        return requests.get(case.url("profile", 0.04), timeout=30).json()
    finally:
        gc.collect()


@bottleneck("gc_pause", around=heap, blame=(collection,))
def collects_by_helper(case: Case) -> float:
    compute(0.04)
    return collection()


@bottleneck("gc_pause", around=heap)
async def collects_in_a_coroutine(case: Case) -> None:
    await asyncio.sleep(0.05)
    gc.collect()


@bottleneck("gc_pause", around=heap, blame=("garbage collector",))
def allocates_much(case: Case) -> int:
    """Python collects by itself when a quarter more objects live than did, and so many were made since the last time.

    How many that are depends on the thresholds, which grow where much is collected. Until then nothing was injected.
    """
    kept: list[Any] = []
    before = full_collections()
    while full_collections() == before:
        kept += [[number] for number in range(10_000)]  # with as little computing as that takes
    time.sleep(0.03)
    return len(kept)


def full_collections() -> int:
    """How many there were."""
    return int(gc.get_stats()[2]["collections"])


@healthy("gc_pause", around=small_heap)
def collects_little(case: Case) -> Any:
    gc.collect()
    return requests.get(case.url("profile", case.over(0.04, at_most=0.3)), timeout=30).json()


@healthy("gc_pause", around=heap_and_collector)
def waits_while_another_collects(case: Case) -> Any:
    with closing(connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*), pause(?) FROM item", (0.2 + case.over(0.01),))
        return cursor.fetchone()


@healthy("gc_pause")
def allocates_little(case: Case) -> int:
    kept = [{"number": number} for number in range(20_000)]
    requests.get(case.url("profile", case.over(0.03, at_most=0.3)), timeout=30)
    return len(kept)


# --- loop_block ----------------------------------------------------------------------------------------


@bottleneck("loop_block")
async def sleeps_in_the_loop(case: Case) -> None:
    await asyncio.sleep(0.01)
    time.sleep(case.over(0.1))


@bottleneck("loop_block")
async def requests_in_the_loop(case: Case) -> Any:
    return requests.get(case.url("profile", case.over(0.1)), timeout=30).json()


@bottleneck("loop_block", blame=(compute,))
async def computes_in_the_loop(case: Case) -> int:
    return compute(case.over(0.1))


@bottleneck("loop_block")
async def queries_in_the_loop(case: Case) -> Any:
    await asyncio.sleep(0.01)
    with closing(connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*), pause(?) FROM item", (case.over(0.1),))
        return cursor.fetchone()


@bottleneck("loop_block")
async def runs_a_program_in_the_loop(case: Case) -> None:
    async with httpx.AsyncClient(verify=TRUST) as client:
        await client.get(case.url("profile", 0.02))
    subprocess.run(["sleep", str(case.over(0.1))], check=True)


@healthy("loop_block")
async def calls_in_a_thread(case: Case) -> Any:
    url = case.url("profile", case.over(0.1, at_most=0.4))
    return await asyncio.to_thread(lambda: requests.get(url, timeout=30).json())


@healthy("loop_block")
async def blocks_shortly(case: Case) -> None:
    for _ in range(4):
        time.sleep(case.about(0.03))
        await asyncio.sleep(0.02)


@healthy("loop_block")
async def awaits_long(case: Case) -> None:
    await asyncio.sleep(case.over(0.1))


# --- pool_wait -----------------------------------------------------------------------------------------


@contextmanager
def threads_of_two(case: Case) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads have something to do for as long as the operation is to wait."""
    with ThreadPoolExecutor(2) as pool:
        busy = case.over(0.05)
        case.prefaced = False
        for _ in range(2):
            contextvars.Context().run(pool.submit, time.sleep, busy)
        yield pool


@contextmanager
def many_threads(case: Case) -> Iterator[ThreadPoolExecutor]:
    """The same with room."""
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            contextvars.Context().run(pool.submit, time.sleep, case.over(0.05))
        yield pool


def _engine(size: int) -> Any:
    engine = create_engine(f"sqlite:///{DATABASE}", poolclass=QueuePool, pool_size=size, max_overflow=0)
    event.listen(engine, "connect", lambda connection, _: connection.create_function("pause", 1, time.sleep))
    return engine


@contextmanager
def connections(case: Case, size: int = 1) -> Iterator[Any]:
    """A pool of which another thread has a connection for as long as the operation is to wait."""
    engine, taken, long = _engine(size), threading.Event(), case.over(0.05)
    case.prefaced = False

    def hold() -> None:
        with engine.connect():
            taken.set()
            time.sleep(long)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    yield engine
    thread.join()
    engine.dispose()


def enough_connections(case: Case) -> Any:
    return connections(case, 4)


def query(engine: Any) -> Any:
    with engine.connect() as connection:
        return connection.execute(text("SELECT count(*), pause(0.02) FROM item")).one()


@bottleneck("pool_wait", around=threads_of_two)
def submits_to_a_full_pool(case: Case) -> Any:
    url = case.url("profile", 0.02)
    future = case.given.submit(lambda: requests.get(url, timeout=30).json())
    return future.result()


@bottleneck("pool_wait", around=threads_of_two)
async def awaits_a_full_pool(case: Case) -> Any:
    return await asyncio.get_running_loop().run_in_executor(case.given, time.sleep, 0.02)


@bottleneck("pool_wait", around=connections, blame=(query,))
def waits_for_a_connection(case: Case) -> Any:
    return query(case.given)


@bottleneck("pool_wait")
async def waits_for_httpx(case: Case) -> Any:
    async with httpx.AsyncClient(verify=TRUST, limits=httpx.Limits(max_connections=1)) as client:
        url = case.url("other", case.over(0.05))
        other = asyncio.create_task(client.get(url), context=contextvars.Context())
        await asyncio.sleep(0.001)
        answer = await client.get(case.url("profile", 0.02))
        await other
    return answer.json()


@bottleneck("pool_wait", hosts=("main",))
async def waits_for_anyio(case: Case) -> Any:
    limiter = anyio.CapacityLimiter(1)
    run = anyio.to_thread.run_sync
    other = asyncio.create_task(run(time.sleep, case.over(0.05), limiter=limiter), context=contextvars.Context())
    await asyncio.sleep(0.001)
    result = await run(time.sleep, 0.02, limiter=limiter)
    await other
    return result


@healthy("pool_wait", around=many_threads)
def submits_to_a_pool_with_room(case: Case) -> Any:
    url = case.url("profile", case.over(0.05, at_most=0.3))
    return case.given.submit(lambda: requests.get(url, timeout=30).json()).result()


@healthy("pool_wait", around=enough_connections)
def has_enough_connections(case: Case) -> Any:
    return query(case.given)


@healthy("pool_wait")
async def one_of_ten_connections(case: Case) -> Any:
    async with httpx.AsyncClient(verify=TRUST) as client:
        url = case.url("other", case.over(0.05, at_most=0.3))
        other = asyncio.create_task(client.get(url), context=contextvars.Context())
        answer = await client.get(case.url("profile", case.over(0.05, at_most=0.3)))
        await other
    return answer.json()


# --- lock_wait -----------------------------------------------------------------------------------------


def held(make: Callable[[], Any]) -> Callable[[Case], Any]:
    """Another thread holds what ``make`` makes for as long as the operation is to wait."""

    @contextmanager
    def around(case: Case) -> Iterator[Any]:
        lock, taken, long = make(), threading.Event(), case.over(0.05)
        case.prefaced = False

        def hold() -> None:
            with lock:
                taken.set()
                time.sleep(long)

        thread = threading.Thread(target=hold)
        thread.start()
        taken.wait()
        yield lock
        thread.join()

    return around


@bottleneck("lock_wait", around=held(threading.Lock))
def waits_for_a_lock(case: Case) -> None:
    with case.given:
        compute(0.005)


@bottleneck("lock_wait", around=held(threading.RLock))
def acquires_an_rlock(case: Case) -> None:
    case.given.acquire()
    try:
        requests.get(case.url("profile", 0.02), timeout=30)
    finally:
        case.given.release()


@bottleneck("lock_wait", around=held(threading.Semaphore))
def waits_for_a_semaphore(case: Case) -> None:
    with case.given:
        compute(0.005)


@bottleneck("lock_wait")
async def awaits_a_lock(case: Case) -> None:
    lock = asyncio.Lock()

    async def hold(seconds: float) -> None:
        async with lock:
            await asyncio.sleep(seconds)

    other = asyncio.create_task(hold(case.over(0.05)), context=contextvars.Context())
    await asyncio.sleep(0.001)
    async with lock:
        await asyncio.sleep(0.01)
    await other


class Stock:
    """Its lock is held during I/O."""

    lock = threading.Lock()

    def reserve(self, case: Case, seconds: float) -> None:
        """Take it from the shelf."""
        with self.lock:
            requests.get(case.url("reserve", seconds), timeout=30)


@contextmanager
def others_reserve(case: Case) -> Iterator[None]:
    """Two other threads are at it, one after the other."""
    case.prefaced = False
    threads = [threading.Thread(target=Stock().reserve, args=(case, case.over(0.05) / 2)) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.01)
    yield
    for thread in threads:
        thread.join()


@bottleneck("lock_wait", around=others_reserve, blame=(Stock.reserve,))
def reserves_after_others(case: Case) -> None:
    Stock().reserve(case, 0.02)


@healthy("lock_wait")
def holds_its_lock_long(case: Case) -> Any:
    with threading.Lock():
        return requests.get(case.url("profile", case.over(0.05, at_most=0.3)), timeout=30).json()


@healthy("lock_wait")
async def holds_its_asyncio_lock_long(case: Case) -> None:
    async with asyncio.Lock():
        await asyncio.sleep(case.over(0.05))


@contextmanager
def held_shortly(case: Case) -> Iterator[Any]:
    """A lock that another thread has for 15 ms."""
    lock, strength = threading.Lock(), case.strength
    case.strength = 1.0
    with held(lambda: lock)(case):
        case.strength = strength
        time.sleep(case.about(0.035))
        yield lock


@healthy("lock_wait", around=held_shortly)
def waits_shortly(case: Case) -> Any:
    with case.given:
        pass
    return requests.get(case.url("profile", case.over(0.05, at_most=0.3)), timeout=30).json()
