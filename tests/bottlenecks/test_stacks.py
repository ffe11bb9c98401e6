"""What a thread or a task does is told from its stack: that it waits for a lock, waits, or runs."""

import asyncio
import dis
import os
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from otel_perf.bottlenecks import frames
from otel_perf.bottlenecks.place import DEPTH
from otel_perf.bottlenecks.stacks import LOCK, RUNNING, WAITING, calls, of_task, of_thread
from tests.bottlenecks.conftest import comes_to_rest


class Config:
    timeout = 30


def lock_with(lock):
    with lock:
        pass


def lock_acquire(lock):
    lock.acquire()
    lock.release()


def lock_acquire_timeout(lock):
    lock.acquire(timeout=Config.timeout)
    lock.release()


def lock_acquire_many_times(lock):
    for _ in range(1_000):  # until the interpreter has specialised its instructions
        lock.acquire(False)
    lock.acquire()
    lock.release()


def lock_in_comprehension(lock):
    return [lock.acquire() and lock.release() for _ in range(1)]


CALLS = [  # a name that is called last in the text, the text
    ("acquire", "a.b(c).acquire(timeout=g(1))"),
    ("acquire", "lock.acquire(x(y(3)), z.collect)"),
    ("acquire", "acquire()"),
    ("acquire", "locks[k].acquire()"),
    ("acquire", "(a\n .b(c)\n .acquire(\n  5))"),
    ("acquire", "self.lock.acquire(foo.collect)"),
    ("acquire", "not lock.acquire(*args, **kwargs)"),
    ("acquire", "[lock.release(), lock.acquire()]"),
    ("collect", "gc.collect(lock.acquire)"),
    ("", "locks[acquire]()"),
    ("", "(lambda: acquire)()"),
]


@pytest.mark.parametrize(("name", "text"), CALLS)
def test_the_called_name_is_known_without_the_source(name, text):
    code = compile(text, "<nowhere>", "eval")
    called = [found for found in dis.get_instructions(code) if found.opname.startswith(("CALL", "PRECALL"))]
    at = called[-1].offset
    names = {other for other in ("acquire", "collect") if calls(code, at, frozenset({other}))}
    assert names == ({name} if name else set())


def held(make):
    """A lock that somebody has, and what releases it."""
    lock = make()
    lock.acquire()
    return lock, lock.release


def condition():
    made = threading.Condition()
    return made, lambda: [made.acquire(), made.notify_all(), made.release()]


def wait_condition(made):
    with made:
        made.wait(30)


def event():
    made = threading.Event()
    return made, made.set


def of_queue(kind):
    def make():
        made = kind()
        return made, lambda: made.put(1)

    return make


def barrier():
    made = threading.Barrier(2)
    return made, made.abort


def wait_barrier(made):
    with pytest.raises(threading.BrokenBarrierError):
        made.wait(30)


def future():
    made = ThreadPoolExecutor(1).submit
    free = threading.Event()
    return made(free.wait, 30), free.set


def seen(function, make):
    """The stack of a thread that has come to rest in ``function``."""
    thing, release = make()
    thread = threading.Thread(target=function, args=(thing,))
    thread.start()
    try:
        assert comes_to_rest(thread)
        return of_thread(frames.threads(DEPTH)[thread.ident])
    finally:
        release()
        thread.join()


@pytest.mark.parametrize(
    "function", [lock_with, lock_acquire, lock_acquire_timeout, lock_acquire_many_times, lock_in_comprehension]
)
def test_a_thread_that_waits_for_a_lock(function):
    stack = seen(function, lambda: held(threading.Lock))
    assert stack.doing == LOCK
    assert stack.place.function == function.__name__ or stack.place.function.startswith(f"{function.__name__}.")


@pytest.mark.parametrize("function", [lock_with, lock_acquire, lock_acquire_timeout])
def test_a_thread_that_waits_for_an_rlock_of_another(function):
    made = threading.RLock()
    inside, free = threading.Event(), threading.Event()

    def hold():
        with made:
            inside.set()
            free.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(10)
    try:
        assert seen(function, lambda: (made, free.set)).doing == LOCK
    finally:
        free.set()
        holder.join()


@pytest.mark.parametrize("make", [lambda: threading.Semaphore(1), lambda: threading.BoundedSemaphore(1)])
@pytest.mark.parametrize("function", [lock_with, lock_acquire, lock_acquire_timeout])
def test_a_thread_that_waits_for_a_semaphore(function, make):
    stack = seen(function, lambda: held(make))
    assert (stack.doing, stack.what) == (LOCK, "threading.Semaphore")
    assert stack.place.function == function.__name__


def test_a_thread_that_waits_for_the_lock_of_a_condition():
    stack = seen(lock_with, lambda: held(threading.Condition))
    assert stack.doing == LOCK


