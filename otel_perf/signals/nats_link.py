"""A thread with an event loop on which a NATS session is kept, and the way there for threads that may block."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

import nats.errors
from nats.js.errors import APIError, NoStreamResponseError

from otel_perf.core.chance import chance
from otel_perf.core.errors import SignalAwayError, SignalError
from otel_perf.signals.nats_session import NOT_FOUND, Session, is_final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

_log: Final = logging.getLogger("otel_perf")

PATIENCE: Final = 5.0  # seconds that an operation waits for a server that is away
AWAY: Final = 2.0  # seconds without a server, before anybody is told: it may only start anew
SLOWEST: Final = 2.0  # seconds between two attempts to be connected again while nobody asks
THREAD: Final = "otel-perf-nats"
REPEATABLE: Final = (nats.errors.Error, OSError, TimeoutError)

# Loops and sockets of a parent that forked: what a child would close there is closed for the parent as well.
_abandoned: Final[list[Any]] = []


class Link:
    """Begins with the first use, is connected again when the server is back, and ends with :meth:`close`.

    ``make`` makes a session, which calls what it is given when it breaks; ``begin`` has it know what it has to, before
    anybody uses it.
    """

    def __init__(
        self,
        place: str,
        secrets: tuple[str, ...],
        make: Callable[[Callable[[], None]], Session],
        begin: Callable[[Session], Awaitable[None]],
    ) -> None:
        self._place = place
        self._secrets = secrets
        self._make = make
        self._begin = begin
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._session: Session | None = None
        self._gate = asyncio.Lock()  # of who connects
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeping = False

    def do(self, work: Callable[[Session], Awaitable[T]], patience: float | None = None) -> T:
        """Do ``work`` there, again while the server is away. Raises ``SignalError`` after 5 s or ``patience``."""
        patience = PATIENCE if patience is None else patience
        loop = self._running()
        done: Future[T] = Future()
        # In a context of its own: what is begun here lives longer than the caller's span.
        loop.call_soon_threadsafe(self._start, work, patience, done, context=contextvars.Context())
        try:
            return done.result(patience + 1)
        except TimeoutError as error:
            raise self._away("no answer") from error

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Have the loop do it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop itself holds them only weakly
        task.add_done_callback(self._tasks.discard)

    async def session(self) -> Session:
        """One that is connected. Raises one of ``REPEATABLE``."""
        async with self._gate:
            if self._session is not None and self._session.is_alive:
                return self._session
            session = self._make(self._ended)
            await session.connect()
            try:
                await self._begin(session)
            except BaseException:
                await session.close()
                raise
            self._session = session
            return session

    def close(self) -> None:
        """End it for good."""
        with self._lock:
            loop, thread, self._closed = self._loop, self._thread, True
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(lambda: self.keep(self._stop()))
            thread.join(PATIENCE)

    def abandon(self) -> None:
        """In a forked child: all is the parent's."""
        if self._session is not None:
            self._session.drop_socket()
        _abandoned.append(self)

    # --- on the loop -----------------------------------------------------------------------------------

    def _start(self, work: Callable[[Session], Awaitable[T]], patience: float, done: Future[T]) -> None:
        async def run() -> None:
            try:
                done.set_result(await self._attempts(work, patience))
            except asyncio.CancelledError:
                done.set_exception(self._error("it was closed"))
            except BaseException as error:
                done.set_exception(error)

        self.keep(run())

    async def _attempts(self, work: Callable[[Session], Awaitable[T]], patience: float) -> T:
        why: BaseException = TimeoutError("no answer")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience) as limit:
                # It cancels once, and nats-py's wait_for, of Python 3.11, loses that where what it waits for is there.
                while not (limit.expired() or self._closed):
                    try:
                        session = await self.session()
                        try:
                            return await work(session)
                        except nats.errors.Error as error:
                            if _is_gone(error):
                                await session.close()  # the next session makes the bucket
                            if isinstance(error, TimeoutError) and isinstance(session.error, nats.errors.Error):
                                raise session.error from error  # the server has said why there is no answer
                            raise
                    except REPEATABLE as error:
                        why = error
                        if is_final(error):
                            break
                    await asyncio.sleep(chance.uniform(0.02, 0.1))
        if self._closed:
            raise self._error("it was closed")
        raise (self._error if is_final(why) else self._away)(str(why) or type(why).__name__) from why

    def _ended(self) -> None:
        """The session is broken: the watch needs another one, also where nobody asks."""
        if not self._closed and not self._keeping:
            self._keeping = True
            self.keep(self._connect_again())

    async def _connect_again(self) -> None:
        pause, began, told = 0.05, time.monotonic(), False
        try:
            while not self._closed:
                try:
                    await self.session()
                except REPEATABLE as error:
                    if not told and time.monotonic() - began > AWAY:
                        told = True
                        why = self._shown(str(error))
                        _log.warning("otel-perf: the signal board %s is away: %s; trying again", self._place, why)
                else:
                    if told:
                        _log.warning("otel-perf: the signal board %s is back", self._place)
                    return
                await asyncio.sleep(chance.uniform(pause / 2, pause))
                pause = min(pause * 2, SLOWEST)
        finally:
            self._keeping = False

    async def _stop(self) -> None:
        if self._session is not None:
            await self._session.close()
        asyncio.get_running_loop().stop()

    # --- the thread --------------------------------------------------------------------------------------

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise self._error("it was closed")
            if self._loop is None:
                # The plain one: whatever loops the app has chosen, this one has to survive its forks.
                loop = asyncio.SelectorEventLoop()
                thread = threading.Thread(target=_run, args=(loop,), name=THREAD, daemon=True)
                self._loop, self._thread = loop, thread  # first: a signal's handler may come here meanwhile
                try:
                    thread.start()
                except RuntimeError as error:  # the interpreter ends, or there are too many
                    self._loop = self._thread = None
                    loop.close()
                    raise self._error(str(error)) from error
            return self._loop

    def _shown(self, why: str) -> str:
        for secret in self._secrets:
            why = why.replace(secret, "…")
        return why

    def _error(self, why: str, kind: type[SignalError] = SignalError) -> SignalError:
        return kind(f"the signal board {self._place} cannot be used: {self._shown(why)}")

    def _away(self, why: str) -> SignalError:
        return self._error(why, SignalAwayError)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
        loop.run_until_complete(_end_tasks())
    finally:
        loop.close()


async def _end_tasks() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _is_gone(error: Exception) -> bool:
    """Whether the bucket is."""
    if isinstance(error, APIError):
        return error.code == NOT_FOUND
    return isinstance(error, NoStreamResponseError)
