"""Features step down while the program is under strain, or when they fail, and come back by themselves.

Under strain (:mod:`otel_perf.core.strain`) what is dear goes first, and the next only if that does not help; when it is
over, they come back one by one, later and later if the strain comes again. A feature that has made too many internal
errors is tried again after a rest, a few times a day. Each step is an event and one line.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core import strain
from otel_perf.core.forks import on_fork
from otel_perf.core.guard import LIMIT
from otel_perf.core.threads import allocate_lock, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.pipeline import Pipeline

NEXT: Final = 5.0  # seconds that a step has to help, before the next
CALM: Final = 30.0  # seconds without strain before the first comes back; twice as many if it comes again
AGAIN: Final = 3600.0  # seconds after a return, within which it has come again; and the longest that is waited
REST: Final = 300.0  # seconds after too many internal errors; twice as many after each return
RETURNS: Final = 3  # after internal errors, within a day
DAY: Final = 86_400.0


class Stepping:
    """Told by any thread, in the midst of the app's calls; acts in a thread of its own, which the first need starts."""

    def __init__(self, pipeline: Pipeline, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipeline = pipeline
        self._clock = clock
        self._failed: deque[str] = deque()  # features, not yet looked at
        self._resting: dict[str, float] = {}  # those that failed, and when they are tried again
        self._returned: dict[str, deque[float]] = {}  # when they were
        self._down: list[str] = []  # because of strain, the last one last
        self._strained = False
        self._next = 0.0  # when the next may step down
        self._until = 0.0  # when the next may come back
        self._calm = CALM
        self._back = -inf  # when one came back last
        self._ended = True
        self._bell: Any = None  # there is a thread
        self._starting = allocate_lock()

    # --- told by others ------------------------------------------------------------------------------

    def install(self, undo: ExitStack) -> None:
        """Listen until the undo."""
        self._ended = False
        undo.callback(self._end)
        undo.callback(on_fork(child=self._after_fork_in_child))
        strain.changed.append(self.wake)
        undo.callback(strain.changed.remove, self.wake)
        if self._failed or strain.reason():
            self.wake()

    def fail(self, feature: str) -> None:
        """``feature`` has made too many internal errors: it steps down in a moment. Takes no lock."""
        self._failed.append(feature)
        self.wake()

    def wake(self) -> None:
        """There is something to look at. Takes no lock, so that a signal handler may call it."""
        bell = self._bell
        if bell is not None:
            with suppress(RuntimeError):  # it is awake
                bell.release()
        elif not self._ended and self._starting.acquire(blocking=False):
            self._bell = bell = allocate_lock()
            bell.acquire()
            try:
                start_new_thread(self._run, (bell,))
            except RuntimeError:  # no more threads: the guard goes on absorbing, and what comes next tries again
                self._bell = None
                self._starting.release()

    def _end(self) -> None:
        bell, self._bell, self._ended = self._bell, None, True
        if bell is not None:
            with suppress(RuntimeError):  # it is awake
                bell.release()

    def _after_fork_in_child(self) -> None:
        had_thread, self._bell = self._bell is not None, None
        self._starting = allocate_lock()
        if had_thread:
            self.wake()

    def _run(self, bell: Any) -> None:
        while bell is self._bell:
            try:
                wait = self.look()
            except Exception as error:
                wait = NEXT
                self._pipeline.guard("rollout").handle(error)
            bell.acquire(timeout=min(wait, DAY))

    # --- in its own thread ---------------------------------------------------------------------------

    def look(self) -> float:
        """Do what is to be done now; seconds until the next look."""
        now = self._clock()
        return min(self._look_at_failures(now), self._look_at_strain(now))

    def _look_at_failures(self, now: float) -> float:
        while self._failed:
            feature = self._failed.popleft()
            recent = [at for at in self._returned.get(feature, ()) if now - at < DAY]
            rest = REST * 2 ** len(recent) if len(recent) < RETURNS else recent[0] + DAY - now
            self._resting[feature] = now + rest
            self._step_down(feature, f"{LIMIT} internal errors", f"it is tried again in {_in_words(rest)}")
        for feature, due in tuple(self._resting.items()):
            if due <= now:
                del self._resting[feature]
                self._returned.setdefault(feature, deque(maxlen=RETURNS)).append(now)
                self._step_up(feature)
        return min(self._resting.values(), default=inf) - now

    def _look_at_strain(self, now: float) -> float:
        reason = strain.reason()
        if reason:
            if not self._strained:
                self._strained = True
                self._calm = min(2 * self._calm, AGAIN) if now - self._back < AGAIN else CALM
            if now >= self._next:
                self._next = now + NEXT
                feature = self._dearest()
                if feature is not None:
                    self._down.append(feature)
                    self._step_down(feature, reason, "it comes back when that is over")
            return self._next - now
        if self._strained:
            self._strained, self._until = False, now + self._calm
        if self._down and now >= self._until:
            self._back, self._until = now, now + NEXT
            self._step_up(self._down.pop())
        return self._until - now if self._down else inf

    def _dearest(self) -> str | None:
        """The feature that steps down next; ``None`` if all that may are down."""
        on = [state.feature for state in self._pipeline.features.values() if state.on and state.feature.sheds]
        return min(on, key=lambda feature: feature.sheds).name if on else None

    def _step_down(self, feature: str, reason: str, outlook: str) -> None:
        if self._pipeline.step_down(feature, reason):
            self._pipeline.problem(f"otel-perf: {feature} stepped down: {reason}; {outlook}")

    def _step_up(self, feature: str) -> None:
        if feature in self._resting or feature in self._down:  # for the other reason
            return
        if self._pipeline.step_up(feature):
            self._pipeline.problem(f"otel-perf: {feature} is back")


def _in_words(seconds: float) -> str:
    return f"{seconds / 3600:.0f} h" if seconds >= 7200 else f"{seconds / 60:.0f} min"
