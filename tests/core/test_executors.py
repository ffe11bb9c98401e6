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
