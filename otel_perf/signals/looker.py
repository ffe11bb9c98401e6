"""The thread that looks at a board for all that wait in this process, thousands of them."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.errors import SignalAwayError, SignalError, SignalFailedError
from otel_perf.signals.board import Wait
from otel_perf.signals.request import timed_out, too_late

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from otel_perf.signals.board import Board
    from otel_perf.signals.request import Request
    from otel_perf.signals.signal import Producer, Signal

LOOK: Final = 1.0  # seconds that the thread rests at most; whoever wants it sooner interrupts the board
NOTED: Final = 0.25  # seconds that a wait lasts before others are told of it


@dataclass(eq=False, slots=True)
class Waiter:
    """One wait; ``wake`` is called once, from the thread that looks."""

    request: Request
    wake: Callable[[], None]
    since_ns: int
    found: dict[str, Signal] | None = None
    error: Exception | None = None
    noted: tuple[Any, ...] | None = None  # under which its process's board knows of it
    over: bool = False  # nobody waits any more


class Looker:
    """Thread-safe. Has its thread while there is something to look for, and none else."""

    def __init__(
        self, board: Board, current: Callable[[str, Iterable[str]], list[Signal]], begin: Callable[[], Producer],
        respond: Callable[..., bool], failed: Callable[[Exception], None],
    ) -> None:  # fmt: skip
        """``begin`` joins, and says again what a new board does not know; ``respond`` tells whether it has handlers."""
        self._board = board
        self._current = current
        self._begin = begin
        self._respond = respond
        self._failed = failed
        self._lock = threading.RLock()
        self._fresh: list[Waiter] = []
        self._waiters: dict[Waiter, None] = {}
        self._expired: list[tuple[Waiter, float]] = []
        self._notes: dict[tuple[Any, ...], tuple[Wait, int]] = {}  # and how many wait like that
        self._forgotten: list[Wait] = []
        self._news = False
        self._token: object = None  # of the thread that looks

    # --- from any thread ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._waiters) + len(self._fresh)

    def add(self, waiter: Waiter) -> None:
        """Look for it from now on."""
        with self._lock:
            self._fresh.append(waiter)
        self.look()

    def expire(self, waiter: Waiter, timeout: float) -> None:
        """Its time is over: it is answered one last time, or told what is missing."""
        with self._lock:
            self._expired.append((waiter, timeout))
        self.look()

    def remove(self, waiter: Waiter) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            waiter.over = True
            self._waiters.pop(waiter, None)
            if waiter in self._fresh:
                self._fresh.remove(waiter)
            key, waiter.noted = waiter.noted, None
            if key is not None:
                wait, others = self._notes[key]
                if others > 1:
                    self._notes[key] = wait, others - 1
                else:
                    del self._notes[key]
                    self._forgotten.append(wait)
        if key is not None:
            self.look()

    def look(self, *, news: bool = False) -> None:
        """Have the thread look now, with ``news`` for everybody; it is started if there is none."""
        with self._lock:
            self._news |= news
            if self._token is None:
                self._token = token = object()
                thread = threading.Thread(target=self._run, args=(token,), name="otel-perf-signals", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the interpreter ends, or there are too many
                    self._token = None
                    raise SignalError(f"signals cannot be waited for: {error}") from error
        self._board.interrupt()

    def end(self, error: SignalError | None) -> None:
        """Have the thread end; whoever waits gets ``error``, or goes on waiting without it: the process ends."""
        with self._lock:
            self._token = None
            waiters = [*self._fresh, *self._waiters, *(waiter for waiter, _ in self._expired)]
            self._fresh, self._waiters, self._expired = [], {}, []
        self._board.interrupt()
        for waiter in waiters if error is not None else ():
            waiter.error = waiter.error or error
            self._wake(waiter)

    def after_fork_in_child(self) -> None:
        """The thread is not there, and nobody who waited."""
        self._lock = threading.RLock()
        self._fresh, self._waiters, self._expired, self._forgotten = [], {}, [], []
        self._notes, self._token = {}, None

    # --- the thread --------------------------------------------------------------------------------

    def _run(self, token: object) -> None:
        mark: object = None
        news = True
        while self._goes_on(token):
            try:
                self._begin()
                self._serve(news=news)
                self._tell_waits()
                seen = self._board.changed(mark, NOTED if self._has_unnoted() else LOOK)
                news, mark = seen != mark, seen
            except Exception as error:
                if self._token is not token:  # the board was closed meanwhile
                    return
                self._failed(error)
                self._give_up(error if isinstance(error, SignalError) else SignalError(f"signals: {error!r}"))
                news = True
                time.sleep(LOOK)

    def _goes_on(self, token: object) -> bool:
        with self._lock:
            if self._token is not token:
                return False
            busy = bool(self._fresh or self._waiters or self._expired or self._forgotten)
            if not busy and not self._respond(news=False):
                self._token = None
                return False
            return True

    def _serve(self, *, news: bool) -> None:
        with self._lock:
            news, self._news = news or self._news, False
            fresh, self._fresh = self._fresh, []
            self._waiters.update(dict.fromkeys(fresh))
            looked = list(self._waiters) if news else fresh
            expired = list(self._expired)
        last = [waiter for waiter, _ in expired]
        self._answer([*looked, *last], expired)
        self._respond(news=news)
        with self._lock:
            self._expired = self._expired[len(expired) :]

    def _answer(self, waiters: Sequence[Waiter], expired: Sequence[tuple[Waiter, float]]) -> None:
        scopes: dict[str, set[str]] = {}
        for waiter in waiters:
            scopes.setdefault(waiter.request.scope, set()).update(waiter.request.names)
        current = {scope: self._by_name(self._current(scope, names)) for scope, names in scopes.items()}
        for waiter in waiters:
            there = current[waiter.request.scope]
            self._try(waiter, [s for name in waiter.request.names for s in there.get(name, ())])
        left = [(waiter, timeout) for waiter, timeout in expired if waiter.found is None and waiter.error is None]
        if left:
            heard, waits = self._board.producers(), [*self._board.waits(), *self._own_waits()]
            for waiter, timeout in left:
                wanted, there = waiter.request, current[waiter.request.scope]
                signals = [s for name in wanted.names for s in there.get(name, ())]
                said = self._board.said(wanted.scope, wanted.names)
                waiter.error = timed_out(wanted, timeout, signals, said, heard, waits)
                self._wake(waiter)

    @staticmethod
    def _by_name(signals: Iterable[Signal]) -> dict[str, list[Signal]]:
        named: dict[str, list[Signal]] = {}
        for signal in signals:
            named.setdefault(signal.name, []).append(signal)
        return named

    def _try(self, waiter: Waiter, current: list[Signal]) -> None:
        if waiter.found is not None or waiter.error is not None:
            return
        try:
            waiter.found = waiter.request.answer(current)
        except SignalFailedError as error:
            waiter.error = error
        if waiter.found is not None or waiter.error is not None:
            self._wake(waiter)

    def _wake(self, waiter: Waiter) -> None:
        with self._lock:
            self._waiters.pop(waiter, None)
            if waiter.over:
                return
        waiter.wake()

    def _give_up(self, error: SignalError) -> None:
        """The board cannot be reached, and the time of some is over."""
        with self._lock:
            expired, self._expired = self._expired, []
        for waiter, timeout in expired:
            if waiter.found is None and waiter.error is None:
                if isinstance(error, SignalAwayError):  # all that can be said is that it did not come
                    waiter.error = too_late(timeout, error, waiter.request.names)
                else:
                    waiter.error = error
                self._wake(waiter)

    # --- who waits for what, for others --------------------------------------------------------------

    def _has_unnoted(self) -> bool:
        with self._lock:
            return any(waiter.noted is None for waiter in self._waiters)

    def _tell_waits(self) -> None:
        """Let others know of waits that last; those that wait for the same are one."""
        before = time.time_ns() - NOTED * 1e9
        new: list[Wait] = []
        with self._lock:
            forgotten, self._forgotten = self._forgotten, []
            for waiter in self._waiters:
                if waiter.noted is None and waiter.since_ns <= before:
                    wanted = waiter.request
                    key = waiter.noted = (wanted.scope, wanted.names, wanted.then)
                    wait, others = self._notes.get(key, (None, 0))
                    if wait is None:
                        wait = self._wait_of(waiter)
                        new.append(wait)
                    self._notes[key] = wait, others + 1
        for wait in new:
            self._board.note(wait)
        for wait in forgotten:
            with suppress(SignalError):
                self._board.forget(wait)

    def _own_waits(self) -> list[Wait]:
        with self._lock:
            late = [*self._waiters, *(waiter for waiter, _ in self._expired)]
            return [self._wait_of(waiter) for waiter in late if waiter.noted is None]

    def _wait_of(self, waiter: Waiter) -> Wait:
        wanted = waiter.request
        return Wait(uuid.uuid4().hex, self._begin(), wanted.scope, wanted.names, wanted.then, waiter.since_ns)
