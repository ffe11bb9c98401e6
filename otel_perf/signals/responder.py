"""Handlers of signals, in a thread of their own: one that takes long, or waits itself, holds nobody up."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_perf.signals.signal import Signal


@dataclass(eq=False, slots=True)
class Handler:
    """Called for each signal of a name that comes, once each, in order."""

    name: str
    key: str | None
    scope: str
    call: Callable[[Signal], object]
    done: set[str] = field(default_factory=set)  # uids of what is current


class Responder:
    """Calls handlers. Thread-safe; its thread runs while there are any."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._lock = threading.Lock()
        self._handlers: list[Handler] = []
        self._queue: SimpleQueue[tuple[Handler, Signal] | None] | None = None

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
            if not self._handlers and self._queue is not None:
                self._queue.put(None)
                self._queue = None

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
            if handler.scope != scope:
                continue
            mine = [s for s in signals if s.name == handler.name and handler.key in (None, s.key)]
            new = [s for s in mine if s.uid not in handler.done]
            handler.done = {s.uid for s in mine}
            for signal in new:
                self._enqueue(handler, signal)

    def after_fork_in_child(self) -> None:
        """The thread is not there; what was current for the parent has been responded to."""
        self._lock = threading.Lock()
        self._queue = None

    def _enqueue(self, handler: Handler, signal: Signal) -> None:
        with self._lock:
            if handler not in self._handlers:
                return
            if self._queue is None:
                self._queue = SimpleQueue()
                threading.Thread(
                    target=self._run, args=(self._queue,), name="otel-perf-signal-handlers", daemon=True
                ).start()
            self._queue.put((handler, signal))

    def _run(self, queue: SimpleQueue[tuple[Handler, Signal] | None]) -> None:
        while (item := queue.get()) is not None:
            handler, signal = item
            if handler in self._handlers:
                try:
                    handler.call(signal)
                except Exception as error:
                    self._failed(error)
