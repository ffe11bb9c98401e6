"""Runs coroutines for threads of ours that have to wait for them."""

from __future__ import annotations

import inspect
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

app_loop: list[Callable[[], Any]] = []
"""Each gives the event loop that the app runs in, or ``None``."""
LOOK: Final = 0.1  # seconds between looks whether the app's loop still runs


class _GoneError(Exception):
    """The app's loop ended before the answer came: that says nothing of who was asked."""


def finish(work: Callable[[], Awaitable[Any]] | Awaitable[Any], timeout: float) -> Any:
    """What ``work`` gives, in the app's loop if one runs, where its connections belong, else in one of its own.

    If the app's loop ends meanwhile, or cancels it, it begins anew in one of its own. Waits: not for a thread that runs
    a loop. Raises what it raises, ``InterruptedError`` if it cannot begin anew, and ``TimeoutError``.
    """
    import asyncio

    ends = time.monotonic() + timeout

    async def contained() -> Any:
        try:
            return await (work() if callable(work) else work)
        except (KeyboardInterrupt, SystemExit) as error:  # from a task they would end the loop, and so the app
            raise RuntimeError(f"it raised {error!r}") from error

    async def awaited() -> Any:
        return await asyncio.wait_for(contained(), max(0.0, ends - time.monotonic()))

    loop = next((found for find in tuple(app_loop) if (found := find()) is not None), None)
    try:
        if loop is not None:
            try:
                return _in_loop(loop, awaited, ends)
            except _GoneError as error:
                if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) != inspect.CORO_CREATED:
                    raise InterruptedError(str(error)) from None
        return asyncio.run(awaited())
    except TimeoutError as error:
        if str(error):
            raise
        raise TimeoutError(f"no answer within {timeout:g} s") from error
    finally:
        if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
            work.close()  # nobody began it, and nobody will


def _in_loop(loop: Any, awaited: Callable[[], Any], ends: float) -> Any:
    """As ``run_coroutine_threadsafe``, but with no coroutine that nobody awaits when the loop never gets to it."""
    from concurrent.futures import Future, InvalidStateError

    future: Future[Any] = Future()
    tasks = []  # the loop keeps weak references only

    def begin() -> None:
        if not future.cancelled():
            tasks.append(loop.create_task(awaited()))
            tasks[0].add_done_callback(done)

    def done(task: Any) -> None:
        error = _GoneError("the event loop cancelled it") if task.cancelled() else task.exception()
        with suppress(InvalidStateError):  # nobody waits any more
            if error is None:
                future.set_result(task.result())
            else:
                future.set_exception(error)

    try:
        loop.call_soon_threadsafe(begin)
    except RuntimeError:
        raise _GoneError("the event loop was closed") from None
    return _waited_for(future, loop, tasks, ends)


def _waited_for(future: Any, loop: Any, tasks: list[Any], ends: float) -> Any:
    while True:
        left = ends - time.monotonic()
        try:
            return future.result(max(0.0, min(LOOK, left)))
        except TimeoutError:
            if future.done():
                return future.result()  # it came just now, or the error is its own
            runs = loop.is_running()
            if runs and left > LOOK:
                continue
            future.cancel()
            if runs:
                raise
            with suppress(RuntimeError):  # closed
                loop.call_soon_threadsafe(_cancel, tasks)  # where it stands it would go on when the loop runs again
            raise _GoneError("the event loop has ended") from None


def _cancel(tasks: list[Any]) -> None:
    for task in tasks:
        task.cancel()
