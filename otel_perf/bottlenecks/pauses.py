"""When the garbage collector stopped the program, and who had it run."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from otel_perf.bottlenecks.place import place_of, stack_of
from otel_perf.bottlenecks.stacks import calls
from otel_perf.core import collector
from otel_perf.core.records import record
from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from types import CodeType

    from otel_perf.bottlenecks.place import Place

SHORTEST: Final = 2_000_000  # ns: shorter ones are not remembered
_COLLECTING: Final = frozenset({"collect"})
REMEMBERED: Final = 512


@record
class Pause:
    """One collection."""

    start: int  # ns
    end: int
    thread: int
    generation: int
    place: Place | None  # the line that allocated, or that called gc.collect()
    code: CodeType | None  # that was running, and its instruction
    instruction: int

    @property
    def asked(self) -> bool:
        """Whether it was ``gc.collect()``. Asked for later, not during the collection: it takes 1 ms, once."""
        return self.code is not None and calls(self.code, self.instruction, _COLLECTING)


class Pauses:
    """The latest pauses. Costs 1 µs a collection."""

    def __init__(self, collected: Callable[[int], None]) -> None:
        self.recent: deque[Pause] = deque(maxlen=REMEMBERED)
        self._collected = collected
        self._start = self._cpu = 0

    def install(self, undo: ExitStack) -> None:
        """Begin; ``undo`` ends it."""
        undo.callback(collector.on_collection(self._callback))

    def _callback(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._cpu, self._start = time.thread_time_ns(), time.time_ns()
            return
        start, now, self._start = self._start, time.time_ns(), 0
        if not start or now - start < SHORTEST:
            return
        # On a busy machine the collection itself may wait for a CPU; that is not its fault.
        end = min(now, start + time.thread_time_ns() - self._cpu)
        if end - start < SHORTEST:
            return
        try:
            frame: Any = sys._getframe(1)
            if frame.f_code in collector.between:
                frame = sys._getframe(2)
        except ValueError:  # nothing of Python's runs in this thread
            place, code, instruction = None, None, 0
        else:
            place, code, instruction = place_of(stack_of(frame)), frame.f_code, frame.f_lasti
        self.recent.append(Pause(start, end, get_ident(), info.get("generation", 0), place, code, instruction))
        self._collected(end)
