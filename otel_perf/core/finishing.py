"""Runs coroutines for threads of ours that have to wait for them."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

app_loop: list[Callable[[], Any]] = []
"""Each gives the event loop that the app runs in, or ``None``."""


def finish(work: Callable[[], Awaitable[Any]] | Awaitable[Any], timeout: float) -> Any:
    """What ``work`` gives, in the app's loop if one runs, where its connections belong, else in one of its own.

    Waits: not for a thread that runs a loop. Raises what it raises, and ``TimeoutError``.
    """
    import asyncio

    async def awaited() -> Any:
        return await asyncio.wait_for(work() if callable(work) else work, timeout)

    loop = next((found for find in tuple(app_loop) if (found := find()) is not None), None)
    try:
        return asyncio.run(awaited()) if loop is None else _in_loop(loop, awaited, timeout)
    except TimeoutError as error:
        if str(error):
            raise
        raise TimeoutError(f"no answer within {timeout:g} s") from error
    finally:
        if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
            work.close()  # nobody began it, and nobody will


def _in_loop(loop: Any, awaited: Callable[[], Any], timeout: float) -> Any:
    """As ``run_coroutine_threadsafe``, but with no coroutine that nobody awaits when the loop never gets to it."""
    from concurrent.futures import Future, InvalidStateError

    future: Future[Any] = Future()
    tasks = []  # the loop keeps weak references only

    def begin() -> None:
        if not future.cancelled():
            tasks.append(loop.create_task(awaited()))
            tasks[0].add_done_callback(done)

    def done(task: Any) -> None:
        error = InterruptedError("the event loop cancelled it") if task.cancelled() else task.exception()
        with suppress(InvalidStateError):  # nobody waits any more
            if error is None:
                future.set_result(task.result())
            else:
                future.set_exception(error)

    loop.call_soon_threadsafe(begin)
    try:
        return future.result(timeout)
    except TimeoutError:
        future.cancel()
        raise
