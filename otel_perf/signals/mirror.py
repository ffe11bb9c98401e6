"""The distribution's own signals on the board, for others; and those of others that the distribution waits for.

In a thread of ours: a start never waits for a board. Under the service's (or the agent's) name as the key, so that
those of several programs stand side by side. A program that takes signals from others is part of a team: what it emits
stands there without a key as well, as a signal of the team.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from otel_perf.core.errors import OtelPerfError, SignalError, SignalFailedError
from otel_perf.core.sequence import NAMES, OFF
from otel_perf.core.threads import allocate_lock, is_patched, start_new_thread
from otel_perf.signals import present

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.core.feature import Host
    from otel_perf.core.guard import Guard
    from otel_perf.core.sequence import Answer
    from otel_perf.signals.api import Signals
    from otel_perf.signals.signal import Signal

DELAY: Final = 0.5  # seconds after the start: what ends before does not need it
PATIENCE: Final = 1.0  # seconds that a fork waits for what is imported
AGAIN: Final = 30.0  # seconds until a board is tried again that could not be reached


class Mirror:
    """Of one installation; ended by its undo, made anew in a forked child.

    Its thread and locks are the operating system's: it begins before gevent can patch, and where that has patched
    threads it does nothing, since the board would belong to two kinds of them.
    """

    def __init__(self, host: Host, load: Callable[[], Signals], guard: Callable[[], Guard]) -> None:
        self._host = host
        self._sequence = host.sequence
        self._load = load
        self._guard = guard
        self._dirty: dict[str, Answer] = {}
        self._on = self._listening = self._said = False
        self._remove: list[Callable[[], object]] = []
        self._reset()

    def _reset(self) -> None:
        self._lock = allocate_lock()
        self._loading = allocate_lock()
        self._held = False
        self._bell = allocate_lock()
        self._bell.acquire()
        self._running = False

    def install(self, undo: ExitStack) -> None:
        """Begin, until the undo."""
        from otel_perf.core.forks import on_fork

        self._sequence.listeners.append(self._answered)
        undo.callback(self._end)
        undo.callback(self._sequence.listeners.remove, self._answered)
        undo.callback(on_fork(before=self._before_fork, parent=self._after_fork_in_parent, child=self._begin_in_child))
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            self._on = True
            answers = self._sequence.answers()
            self._dirty = {name: answers[name] for name in answers if name not in self._sequence.external}
            self._start(DELAY)

    def _before_fork(self) -> None:
        # What a thread is importing would stay half imported in the child: who imports it there would wait for ever.
        self._held = self._loading.acquire(timeout=PATIENCE)

    def _after_fork_in_parent(self) -> None:
        if self._held:
            self._held = False
            self._loading.release()

    def _begin_in_child(self) -> None:
        # What the parent listens for is listened for here as well: its handlers were inherited.
        self._reset()
        self._begin()

    def _end(self) -> None:
        with self._lock:
            self._on = self._listening = False
            removes, self._remove = self._remove, []
            self._ring()
        for remove in removes:
            remove()
        # Nobody listens any more: what waits goes on as if signals had been off from the start.
        for name in self._sequence.missing(self._sequence.external):
            self._sequence.answer_from_outside(name, f"{OFF}: signals are off")

    def _answered(self, answer: Answer) -> None:
        if answer.name not in self._sequence.external:
            with self._lock:
                self._dirty[answer.name] = answer
                self._start(0.0)

    def _start(self, delay: float) -> None:
        if self._on and not self._running:
            with suppress(RuntimeError):  # the interpreter ends
                start_new_thread(self._run, (delay,))
                self._running = True

    def _ring(self) -> None:
        with suppress(RuntimeError):  # it rings already
            self._bell.release()

    # --- the thread --------------------------------------------------------------------------------

    def _run(self, delay: float) -> None:
        pause = 0.0 if self._sequence.external else delay
        while self._goes_on(pause):
            pause = 0.0
            try:
                self._listen()
                self._put()
            except SignalError as error:
                if self._sequence.external:  # an app that waits for nobody need not know: its store says what is wrong
                    self._say(error)
                pause = AGAIN
            except OtelPerfError as error:  # a wrong URL, an extra that is missing: it stays as it is
                self._say(error)
                self._give_up(str(error))
            except Exception as error:
                if present.has_left():  # the program ended meanwhile, and its board was closed beneath us
                    return
                self._bell.acquire(timeout=DELAY)  # gevent may be in the midst of it
                if is_patched():  # what was under way, as an import, is broken by that
                    continue
                self._guard().handle(error)
                pause = AGAIN

    def _goes_on(self, pause: float) -> bool:
        """Rest; whether there is something to do after it."""
        if pause:
            self._bell.acquire(timeout=pause)
        if is_patched():
            self._give_up("gevent or eventlet has patched threads")
        with self._lock:
            waits = bool(self._sequence.external) and not self._listening
            self._running = self._on and (bool(self._dirty) or waits)
            return self._running

    def _say(self, error: OtelPerfError) -> None:
        """Once: an app that uses no signals is told often enough."""
        if not self._said:
            self._said = True
            self._host.problem(f"otel-perf: signals: {error}")

    def _give_up(self, why: str) -> None:
        with self._lock:
            self._on = False
            self._dirty = {}
        missing = self._sequence.missing(self._sequence.external)
        if missing:
            self._host.problem(f"otel-perf: {', '.join(missing)} cannot be waited for: {why}")
        for name in missing:
            self._sequence.answer_from_outside(name, why)

    def _listen(self) -> None:
        def settle(signal: Signal) -> None:
            self._sequence.answer_from_outside(signal.name, "" if signal.ready else str(SignalFailedError([signal])))

        if self._listening:
            return
        signals = self._loaded()
        removes = [signals.listen(name, settle) for name in sorted(self._sequence.external)]
        with self._lock:
            self._listening = on = self._on
            if on:
                self._remove += removes
        for remove in () if on else removes:  # it was turned off meanwhile
            remove()

    def _put(self) -> None:
        with self._lock:
            dirty = sorted(self._dirty.values(), key=lambda answer: NAMES.index(answer.name))
        if not dirty:
            return
        self._loaded().say(dirty, alone=not self._sequence.external)
        with self._lock:
            for answer in dirty:
                if self._dirty.get(answer.name) is answer:
                    del self._dirty[answer.name]

    def _loaded(self) -> Signals:
        with self._loading:
            return self._load()
