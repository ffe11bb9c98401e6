"""``perf.signals``: emit, wait and respond. Works without an SDK and with the distribution off; then without telemetry.

The board is opened on first use; ``OTEL_PERF_SIGNALS_*`` and ``OTEL_PERF_HOME`` are read then.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from otel_perf.core.errors import MissingExtraError, SettingError, SignalError
from otel_perf.core.forks import on_fork
from otel_perf.core.home import Home
from otel_perf.core.settings import load
from otel_perf.signals.hub import Hub
from otel_perf.signals.identity import producer_of
from otel_perf.signals.request import request
from otel_perf.signals.settings import SignalsSettings
from otel_perf.signals.signal import checked_key, checked_name, checked_payload, checked_ttl, shown_reason, uid_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from otel_perf.signals.board import Board
    from otel_perf.signals.signal import Signal

_log = logging.getLogger("otel_perf")


class Signals:
    """Readiness between agents, tasks, processes and services. Thread-safe; made anew in a forked child."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._lock = threading.Lock()
        self._hub: Hub | None = None
        self._settings = SignalsSettings()

    def emit(
        self, name: str, *, payload: object = None, key: object = "", scope: str | None = None,
        failed: str | None = None, ttl: float | None = None, idempotency: str | None = None,
    ) -> Signal:  # fmt: skip
        """Say that ``name`` is ready or, with a reason, that it has ``failed``. On the board when it returns.

        Whoever waits gets it, and whoever comes later, until the next signal of this name, ``key`` and ``scope``, for
        ``ttl`` seconds at most. ``payload``: what JSON can carry, up to 64 KB. With an ``idempotency`` key what is
        emitted twice is one signal. About 150 µs on the file; waits up to 5 s for one that others keep locked, so that
        a coroutine rather calls :meth:`emit_async`.

        Raises ``SettingError`` for a value that cannot be used, ``SignalError`` when the board cannot be reached.
        """
        hub = self._opened()
        draft = hub.draft(
            checked_name(name),
            key=checked_key(key),
            scope=self._scope(scope),
            reason=None if failed is None else shown_reason(failed),
            payload=checked_payload(payload),
            uid=uid_of(hub.producer, idempotency),
            ttl=checked_ttl(ttl),
            traceparent="",
        )
        return hub.put(draft)

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
        reached; ``SettingError``.
        """
        wanted = request(
            names, any_of=any_of, key=key, scope=self._scope(scope), then=then, accept_failed=accept_failed
        )
        return await self._opened().wait(wanted, timeout)

    def wait_sync(
        self, *names: str, timeout: float | None = None, any_of: bool = False, key: object = "",
        scope: str | None = None, then: Iterable[str] = (), accept_failed: bool = False,
    ) -> dict[str, Signal]:  # fmt: skip
        """As :meth:`wait`, in a thread that may block."""
        wanted = request(
            names, any_of=any_of, key=key, scope=self._scope(scope), then=then, accept_failed=accept_failed
        )
        return self._opened().wait_sync(wanted, timeout)

    def on(
        self, name: str, handler: Callable[[Signal], object], *, key: str | None = None, scope: str | None = None
    ) -> Callable[[], None]:
        """Call ``handler`` with each signal of ``name`` (of one ``key``, or all), at once if there is one already.

        In a thread of ours, one after the other; what it raises is logged. The returned function ends it.
        """
        hub = self._opened()
        wanted = None if key is None else checked_key(key)
        return hub.on(checked_name(name), handler, key=wanted, scope=self._scope(scope))

    def close(self) -> None:
        """Say that this process ends in peace, and let go of the board; the next use opens it again."""
        with self._lock:
            hub, self._hub = self._hub, None
        if hub is not None:
            atexit.unregister(self.close)
            try:
                hub.leave()
            except SignalError as error:
                _log.warning("otel-perf: %s", error)
            hub.board.close()

    def _scope(self, scope: str | None) -> str:
        return self._settings.scope if scope is None else checked_key(scope)

    def _opened(self) -> Hub:
        hub = self._hub
        if hub is None:
            with self._lock:
                hub = self._hub
                if hub is None:
                    hub = self._hub = self._open()
                    atexit.register(self.close)
        return hub

    def _open(self) -> Hub:
        self._settings, problems = load(SignalsSettings, "signals", self._environ)
        for problem in problems:
            _log.warning("otel-perf: %s", problem)
        hub = Hub(
            self._board(),
            producer_of(self._settings, self._environ),
            secret=self._settings.key.encode(),
            refused=_refused,
            failed=_failed,
        )
        on_fork(
            before=lambda: _call(hub.board, "before_fork"),
            parent=lambda: _call(hub.board, "after_fork_in_parent"),
            child=lambda: self._in_child(hub),
        )
        return hub

    def _in_child(self, hub: Hub) -> None:
        self._lock = threading.Lock()
        _call(hub.board, "after_fork_in_child")
        hub.after_fork_in_child(producer_of(self._settings, self._environ))

    def _board(self) -> Board:
        url = self._settings.url.strip()
        if url == "memory:":
            from otel_perf.signals.memory_board import MemoryBoard

            return MemoryBoard()
        if url:
            return _nats_board(self._settings)
        from otel_perf.signals.sqlite_board import FILE, SqliteBoard

        try:
            folder = Home(self._environ).make()
        except OSError as error:
            raise SignalError(
                f"the signal board cannot be made: {error}; OTEL_PERF_HOME names another folder"
            ) from error
        return SqliteBoard(folder / FILE, say=_log.warning)


def _nats_board(settings: SignalsSettings) -> Board:
    from otel_perf.signals.nats_address import SCHEMES, address_of, without_password

    if not settings.url.strip().startswith(tuple(f"{scheme}://" for scheme in SCHEMES)):
        raise SettingError(
            f"OTEL_PERF_SIGNALS_URL={without_password(settings.url)!r}: it must be empty (the home folder), memory:,"
            " nats://host:port or tls://host:port"
        )
    address = address_of(settings)
    try:
        from otel_perf.signals.nats_board import NatsBoard
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"OTEL_PERF_SIGNALS_URL={address.place}", "nats") from error
    return NatsBoard(address)


def _call(board: Board, name: str) -> None:
    action = getattr(board, name, None)
    if action is not None:
        action()


def _refused(signal: Signal) -> None:
    _log.warning(
        "otel-perf: signal %s of %s has not the mark of OTEL_PERF_SIGNALS_KEY and is refused",
        signal.name,
        signal.producer,
    )


def _failed(error: BaseException) -> None:
    _log.warning("otel-perf: signals: %s", error)


signals = Signals(os.environ)
"""Of this process."""
