"""Executors keep the context of who submits."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from opentelemetry.context import attach, detach, get_value, set_value

from otel_perf.core import executors


def look(*arguments, **named):
    return get_value("who"), arguments, named


@pytest.fixture
def installed():
    with ExitStack() as undo:
        executors.install(undo)
        yield undo


@pytest.fixture
def context():
    token = attach(set_value("who", "me"))
    yield
    detach(token)


def test_submit_and_map_run_in_the_context_of_their_caller(installed, context):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(look, 1, fn=2).result() == ("me", (1,), {"fn": 2})
        assert next(iter(pool.map(look, [3]))) == ("me", (3,), {})
        detach(attach(set_value("who", "else")))
    assert get_value("who") == "me"


def test_run_in_executor_too(installed, context):
    async def main():
        return await asyncio.get_running_loop().run_in_executor(None, look)

    assert asyncio.run(main())[0] == "me"


def test_the_thread_is_left_as_it_was(installed):
    with ThreadPoolExecutor(1) as pool:
        token = attach(set_value("who", "me"))
        pool.submit(look).result()
        detach(token)
        assert pool.submit(look).result()[0] is None


def test_an_error_passes(installed, context):
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(lambda: 1 / 0).exception(), ZeroDivisionError)


def test_the_undo_restores_unless_somebody_patched_after_us(context):
    original = ThreadPoolExecutor.submit
    undo = ExitStack()
    executors.install(undo)
    ours = ThreadPoolExecutor.submit
    undo.close()
    assert ThreadPoolExecutor.submit is original
    executors.install(undo)
    theirs = lambda *arguments, **named: ours(*arguments, **named)  # noqa: E731
    ThreadPoolExecutor.submit = theirs
    undo.close()
    assert ThreadPoolExecutor.submit is theirs
    ThreadPoolExecutor.submit = original


def test_a_watcher_sees_what_is_submitted_in_a_context_and_may_wrap_it(installed):
    seen = []

    def watcher(executor, function):
        seen.append((executor, function))
        return lambda *arguments, **named: ("wrapped", function(*arguments, **named))

    with ExitStack() as watching, ThreadPoolExecutor(1) as pool:
        executors.watch(watcher, watching)
        assert pool.submit(look, 1).result() == (None, (1,), {})
        token = attach(set_value("who", "me"))
        assert pool.submit(look, 1).result() == ("wrapped", ("me", (1,), {}))
        watching.close()
        assert pool.submit(look, 1).result() == ("me", (1,), {})
        detach(token)
        assert seen == [(pool, look)]


def test_watchers_are_asked_in_turn(installed, context):
    with ExitStack() as watching, ThreadPoolExecutor(1) as pool:
        for mark in "ab":
            executors.watch(lambda _, function, mark=mark: lambda *given: (mark, function(*given)), watching)
        assert pool.submit(int, 5).result() == ("b", ("a", 5))


def test_work_that_fails_fails_as_without_a_watcher(installed, context):
    with ExitStack() as watching, ThreadPoolExecutor(1) as pool:
        executors.watch(lambda _, function: function, watching)
        assert isinstance(pool.submit(lambda: 1 / 0).exception(), ZeroDivisionError)
    with pytest.raises(RuntimeError):
        pool.submit(look)