@pytest.mark.parametrize(
    ("function", "make"),
    [
        (wait_condition, condition),
        (lambda thing: thing.wait(30), event),
        (lambda thing: thing.get(), of_queue(queue.Queue)),
        (wait_barrier, barrier),
        (lambda thing: thing.result(), future),
    ],
    ids=["condition", "event", "queue", "barrier", "future"],
)
def test_a_thread_that_waits_for_somebodys_word_waits_for_no_lock(function, make):
    assert seen(function, make).doing == WAITING


def test_a_thread_that_sleeps_is_not_taken_for_one_that_waits_for_a_lock():
    ended = threading.Event()

    def sleep(_):
        while not ended.is_set():
            time.sleep(0.3)

    assert seen(sleep, lambda: (None, ended.set)).doing == RUNNING


def test_a_thread_that_reads_a_pipe_in_a_with_is_not_taken_for_one_that_waits_for_a_lock():
    reading, writing = os.pipe()

    def read(_):
        with os.fdopen(reading, "rb") as file:
            file.read(1)

    assert seen(read, lambda: (None, lambda: [os.write(writing, b"x"), os.close(writing)])).doing == RUNNING


def test_a_thread_that_opens_files_all_the_time_is_hardly_ever_taken_for_one_that_waits():
    stop = threading.Event()

    def work():
        while not stop.is_set():
            with Path(os.devnull).open() as file:
                file.read()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        doing = []
        for _ in range(100):
            time.sleep(0.002)
            doing.append(of_thread(frames.threads(DEPTH)[thread.ident]).doing)
    finally:
        stop.set()
        thread.join()
    assert doing.count(LOCK) <= 30


@pytest.mark.parametrize("name", ["/srv/app/task_queue.py", "/srv/app/multithreading.py", "/srv/app/queue.py"])
def test_a_file_of_the_apps_own_is_not_taken_for_pythons_by_its_name(name):
    space = {}
    exec(compile("def work(lock):\n    with lock:\n        pass\n", name, "exec"), space)
    assert seen(space["work"], lambda: held(threading.Lock)).doing == LOCK


def of_waiting(body):
    """The stack of the task that ``body(release)`` has waiting."""

    async def main():
        release = asyncio.Event()
        task = asyncio.ensure_future(body(release))
        for _ in range(5):
            await asyncio.sleep(0)
        stack = of_task(task)
        release.set()
        await task
        assert of_task(task) is None
        return stack

    return asyncio.run(main())


def test_a_task_that_waits_for_a_lock():
    async def body(release):
        lock = asyncio.Lock()

        async def hold():
            async with lock:
                await release.wait()

        async def taker():
            async with lock:
                return

        async with asyncio.TaskGroup() as group:
            group.create_task(hold())
            await asyncio.sleep(0)
            await taker()

    stack = of_waiting(body)
    assert (stack.doing, stack.what) == (LOCK, "asyncio.Lock")
    assert stack.place.function.endswith("taker")


def test_a_task_that_waits_for_a_semaphore():
    async def body(release):
        semaphore = asyncio.Semaphore(1)
        await semaphore.acquire()
        asyncio.get_running_loop().create_task(free(semaphore, release))
        await semaphore.acquire()

    async def free(semaphore, release):
        await release.wait()
        semaphore.release()

    assert of_waiting(body).what == "asyncio.Semaphore"


@pytest.mark.parametrize("kind", ["event", "gather", "shield", "wait_for", "agen", "sleep"])
def test_a_task_that_waits_for_somebodys_word_waits_for_no_lock(kind):
    async def numbers(release):
        await release.wait()
        yield 1

    async def body(release):
        if kind == "event":
            await release.wait()
        elif kind == "gather":
            await asyncio.gather(release.wait(), release.wait())
        elif kind == "shield":
            await asyncio.shield(release.wait())
        elif kind == "wait_for":
            await asyncio.wait_for(release.wait(), 30)
        elif kind == "agen":
            async for _ in numbers(release):
                pass
        else:
            await asyncio.sleep(0.05)

    stack = of_waiting(body)
    assert stack.doing == WAITING
    assert stack.place.path.endswith("test_stacks.py")
    assert "body" in stack.place.function or "numbers" in stack.place.function


def test_a_task_that_is_running_has_no_stack_to_be_read():
    async def main():
        assert of_task(asyncio.current_task()) is None

        async def ended():
            return None

        task = asyncio.ensure_future(ended())
        await task
        assert of_task(task) is None

    asyncio.run(main())


def test_a_task_of_an_old_style_generator_breaks_nothing():
    async def main():
        import types

        @types.coroutine
        def old():
            yield from asyncio.sleep(0.05).__await__()

        async def body():
            await old()

        task = asyncio.ensure_future(body())
        await asyncio.sleep(0)
        stack = of_task(task)
        await task
        return stack

    assert asyncio.run(main()).doing == WAITING


def test_two_stacks_at_the_same_instruction_are_at_the_same_position():
    first = seen(lock_with, lambda: held(threading.Lock))
    second = seen(lock_with, lambda: held(threading.Lock))
    other = seen(lock_acquire, lambda: held(threading.Lock))
    assert first.position == second.position != other.position
