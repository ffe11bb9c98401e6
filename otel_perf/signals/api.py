"""``perf.signals``: emit, wait and respond. Works without an SDK and with the distribution off; then without telemetry.

The board is opened on first use; ``OTEL_PERF_SIGNALS_*`` and ``OTEL_PERF_HOME`` are read then.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.errors import SignalError
from otel_perf.core.forks import on_fork
from otel_perf.core.home import Home
from otel_perf.core.settings import load
from otel_perf.core.threads import is_patched
from otel_perf.signals import boards, present
from otel_perf.signals.hub import Hub
from otel_perf.signals.identity import producer_of
from otel_perf.signals.judge import Judge
from otel_perf.signals.opening import opened, opened_async
from otel_perf.signals.request import request
from otel_perf.signals.responder import Responder
from otel_perf.signals.settings import SignalsSettings
from otel_perf.signals.signal import (
    LONGEST_KEY,
    checked_key,
    checked_name,
    checked_payload,
    checked_ttl,
    shown_reason,
    uid_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from otel_perf.core.sequence import Answer
    from otel_perf.signals.board import Wait
    from otel_perf.signals.request import Request
    from otel_perf.signals.signal import Producer, Signal
    from otel_perf.signals.telemetry import Telemetry

PATIENCE: Final = 1.0  # seconds that a fork waits for who opens or closes a board
SAID_AGAIN: Final = 60.0  # seconds until the same trouble is said again

_log = logging.getLogger("otel_perf")


class Signals:
    """Readiness between agents, tasks, processes and services. Thread-safe; made anew in a forked child."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.telemetry: Telemetry | None = None
        self.responder = Responder(self.failed)  # outlives the board, which may be closed and opened again
        self.home: Home | None = None  # of the distribution, where it runs: found when the program started
        self._environ = environ
        self._lock = threading.RLock()
        self._hub: Hub | None = None
        self.ended = False
        self._leaves = 0  # the process that has arranged to leave
        self._forking = self._held = False
        self._settings = SignalsSettings()
        self._trouble: tuple[str, float] = ("", 0.0)
        # For good, and before a board is opened: a fork may come while it is.
        atexit.register(self.leave)  # now: an app's callback, which may still emit, is registered later and runs before
        on_fork(before=self._before_fork, parent=self._after_fork_in_parent, child=self._after_fork_in_child)

    def emit(
        self, name: str, *, payload: object = None, key: object = "", scope: str | None = None,
        failed: str | None = None, ttl: float | None = None, idempotency: str | None = None, agent: str = "",
    ) -> Signal:  # fmt: skip
        """Say that ``name`` is ready or, with a reason, that it has ``failed``. On the board when it returns.

        Whoever waits gets it, and whoever comes later, until the next signal of this name, ``key`` and ``scope``, for
        ``ttl`` seconds at most. ``payload``: what JSON can carry, up to 64 KB. With an ``idempotency`` key what is
        emitted twice is one signal. ``agent``: who says it, where one process has several. About 150 µs on the file;
        waits up to 5 s for one that others keep locked, so that a coroutine rather calls :meth:`emit_async`.

        Raises ``SettingError`` for a value that cannot be used, ``SignalError`` when the board cannot be reached.
        """
        checked_name(name)
        hub = self._opened()
        producer = hub.join(checked_key(agent))
        content = self._scope(scope), name, checked_key(key), "failed" if failed else "ready"
        draft = hub.draft(
            producer, name, key=checked_key(key), scope=self._scope(scope),
            reason=None if failed is None else shown_reason(failed), payload=checked_payload(payload),
            uid=uid_of(producer, idempotency, *content), ttl=checked_ttl(ttl),
        )  # fmt: skip
        telemetry = self.telemetry
        put = hub.put(draft) if telemetry is None else telemetry.emit(draft, hub.put)
        if self.ended:  # nothing comes after this that would say that it ended in peace
            self.leave()
        return put

    async def emit_async(self, name: str, **options: Any) -> Signal:
        """As :meth:`emit`, with the event loop free meanwhile."""
        return await asyncio.to_thread(lambda: self.emit(name, **options))

    async def wait(
        self, *names: str, timeout: float | None = None, any_of: bool = False, key: object = "",  # noqa: ASYNC109
        scope: str | None = None, then: Iterable[str] = (), accept_failed: bool = False,
    ) -> dict[str, Signal]:  # fmt: skip
        """Wait until all of ``names`` are ready (or any, with ``any_of``); the signals by name.

        ``timeout``: seconds; without one it waits for ever. ``then``: what the caller emits afterwards, by which a
        cycle of waiters is found and named. A task that is cancelled leaves nothing behind.

        Raises ``SignalTimeoutError`` (a ``TimeoutError``), which names what is missing and who was last heard of;
        ``SignalFailedError`` when one says failed, unless ``accept_failed``; ``SignalError`` when the board cannot be
        reached; a server that is away is waited for as long as ``timeout``; ``SettingError``.
        """
        known = None if self._hub is None else self._opened()
        hub, left = await opened_async(self._opened, timeout, names, known)
        wanted = self._request(names, any_of=any_of, key=key, scope=scope, then=then, accept_failed=accept_failed)
        with self._waiting(wanted) as received:
            found = await hub.wait(wanted, left)
            received(found)
        return found

    def wait_sync(
        self, *names: str, timeout: float | None = None, any_of: bool = False, key: object = "",
        scope: str | None = None, then: Iterable[str] = (), accept_failed: bool = False,
    ) -> dict[str, Signal]:  # fmt: skip
        """As :meth:`wait`, in a thread that may block."""
        hub, left = opened(self._opened, timeout, names)
        wanted = self._request(names, any_of=any_of, key=key, scope=scope, then=then, accept_failed=accept_failed)
        with self._waiting(wanted) as received:
            found = hub.wait_sync(wanted, left)
            received(found)
        return found

    def join(self, agent: str = "") -> Producer:
        """Let the board know that this process (or an agent in it) has begun; the first emit or wait does it else.

        From here on nobody trusts what an earlier life has said that was killed.
        """
        return self._opened().join(checked_key(agent))

    def on(
        self, name: str, handler: Callable[[Signal], object], *, key: str | None = None, scope: str | None = None
    ) -> Callable[[], None]:
        """Call ``handler`` with each signal of ``name`` (of one ``key``, or all), at once if there is one already.

        In a thread of ours, one after the other; what it raises is logged. Of signals that follow each other within
        milliseconds the last is certain to come. The returned function ends it.
        """
        hub = self._opened()
        wanted = None if key is None else checked_key(key)

        def call(signal: Signal) -> None:
            telemetry = self.telemetry
            if telemetry is None:
                handler(signal)
            else:
                telemetry.handle(signal, handler)

        return hub.on(checked_name(name), call, key=wanted, scope=self._scope(scope))

    def check(self, name: str, *, key: object = "", scope: str | None = None) -> Callable[[], None]:
        """A function that raises unless ``name`` is ready: a check for ``perf.health``, from whoever emits it."""
        wanted, kept = checked_name(name), checked_key(key)

        def look() -> None:
            hub = self._opened()
            asked = self._request([wanted], any_of=False, key=kept, scope=scope, then=(), accept_failed=False)
            if asked.answer(hub.current(asked.scope, asked.names)) is None:
                raise SignalError(f"{wanted} is not ready: nobody has emitted it, or it has expired")

        return look

    def since(self, seq: int = 0, *, scope: str | None = None) -> list[Signal]:
        """All signals that the board still has with higher numbers than ``seq``, in order: a replay.

        Those of lives that are not trusted any more are among them, and what has expired. Raises ``SignalError``.
        """
        hub, wanted = self._opened(), self._scope(scope)
        return [s for s in self._history(hub, seq) if s.scope == wanted and hub.is_genuine(s)]

    def close(self) -> None:
        """Say that this process ends in peace, and let go of the board; the next use opens it again.

        Whoever waits in this process gets a ``SignalError``.
        """
        self._close(wake=True)

    def leave(self) -> None:
        """The process ends in peace. For good: what is emitted after this is put, and left, one by one."""
        # What waits is a daemon thread, which ends with the process, and would print an error of ours.
        self.ended = True
        self._close(wake=False)

    def _close(self, *, wake: bool) -> None:
        with self._lock:
            hub, self._hub = self._hub, None
        if hub is not None:
            try:
                hub.leave(wake=wake)
            except SignalError as error:  # at the end of a program it is nobody's business any more
                _log.log(logging.WARNING if wake else logging.DEBUG, "otel-perf: %s", error)
            hub.board.close()

    # --- for who looks at the board -----------------------------------------------------------------------

    def place(self) -> str:
        """Where the board is, for people."""
        return self._opened().board.place

    def current(self) -> list[Signal]:
        """All current signals of our scope, in the order in which they came."""
        hub = self._opened()
        names = {signal.name for signal in self._history(hub, 0)}
        return sorted(hub.current(self._settings.scope, names), key=lambda signal: signal.seq)

    def waits(self) -> list[Wait]:
        """Who waits, in our scope."""
        return [wait for wait in self._opened().board.waits() if wait.scope == self._settings.scope]

    def follow(self, after: int | None, ends: float | None, poll: float) -> Iterator[Signal]:
        """Signals of our scope as they come, from number ``after`` on, until ``ends`` (of ``time.monotonic``)."""
        hub = self._opened()
        if after is None:
            after = max((signal.seq for signal in self._history(hub, 0)), default=0)
        mark: object = None
        while True:
            for signal in self._history(hub, after):
                after = signal.seq
                if signal.scope == self._settings.scope and hub.is_genuine(signal):
                    yield signal
            left = poll if ends is None else min(poll, ends - time.monotonic())
            if left <= 0:
                return
            mark = hub.board.changed(mark, left)

    @staticmethod
    def _history(hub: Hub, after: int) -> Iterator[Signal]:
        while signals := hub.board.since(after):
            yield from signals
            after = signals[-1].seq

    # --- for the rest of the distribution -------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """How many waits go on here."""
        hub = self._hub
        return 0 if hub is None else hub.waiting

    def refresh(self) -> None:
        """Look whether the board was made anew, and say again what we have said; nothing if it is not open."""
        hub = self._hub
        if hub is not None:
            hub.current(self._settings.scope, [])
            hub.renew()

    def say(self, answers: Iterable[Answer], *, alone: bool) -> None:
        """Put signals of the distribution's own on the board, with who we are as their key.

        Unless we are ``alone`` they are emitted to the team as well, without a key and with telemetry.
        """
        hub, said = self._opened(), list(answers)
        if self.ended:  # meanwhile, or before: a board that is opened again at the end would begin another life
            self.leave()
            return
        who = hub.join()  # before: whoever joins waits for the board
        with getattr(hub.board, "together", nullcontext)():
            for answer in said:
                failed = shown_reason(answer.reason) if answer.reason else None
                draft = hub.draft(
                    who, answer.name, key=who.identity[:LONGEST_KEY], scope=self._settings.scope, reason=failed,
                    payload="null", uid=uid_of(who, None), ttl=0.0,
                )  # fmt: skip
                hub.put(draft)
        for answer in said if not alone else ():
            self.emit(answer.name, failed=shown_reason(answer.reason) if answer.reason else None)

    def listen(self, name: str, call: Callable[[Signal], object]) -> Callable[[], None]:
        """As :meth:`on`, for signals of our scope without a key; ``call`` comes after the span, not inside."""

        def receive(signal: Signal) -> None:
            if self.telemetry is not None:
                self.telemetry.handle(signal, _nothing_of)
            call(signal)

        return self._opened().on(name, receive, key="", scope=self._settings.scope)

    def refused(self, signal: Signal) -> None:
        """It has not the right mark."""
        if self.telemetry is not None:
            self.telemetry.refused()
        _log.warning(
            "otel-perf: signal %s of %s has not the mark of OTEL_PERF_SIGNALS_KEY and is refused",
            signal.name, signal.producer,
        )  # fmt: skip

    def failed(self, error: Exception) -> None:
        """The board cannot be reached, or a handler raised; said again after a minute."""
        text, now = f"{type(error).__name__}: {error}", time.monotonic()
        said, at = self._trouble
        if text != said or now - at >= SAID_AGAIN:
            self._trouble = (text, now)
            _log.warning("otel-perf: signals: %s", error, exc_info=None if isinstance(error, SignalError) else error)

    def _request(self, names: Iterable[object], *, scope: str | None, **options: Any) -> Request:
        return request(tuple(names), scope=self._scope(scope), **options)

    def _waiting(self, wanted: Request) -> Any:
        telemetry = self.telemetry
        return nullcontext(_nothing_of) if telemetry is None else telemetry.waiting(wanted)

    def _scope(self, scope: str | None) -> str:
        return self._settings.scope if scope is None else checked_key(scope)

    def _opened(self, patience: float | None = None) -> Hub:
        if self._forking:
            with self._lock:
                pass
        if self._hub is not None and self._hub.patched != is_patched():  # since: its locks hold no greenlet back
            self.close()
        hub = self._hub
        while hub is None:
            # Under no lock: it may take seconds, and a fork or a signal's handler come meanwhile.
            made = self._open(patience)
            with self._lock:
                hub, self._hub = self._hub or made, self._hub or made
            if hub is not made:
                made.leave(wake=False)
                made.board.close()
        return hub

    def _open(self, patience: float | None) -> Hub:
        self._settings, problems = load(SignalsSettings, "signals", self._environ)
        for problem in problems:
            _log.warning("otel-perf: %s", problem)
        judge = Judge(self._settings.key.encode(), self.refused)
        return Hub(
            boards.open_board(self._settings, self.home or Home(self._environ), _log.warning, judge, patience),
            lambda agent: producer_of(self._settings, self._environ, agent),
            judge=judge,
            responder=self.responder,
            began=self._began,
            failed=self.failed,
        )

    def _began(self) -> None:
        """A life has begun: a child of multiprocessing ends by ``os._exit``, without ``atexit``."""
        processes: Any = sys.modules.get("multiprocessing.process")
        if processes is not None and processes.parent_process() is not None and self._leaves != os.getpid():
            self._leaves = os.getpid()
            sys.modules["multiprocessing.util"].Finalize(None, self.leave, exitpriority=-100)

    # --- forks -------------------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        self._held = self._lock.acquire(timeout=PATIENCE)
        self._forking = True
        _call(self._hub, "before_fork")

    def _after_fork_in_parent(self) -> None:
        _call(self._hub, "after_fork_in_parent")
        self._let_go()

    def _after_fork_in_child(self) -> None:
        self.ended = False
        self.responder.after_fork_in_child()
        if self.telemetry is not None:
            self.telemetry.after_fork_in_child()
        if self._hub is not None:
            _call(self._hub, "after_fork_in_child")
            self._hub.after_fork_in_child()
        self._let_go()

    def _let_go(self) -> None:
        """Of who came here meanwhile: in a child, threads that hooks before ours have started."""
        self._forking = False
        if self._held:
            self._lock.release()
        else:
            self._lock = threading.RLock()


def _call(hub: Hub | None, name: str) -> None:
    action = None if hub is None else getattr(hub.board, name, None)
    if action is not None:
        action()


def _nothing_of(_found: object) -> None:
    """Where nobody is told."""


signals = Signals(os.environ)  # of this process
signals.home, signals.telemetry = present.home, present.telemetry
