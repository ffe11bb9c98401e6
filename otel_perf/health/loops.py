"""How late the app's event loops are: each is sent a heartbeat four times a second, from the thread of the checks.

Loops are known without code of the app's: whoever runs one tells asyncio which loop runs in its thread. A loop that was
running before is found by the stacks of the threads.
"""

from __future__ import annotations

import sys
import threading
import time
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.buckets import Durations
from otel_perf.core.census import Metric
from otel_perf.core.health import DEGRADED, HEALTHY, UNHEALTHY, WORDS
from otel_perf.core.owner import APP, owner
from otel_perf.core.patches import on_import, put
from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack
    from types import FrameType

    from otel_perf.core.buckets import Counted

BEAT: Final = 0.25  # seconds
OURS: Final = "otel-perf"  # begins the names of our threads
SETTLED: Final = 5.0  # seconds that a loop beside the main thread's must have run: a request may have one of its own
LATE: Final = 0.25  # share of what is unhealthy, from which on a loop is degraded
LAG: Final = Metric("perf.eventloop.lag", "s", "histogram", "How late event loops answered a heartbeat")


class Heart:
    """A running loop. Its own thread writes ``lag``, then ``answered``; that of the checks the rest."""

    def __init__(self, loop: Any, thread: int, *, main: bool) -> None:
        self.loop = loop
        self.thread = thread
        self.main = main
        self.since = time.monotonic()
        self.sent = self.lag = 0.0
        self.waits = self.answered = False

    def beat(self) -> None:
        """Called by the loop."""
        self.lag = time.monotonic() - self.sent
        self.answered = True

    def counts(self, at: float) -> bool:
        """Whether it was the app's by then, not that of a request."""
        return self.main or at - self.since >= SETTLED

    def late(self) -> float:
        """Seconds that it needs, or has needed so far, to answer."""
        return max(self.lag, time.monotonic() - self.sent) if self.waits and not self.answered else self.lag


class Loops:
    """The loops that run. :meth:`beat` is for one thread."""

    def __init__(self) -> None:
        self._hearts: dict[int, Heart] = {}  # by thread
        self._before: list[Heart] = []  # while it is off, those that were running
        self._unseen = False  # there are loops that do not say when they run
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """The threads of the parent's loops are not there, and its figures are its own."""
        self._hearts.clear()
        self._before.clear()
        self._durations = Durations({})

    def counted(self) -> Iterable[Counted]:
        """For the histogram."""
        return [self._durations] if self._durations.maximum else []

    def install(self, undo: ExitStack) -> None:
        """Know the loops that begin and end from now on, and those that are running."""

        def watched(original: Callable[[Any], None]) -> Callable[[Any], None]:
            @wraps(original)
            def set_running_loop(loop: Any) -> None:
                original(loop)
                self.runs(loop, get_ident())

            return set_running_loop

        def imported(module: Any) -> None:
            wrapped = watched(module.events._set_running_loop)
            put(module.events, "_set_running_loop", wrapped, undo)
            put(module, "_set_running_loop", wrapped, undo)  # which uvloop takes
            self._find()

        def uninstall() -> None:
            # uvloop's cannot be found by the stacks.
            self._before = [heart for heart in self._hearts.values() if heart.loop.is_running()]
            self._hearts.clear()

        for heart in self._before:
            if heart.loop.is_running():
                heart.waits = heart.answered = False
                self._hearts[heart.thread] = heart
        self._before.clear()
        self._unseen = "uvloop" in sys.modules  # it has taken the function as it was
        on_import("asyncio", imported, undo)
        undo.callback(uninstall)

    def _find(self) -> None:
        """By the stacks of all threads."""
        for thread, frame in sys._current_frames().items():
            loop = _running(frame)
            if loop is not None:
                self.runs(loop, thread)

    def runs(self, loop: Any, thread: int) -> None:
        """``loop`` begins to run in ``thread``, or with ``None`` the one that did ends. 1 µs."""
        if loop is None:
            self._hearts.pop(thread, None)
            return
        found = threading._active.get(thread)  # type: ignore[attr-defined]
        # No loop of a check or of a cleanup task, whose threads Python does not know, nor of a board of signals.
        if not isinstance(found, threading._DummyThread | None) and not found.name.startswith(OURS):
            self._hearts[thread] = Heart(loop, thread, main=found is threading.main_thread())

    def app_loop(self) -> Any:
        """The main thread's, else the one that has been running for the longest, and long enough."""
        now = time.monotonic()
        hearts = [heart for heart in list(self._hearts.values()) if heart.counts(now)]
        return max(hearts, key=lambda heart: heart.main).loop if hearts else None

    def beat(self) -> None:
        """Note the answers, and ask again whoever has answered."""
        if self._unseen and not self._hearts:
            self._find()
        for heart in list(self._hearts.values()):
            if heart.answered:
                self._durations.add(heart.lag)
                heart.answered = heart.waits = False
            if heart.waits:
                if not heart.loop.is_running():
                    self._hearts.pop(heart.thread, None)
                continue
            if not heart.counts(heart.sent):
                heart.lag = 0.0
            heart.sent, heart.waits = time.monotonic(), True
            try:
                heart.loop.call_soon_threadsafe(heart.beat)
            except RuntimeError:  # closed
                self._hearts.pop(heart.thread, None)

    def check(self, unhealthy: float) -> tuple[str, str]:
        """Whether all loops answer, and where the latest stands if it does not. Sends the next heartbeat."""
        late, heart = self._latest()
        self.beat()
        if heart is None:
            return WORDS[HEALTHY], "no event loop runs"
        status = UNHEALTHY if late >= unhealthy else DEGRADED if late >= LATE * unhealthy else HEALTHY
        if status == HEALTHY:
            return WORDS[HEALTHY], ""
        place = _place(sys._current_frames().get(heart.thread)) if heart.waits else ""
        return WORDS[status], f"an event loop answers after {late:.2f} s{f'; it is at {place}' if place else ''}"

    def stuck(self, seconds: float) -> tuple[str, str]:
        """Whether a loop has not answered for so long that it will not again."""
        late, heart = self._latest()
        if heart is None or late < seconds:
            return WORDS[HEALTHY], ""
        place = _place(sys._current_frames().get(heart.thread))
        return WORDS[
            UNHEALTHY
        ], f"an event loop has not answered for {late:.0f} s{f'; it is at {place}' if place else ''}"

    def _latest(self) -> tuple[float, Heart | None]:
        hearts = (heart for heart in list(self._hearts.values()) if heart.counts(heart.sent))
        return max(((heart.late(), heart) for heart in hearts), key=_lateness, default=(0.0, None))


def _lateness(pair: tuple[float, Heart]) -> float:
    return pair[0]


def _running(frame: FrameType | None) -> Any:
    """The loop that runs in the thread of ``frame``: a local of who runs it."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.endswith(("asyncio/base_events.py", "asyncio/runners.py")) and frame.f_code.co_name in {
            "run_forever", "run"
        }:  # fmt: skip
            runner = frame.f_locals.get("self")
            return getattr(runner, "_loop", runner)
        frame = frame.f_back
    return None


def _place(frame: FrameType | None) -> str:
    """The innermost line of the app's own."""
    while frame is not None:
        code = frame.f_code
        if owner(code.co_filename) == APP:
            return f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})"
        frame = frame.f_back
    return ""
