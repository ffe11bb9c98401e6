"""What one process says and waits for, on one board: thousands of waits on one thread that looks."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from otel_perf.core.errors import SignalError, SignalFailedError
from otel_perf.signals.board import Wait
from otel_perf.signals.request import Request, checked_timeout, timed_out
from otel_perf.signals.signal import FAILED, READY, Producer, Signal, is_genuine, sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from otel_perf.signals.board import Board

LOOK: Final = 1.0  # seconds after which is looked whatever the board says: signals expire
NOTED: Final = 1.0  # seconds that a wait lasts before others are told of it
HISTORY: Final = 10_000  # signals that are looked through for who was last heard of
SAID: Final = 10_000  # signals of ours that are put again on a board that was made anew


@dataclass(eq=False, slots=True)
class Waiter:
    """One wait; ``wake`` is called once, from any thread."""

    request: Request
    wake: Callable[[], None]
    since_ns: int
    found: dict[str, Signal] | None = None
    error: BaseException | None = None
    noted: Wait | None = None


@dataclass(eq=False, slots=True)
class Handler:
    """Called for each signal of a name that comes, once each, in order."""

    name: str
    key: str | None
    scope: str
    call: Callable[[Signal], object]
    done: set[str] = field(default_factory=set)  # uids of what is current


class Hub:
    """Thread-safe. Has a thread while somebody waits or responds, and none else."""

    def __init__(
        self, board: Board, producer: Producer, *, secret: bytes = b"",
        refused: Callable[[Signal], None] = lambda _signal: None,
        failed: Callable[[BaseException], None] = lambda _error: None,
    ) -> None:  # fmt: skip
        """``refused`` is told of signals without the right mark, ``failed`` of a board that cannot be reached."""
        self.board = board
        self.producer = producer
        self._secret = secret
        self._refused = refused
        self._failed = failed
        self._lock = threading.Lock()
        self._waiters: list[Waiter] = []
        self._handlers: list[Handler] = []
        self._said: dict[tuple[str, str, str], Signal] = {}
        self._renewed = getattr(board, "renewed", 0)
        self._refusals: set[str] = set()
        self._looking: object = None  # of the thread that looks
        self._joined = False

    # --- to say --------------------------------------------------------------------------------------

    def join(self) -> Producer:
        """Let the board know of this life, once: what an earlier one that was killed has said is trusted no more."""
        with self._lock:
            if not self._joined:
                self.producer = self.board.join(self.producer)
                self._joined = True
            return self.producer

    def leave(self) -> None:
        """The process ends in peace."""
        with self._lock:
            joined, self._joined, self._looking = self._joined, False, None
        if joined:
            self.board.leave(self.producer)
        self.board.interrupt()

    def put(self, signal: Signal) -> Signal:
        """Seal it, put it on the board, and remember it for a board that is made anew."""
        if self._secret:
            signal = sealed(signal, self._secret)
        put = self.board.put(signal)
        with self._lock:
            self._said.pop(place := (put.scope, put.name, put.key), None)
            self._said[place] = put
            if len(self._said) > SAID:
                del self._said[next(iter(self._said))]
        self._say_again()
        return put

    def draft(
        self, name: str, *, key: str, scope: str, reason: str | None, payload: str, uid: str, ttl: float,
        traceparent: str,
    ) -> Signal:  # fmt: skip
        """A signal of this producer; with a ``reason`` it says failed."""
        return Signal(
            name, key, scope, READY if reason is None else FAILED, reason or "", payload, self.join(), uid,
            time.time_ns(), ttl, traceparent,
        )  # fmt: skip

    # --- to wait -------------------------------------------------------------------------------------

    def current(self, scope: str, names: Iterable[str]) -> list[Signal]:
        """The current signals of these names that have the right mark. Raises ``SignalError``."""
        return [s for s in self.board.current(scope, list(names)) if self._is_genuine(s)]

    def wait_sync(self, wanted: Request, timeout: float | None) -> dict[str, Signal]:
        """Wait in this thread. Raises ``SignalFailedError``, ``SignalTimeoutError``, ``SignalError``."""
        checked_timeout(timeout)
        woken = threading.Lock()
        woken.acquire()
        waiter = self._begin(wanted, woken.release)
        try:
            if waiter.found is None:
                woken.acquire(timeout=-1 if timeout is None else timeout)
            return self._result(waiter, timeout)
        finally:
            self._end(waiter)

    async def wait(self, wanted: Request, timeout: float | None) -> dict[str, Signal]:  # noqa: ASYNC109
        """Wait in this task, which may be cancelled."""
        checked_timeout(timeout)
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(woken.set)

        waiter = self._begin(wanted, wake)
        try:
            if waiter.found is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await woken.wait()
            return self._result(waiter, timeout)
        finally:
            self._end(waiter)

    def on(self, name: str, call: Callable[[Signal], object], *, key: str | None, scope: str) -> Callable[[], None]:
        """Call ``call`` with each signal of ``name``, from the thread that looks; what is there already at once."""
        handler = Handler(name, key, scope, call)
        with self._lock:
            self._handlers.append(handler)
        self._look()

        def remove() -> None:
            with self._lock:
                if handler in self._handlers:
                    self._handlers.remove(handler)

        return remove

    # --- the thread that looks -------------------------------------------------------------------------

    def _begin(self, wanted: Request, wake: Callable[[], None]) -> Waiter:
        waiter = Waiter(wanted, wake, time.time_ns())
        self.join()
        waiter.found = wanted.answer(self.current(wanted.scope, wanted.names))
        if waiter.found is None:
            with self._lock:
                self._waiters.append(waiter)
            self._look()
        return waiter

    def _end(self, waiter: Waiter) -> None:
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            noted = waiter.noted
        if noted is not None:
            with suppress(SignalError):
                self.board.forget(noted)

    def _result(self, waiter: Waiter, timed: float | None) -> dict[str, Signal]:
        if waiter.error is not None:
            raise waiter.error
        if waiter.found is not None:
            return waiter.found
        wanted = waiter.request
        current = self.current(wanted.scope, wanted.names)
        found = wanted.answer(current)  # it may have come just now
        if found is not None:
            return found
        waits = [*self.board.waits()]
        if waiter.noted is None:
            waits.append(self._wait_of(waiter))
        history = self.board.since(0, HISTORY)
        raise timed_out(wanted, timed or 0.0, current, history, self.board.producers(), waits)

    def _wait_of(self, waiter: Waiter) -> Wait:
        wanted = waiter.request
        return Wait(uuid.uuid4().hex, self.producer, wanted.scope, wanted.names, wanted.then, waiter.since_ns)

    def _look(self) -> None:
        """Have the thread look now; it is started if there is none."""
        with self._lock:
            if self._looking is None:
                self._looking = token = object()
                threading.Thread(target=self._run, args=(token,), name="otel-perf-signals", daemon=True).start()
        self.board.interrupt()

    def _run(self, token: object) -> None:
        mark: object = None
        while True:
            with self._lock:
                if self._looking is not token:
                    return
                if not self._waiters and not self._handlers:
                    self._looking = None
                    return
            try:
                self._say_again()
                self._serve()
                mark = self.board.changed(mark, LOOK)
            except SignalError as error:
                if self._looking is token:  # not of a board that was closed meanwhile
                    self._failed(error)
                    time.sleep(LOOK)

    def _say_again(self) -> None:
        renewed = getattr(self.board, "renewed", 0)
        if renewed != self._renewed:
            self._renewed = renewed
            with self._lock:
                said = list(self._said.values())
            for signal in said:
                self.board.put(signal)

    def _serve(self) -> None:
        with self._lock:
            waiters, handlers = list(self._waiters), list(self._handlers)
        scopes: dict[str, set[str]] = {}
        for waiter in waiters:
            scopes.setdefault(waiter.request.scope, set()).update(waiter.request.names)
        for handler in handlers:
            scopes.setdefault(handler.scope, set()).add(handler.name)
        current = {scope: self.current(scope, names) for scope, names in scopes.items()}
        for waiter in waiters:
            self._answer(waiter, current[waiter.request.scope])
        for handler in handlers:
            self._respond(handler, current[handler.scope])

    def _answer(self, waiter: Waiter, current: Sequence[Signal]) -> None:
        try:
            waiter.found = waiter.request.answer(current)
        except SignalFailedError as error:
            waiter.error = error
        if waiter.found is None and waiter.error is None:
            if waiter.noted is None and time.time_ns() - waiter.since_ns > NOTED * 1e9:
                waiter.noted = self._wait_of(waiter)
                self.board.note(waiter.noted)
            return
        with self._lock:
            if waiter not in self._waiters:
                return
            self._waiters.remove(waiter)
        waiter.wake()

    def _respond(self, handler: Handler, current: Sequence[Signal]) -> None:
        mine = [s for s in current if s.name == handler.name and handler.key in (None, s.key)]
        new = [s for s in mine if s.uid not in handler.done]
        handler.done = {s.uid for s in mine}
        for signal in new:
            try:
                handler.call(signal)
            except Exception as error:
                self._failed(error)

    def _is_genuine(self, signal: Signal) -> bool:
        if not self._secret or is_genuine(signal, self._secret):
            return True
        if signal.uid not in self._refusals:
            if len(self._refusals) >= SAID:
                self._refusals.clear()
            self._refusals.add(signal.uid)
            self._refused(signal)
        return False

    # --- forks -------------------------------------------------------------------------------------------

    def after_fork_in_child(self, producer: Producer) -> None:
        """Another process, with a life of its own, which has said nothing and where nobody waits."""
        self._lock = threading.Lock()
        self._waiters, self._looking, self._joined = [], None, False
        self._said = {}
        self.producer = producer
        if self._handlers:
            self._look()
