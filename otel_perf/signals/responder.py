"""Handlers of signals, each in a thread of its own: one that takes long, or waits itself, holds nobody up."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_perf.signals.signal import Signal

DONE: Final = 10_000  # uids that a handler remembers: a board that was made anew has them again


@dataclass(eq=False, slots=True)
class Handler:
    """Called for each signal of a name that comes, once each, in order."""

    name: str
    key: str | None
    scope: str
    call: Callable[[Signal], object]
    done: dict[str, None] = field(default_factory=dict)  # uids that were handed to it
    pending: dict[str, None] = field(default_factory=dict)  # of those, what it has not finished
    queue: queue.SimpleQueue[Signal | None] | None = None


class Responder:
    """Calls handlers. Thread-safe; a handler's thread begins with its first signal and ends when it is removed."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._lock = threading.RLock()
        self._handlers: list[Handler] = []

    def __bool__(self) -> bool:
        return bool(self._handlers)

    def add(self, handler: Handler) -> None:
        """Call it from now on."""
        with self._lock:
            self._handlers.append(handler)

    def remove(self, handler: Handler) -> None:
        """Do not call it any more."""
        with self._lock:
            if handler in self._handlers:
                self._handlers.remove(handler)
            if handler.queue is not None:
                handler.queue.put(None)

    def names(self) -> dict[str, set[str]]:
        """The names that are responded to, by scope."""
        scopes: dict[str, set[str]] = {}
        for handler in tuple(self._handlers):
            scopes.setdefault(handler.scope, set()).add(handler.name)
        return scopes

    def respond(self, scope: str, current: Iterable[Signal]) -> None:
        """Have handlers called with what of this is new to them."""
        signals = list(current)
        for handler in tuple(self._handlers):
            for signal in signals if handler.scope == scope else ():
                if signal.name == handler.name and handler.key in (None, signal.key):
                    self._hand(handler, signal)

    def after_fork_in_child(self) -> None:
        """The threads are not there; what they had finished is done, and the rest is new here."""
        self._lock = threading.RLock()
        for handler in self._handlers:
            for uid in handler.pending:
                handler.done.pop(uid, None)
            handler.pending, handler.queue = {}, None

    def _hand(self, handler: Handler, signal: Signal) -> None:
        with self._lock:
            if handler not in self._handlers or signal.uid in handler.done:
                return
            if handler.queue is None:
                # Looked up now: gevent puts its own in the place of both, which go together.
                made: queue.SimpleQueue[Signal | None] = queue.SimpleQueue()
                try:
                    threading.Thread(
                        target=self._run, args=(handler, made), name="otel-perf-signal-handler", daemon=True
                    ).start()
                except RuntimeError as error:  # too many threads: it is tried again with the next news
                    self._failed(error)
                    return
                handler.queue = made
            handler.done[signal.uid] = handler.pending[signal.uid] = None
            if len(handler.done) > DONE:
                del handler.done[next(iter(handler.done))]
            handler.queue.put(signal)

    def _run(self, handler: Handler, signals: queue.SimpleQueue[Signal | None]) -> None:
        while (signal := signals.get()) is not None:
            if handler in self._handlers:
                try:
                    handler.call(signal)
                except Exception as error:
                    self._failed(error)
            handler.pending.pop(signal.uid, None)
