"""The functions that are monitored: their names, and where their calls are counted."""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakSet

from otel_perf.calls.counts import Counts
from otel_perf.calls.keys import NEVER, OVERFLOW

if TYPE_CHECKING:
    from collections.abc import Mapping

SpanMode = Literal["auto", "always", "never"]
MODES: Final = ("auto", "always", "never")


class Function:
    """One decorated function, block or watched function. ``on`` says whether a call is measured now."""

    __slots__ = ("__weakref__", "attributes", "counting", "counts", "mode", "name", "on")

    def __init__(self, name: str, counts: Counts, mode: SpanMode, attributes: Mapping[str, Any]) -> None:
        self.name = name
        self.counts = counts
        self.mode = mode
        self.attributes = attributes
        self.on = False
        self.counting = False  # too hot to be timed: calls are only counted


class Functions:
    """All of them. Thread-safe. At most ``limit`` have counts of their own, the rest share one."""

    def __init__(self) -> None:
        self.limit = 2_000
        self.slow = NEVER
        self._on = False
        self._counts: dict[str, Counts] = {}
        self._all: WeakSet[Function] = WeakSet()  # a decorated closure goes when its maker forgets it
        self._blocks: dict[tuple[str, SpanMode], Function] = {}
        self._lock = RLock()  # a collection in the midst of add() may run a finalizer that adds

    def add(self, name: str, mode: SpanMode, attributes: Mapping[str, Any]) -> Function:
        """Register a function; those of one name are counted together."""
        with self._lock:
            counts = self._counts.get(name)
            if counts is None:
                key = name if len(self._counts) < self.limit else OVERFLOW
                counts = self._counts.setdefault(key, Counts(key, self.slow))
            function = Function(name, counts, mode, attributes)
            function.on = self._on
            self._all.add(function)
        return function

    def block(self, name: str, mode: SpanMode, attributes: Mapping[str, Any] | None) -> Function:
        """The function of ``with monitored(name):``; one for all that are made with the same name and no attributes."""
        if attributes:
            return self.add(name, mode, {"code.function.name": name, **attributes})
        found = self._blocks.get((name, mode))
        if found is None:
            found = self.add(name, mode, {"code.function.name": name})
            if len(self._blocks) < self.limit:
                self._blocks[name, mode] = found
        return found

    def turn(self, on: bool, *, slow: float = NEVER) -> None:
        """Measure calls, or let them pass; ``slow`` is the time (s) from which on a call becomes a span."""
        with self._lock:
            self._on, self.slow = on, slow
            for counts in self._counts.values():
                counts.slow = slow
            for function in tuple(self._all):
                function.on = on and not function.counting

    def step_down(self, function: Function) -> None:
        """Only count its calls from now on."""
        function.counting, function.on = True, False

    def counts(self) -> list[Counts]:
        """What was counted of every function that was called."""
        return [counts for counts in tuple(self._counts.values()) if counts.count or counts.untimed]

    def after_fork_in_child(self) -> None:
        """Begin every count anew: what the parent counted, the parent reports."""
        self._lock = RLock()
        for counts in self._counts.values():
            counts.reset()


FUNCTIONS: Final = Functions()
