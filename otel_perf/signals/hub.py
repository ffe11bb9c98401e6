"""What one process says and waits for, on one board."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from otel_perf.core.errors import SignalAwayError, SignalError
from otel_perf.core.threads import is_patched
from otel_perf.signals.judge import Judge
from otel_perf.signals.looker import Looker, Waiter
from otel_perf.signals.request import checked_timeout, too_late
from otel_perf.signals.responder import Handler, Responder
from otel_perf.signals.signal import FAILED, READY, Signal, State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_perf.signals.board import Board
    from otel_perf.signals.request import Request
    from otel_perf.signals.signal import Producer

SAID: Final = 10_000  # signals of ours that are put again on a board that was made anew


class Hub:
    """Thread-safe. Has a thread while somebody waits, two while somebody responds, and none else."""

    def __init__(
        self, board: Board, producer_of: Callable[[str], Producer], *, judge: Judge | None = None,
        responder: Responder | None = None, began: Callable[[], None] = lambda: None,
        failed: Callable[[Exception], None] = lambda _error: None,
    ) -> None:  # fmt: skip
        """``producer_of``: a new life of an agent, of the process for ``""``.

        ``responder`` outlives it; ``began`` is told of each life, ``failed`` of a board that cannot be reached.
        """
        self.board = board
        self.patched = is_patched()  # what has locks, and a thread, of one kind cannot be used by the other
        self._producer_of = producer_of
        self._judge = judge or Judge()
        # RLock: a signal's handler, or a finalizer, may emit in the midst of another emit.
        self._lock = threading.RLock()
        self._joining = threading.RLock()
        self._joined: dict[str, Producer] = {}
        self._said: dict[tuple[str, str, str], Signal] = {}
        self._renewed = getattr(board, "renewed", 0)
        self._began = began
        self._responder = Responder(failed) if responder is None else responder
        self._looker = Looker(board, self.current, self._begin, self._respond, failed)
        if self._responder:
            self._looker.look(news=True)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._looker)

    # --- to say --------------------------------------------------------------------------------------

    def join(self, agent: str = "") -> Producer:
        """Let the board know of this life, once: what an earlier one that was killed has said is trusted no more."""
        joined = self._joined.get(agent)
        if joined is None:
            with self._joining:  # of its own: it may take seconds
                joined = self._joined.get(agent)
                if joined is None:
                    made = self.board.join(self._producer_of(agent))
                    joined = self._joined.setdefault(agent, made)
                    if joined is not made:  # a signal's handler was faster, in the midst of it
                        self.board.leave(made)
                    self._began()
        return joined

    def leave(self, *, wake: bool = True) -> None:
        """It ends in peace; ``wake``: whoever waits gets a ``SignalError``."""
        with self._lock:
            joined, self._joined = self._joined, {}
        self._looker.end(SignalError("signals: the wait was ended, the board was closed") if wake else None)
        for producer in joined.values():
            self.board.leave(producer)

    def put(self, signal: Signal) -> Signal:
        """Seal it, put it on the board, and remember it for a board that is made anew."""
        put = self.board.put(self._judge.seal(signal))
        place = (put.scope, put.name, put.key)
        with self._lock:
            self._said.pop(place, None)
            self._said[place] = put
            if len(self._said) > SAID:
                del self._said[next(iter(self._said))]
        self.renew(but=place)
        return put

    @staticmethod
    def draft(
        producer: Producer, name: str, *, key: str, scope: str, reason: str | None, payload: str, uid: str, ttl: float
    ) -> Signal:
        """A signal of ``producer``; with a ``reason`` it says failed."""
        state: State = READY if reason is None else FAILED
        return Signal(name, key, scope, state, reason or "", payload, producer, uid, time.time_ns(), ttl)

    # --- to wait -------------------------------------------------------------------------------------

    def current(self, scope: str, names: Iterable[str]) -> list[Signal]:
        """The current signals of these names that have the right mark. Raises ``SignalError``."""
        found = self.board.current(scope, list(names), self._judge if self._judge.judges else None)
        self._judge.tell()
        return list(found)

    def wait_sync(self, wanted: Request, timeout: float | None) -> dict[str, Signal]:
        """Wait in this thread. Raises ``SignalFailedError``, ``SignalTimeoutError``, ``SignalError``."""
        timeout, began = checked_timeout(timeout), time.monotonic()
        left = timeout
        try:
            self.join()
            found = wanted.answer(self.current(wanted.scope, wanted.names))
        except SignalAwayError as error:  # the thread that looks tries again while there is time
            if timeout is None:
                raise
            found, left = None, timeout - (time.monotonic() - began)
            if left <= 0:
                raise too_late(timeout, error, wanted.names) from error
        if found is not None:
            return found
        woken = threading.Event()
        waiter = Waiter(wanted, woken.set, time.time_ns())
        try:
            self._looker.add(waiter)
            if not woken.wait(left):
                self._looker.expire(waiter, timeout or 0.0)
                woken.wait()
            return _result(waiter)
        finally:
            self._looker.remove(waiter)

    async def wait(self, wanted: Request, timeout: float | None) -> dict[str, Signal]:  # noqa: ASYNC109
        """Wait in this task, which may be cancelled. Its event loop never waits for the board."""
        timeout = checked_timeout(timeout)
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(woken.set)

        waiter = Waiter(wanted, wake, time.time_ns())
        try:
            self._looker.add(waiter)
            try:
                async with asyncio.timeout(timeout):
                    await woken.wait()
            except TimeoutError:
                self._looker.expire(waiter, timeout or 0.0)
                await woken.wait()
            return _result(waiter)
        finally:
            self._looker.remove(waiter)

    def on(self, name: str, call: Callable[[Signal], object], *, key: str | None, scope: str) -> Callable[[], None]:
        """Call ``call`` with each signal of ``name``, what is there already at once, in a thread of ours."""
        handler = Handler(name, key, scope, call)
        self._responder.add(handler)
        self._looker.look(news=True)

        def remove() -> None:
            self._responder.remove(handler)

        return remove

    def renew(self, *, but: tuple[str, str, str] | None = None) -> None:
        """Say again what a board that was made anew does not know, ``but`` what it was just told."""
        renewed = getattr(self.board, "renewed", 0)
        if renewed != self._renewed:
            with self._lock:
                said = [signal for place, signal in self._said.items() if place != but]
            for signal in said:
                self.board.put(signal)
            self._renewed = renewed

    def _begin(self) -> Producer:
        self.renew()
        return self.join()

    def _respond(self, *, news: bool) -> bool:
        if news:
            for scope, names in self._responder.names().items():
                self._responder.respond(scope, self.current(scope, names))
        return bool(self._responder)

    def is_genuine(self, signal: Signal) -> bool:
        """Whether it has the right mark; who has not is told of once."""
        genuine = self._judge(signal)
        self._judge.tell()
        return genuine

    # --- forks -------------------------------------------------------------------------------------------

    def after_fork_in_child(self) -> None:
        """Another process, with a life of its own, which has said nothing and where nobody waits."""
        self._lock, self._joining = threading.RLock(), threading.RLock()
        self._joined, self._said = {}, {}
        self._looker.after_fork_in_child()
        if self._responder:
            self._looker.look(news=True)


def _result(waiter: Waiter) -> dict[str, Signal]:
    if waiter.error is not None:
        raise waiter.error
    if waiter.found is None:
        raise SignalError("signals: the wait was ended")
    return waiter.found
