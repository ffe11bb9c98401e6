"""The distribution's own signals on the board, for others; and those of others that the distribution waits for.

In threads of ours: a start never waits for a board. Under the service's (or the agent's) name as the key, so that
those of several programs stand side by side. A program that takes signals from others is part of a team: what it emits
stands there without a key as well, as a signal of the team.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from otel_perf.core.errors import SignalError, SignalFailedError
from otel_perf.core.sequence import NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.core.feature import Host
    from otel_perf.core.guard import Guard
    from otel_perf.core.sequence import Answer
    from otel_perf.signals.api import Signals
    from otel_perf.signals.signal import Signal

DELAY: Final = 0.5  # seconds after the start: what ends before does not need it
AGAIN: Final = 30.0  # seconds until a board is tried again that could not be reached


class Mirror:
    """Of one installation; ended by its undo, made anew in a forked child."""

    def __init__(self, host: Host, signals: Signals, guard: Callable[[], Guard]) -> None:
        self._sequence = host.sequence
        self._signals = signals
        self._guard = guard
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._dirty: dict[str, Answer] = {}
        self._on = self._running = self._listening = False
        self._remove: list[Callable[[], object]] = []

    def install(self, undo: ExitStack) -> None:
        """Begin, until the undo."""
        from otel_perf.core.forks import on_fork

        self._sequence.listeners.append(self._answered)
        undo.callback(self._end)
        undo.callback(self._sequence.listeners.remove, self._answered)
        undo.callback(on_fork(child=self._begin_in_child))
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            self._on = True
            self._dirty = self._sequence.answers()
            self._start(DELAY)

    def _begin_in_child(self) -> None:
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._running = self._listening = False
        self._remove = []
        self._begin()

    def _end(self) -> None:
        with self._lock:
            self._on = False
            self._wake.notify_all()
            removes, self._remove = self._remove, []
        for remove in removes:
            remove()

    def _answered(self, answer: Answer) -> None:
        if answer.name not in self._sequence.external:
            with self._lock:
                self._dirty[answer.name] = answer
                self._start(0.0)

    def _start(self, delay: float) -> None:
        if self._on and not self._running:
            thread = threading.Thread(target=self._run, args=(delay,), name="otel-perf-signals-mirror", daemon=True)
            with suppress(RuntimeError):  # the interpreter ends
                thread.start()
                self._running = True

    # --- the thread --------------------------------------------------------------------------------

    def _run(self, delay: float) -> None:
        pause = 0.0 if self._sequence.external else delay
        while self._goes_on(pause):
            pause = 0.0
            try:
                self._listen()
                self._put()
            except SignalError as error:
                self._signals.failed(error)
                pause = AGAIN
            except Exception as error:
                self._guard().handle(error)
                pause = AGAIN

    def _goes_on(self, pause: float) -> bool:
        """Rest; whether there is something to do after it."""
        with self._lock:
            self._wake.wait_for(lambda: not self._on, pause)
            self._running = self._on and (bool(self._dirty) or (bool(self._sequence.external) and not self._listening))
            return self._running

    def _listen(self) -> None:
        def settle(signal: Signal) -> None:
            self._sequence.answer_from_outside(signal.name, "" if signal.ready else str(SignalFailedError([signal])))

        for name in () if self._listening else sorted(self._sequence.external):
            remove = self._signals.listen(name, settle)
            with self._lock:
                self._remove.append(remove)
        self._listening = True

    def _put(self) -> None:
        with self._lock:
            dirty = sorted(self._dirty.values(), key=lambda answer: NAMES.index(answer.name))
        for answer in dirty:
            self._signals.say(answer.name, answer.reason, alone=not self._sequence.external)
            with self._lock:
                if self._dirty.get(answer.name) is answer:
                    del self._dirty[answer.name]
