"""When the garbage collector stopped the program, and who had it run."""

from __future__ import annotations

import gc
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otel_perf.bottlenecks.place import place_of, stack_of
from otel_perf.bottlenecks.stacks import calls
from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.bottlenecks.place import Place

SHORTEST: Final = 2_000_000  # ns: shorter ones are not remembered
_COLLECTING: Final = frozenset({"collect"})
REMEMBERED: Final = 512


@dataclass(frozen=True, slots=True)
class Pause:
    """One collection."""

    start: int  # ns
    end: int
    thread: int
    generation: int
    place: Place | None  # the line that allocated, or that called gc.collect()
    asked: bool  # by gc.collect()


class Pauses:
    """The latest pauses. Costs 1 µs a collection."""

    def __init__(self, collected: Callable[[int], None]) -> None:
        self.recent: deque[Pause] = deque(maxlen=REMEMBERED)
        self._collected = collected
        self._start = self._cpu = 0

    def install(self, undo: ExitStack) -> None:
        """Begin; ``undo`` ends it."""
        gc.callbacks.append(self._callback)
        undo.callback(self._remove)

    def _remove(self) -> None:
        if self._callback in gc.callbacks:
            gc.callbacks.remove(self._callback)

    def _callback(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._cpu, self._start = time.thread_time_ns(), time.time_ns()
            return
        start, now = self._start, time.time_ns()
        if not start or now - start < SHORTEST:
            return
        # On a busy machine the collection itself may wait for a CPU; that is not its fault.
        end = min(now, start + time.thread_time_ns() - self._cpu)
        if end - start < SHORTEST:
            return
        try:
            frame = sys._getframe(1)
        except ValueError:  # nothing of Python's runs in this thread
            self.recent.append(Pause(start, end, get_ident(), info.get("generation", 0), None, asked=False))
            self._collected(end)
            return
        asked = calls(frame.f_code, frame.f_lasti, _COLLECTING)
        place = place_of(stack_of(frame))
        self.recent.append(Pause(start, end, get_ident(), info.get("generation", 0), place, asked))
        self._collected(end)
