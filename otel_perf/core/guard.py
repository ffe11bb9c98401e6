"""Keeps our errors away from the application that we instrument.

Whatever of ours runs inside the user's call path runs under a :class:`Guard`. An error there is
counted (``perf.internal_errors``) and logged once; after :data:`LIMIT` of them the feature steps down
for a while. Under :func:`strict` (the test-suite) the error is raised instead.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

LIMIT: Final = 10  # errors before a feature steps down
FRAMES: Final = 100  # that code of ours may need; closer to the recursion limit than that it was the app's doing

_log = logging.getLogger("otel_perf")
_strict = False


def strict(on: bool) -> None:
    """Raise internal errors (``True``, for tests) instead of absorbing them. Process-wide."""
    global _strict
    _strict = on


def is_strict() -> bool:
    """Whether internal errors are raised."""
    return _strict


class Guard:
    """A re-usable, re-entrant context manager that absorbs and counts internal errors.

    ``Exception`` is absorbed; ``KeyboardInterrupt``, ``SystemExit`` and the like pass. Thread-safe: the
    count may lag by a few under contention, which only moves the moment of stepping down.
    Cost: about 0.2 µs an entry and exit.
    """

    __slots__ = ("_forgiven", "_harmless", "_on_trip", "errors", "name", "tripped")

    def __init__(self, name: str, on_trip: Callable[[], None] | None = None) -> None:
        self.name = name
        self.errors = 0
        self.tripped = False
        self._forgiven = self._harmless = 0
        self._on_trip = on_trip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        self.handle(error)
        return True

    def handle(self, error: Exception, *, steps_down: bool = True) -> None:
        """Count and log ``error``; re-raise it under :func:`strict`. One that does not ``steps_down`` is only counted.

        A ``RecursionError`` where the application had used up its frames is not ours; logging it would raise the next.
        """
        if isinstance(error, RecursionError):
            frame, frames = sys._getframe(), 0  # counted here: there may be none left for a call
            while frame.f_back is not None:
                frame, frames = frame.f_back, frames + 1
            if frames > sys.getrecursionlimit() - FRAMES:
                return
        if _strict:
            raise error
        self.errors += 1
        if self.errors == self._forgiven + 1:
            _log.warning("otel-perf: internal error in %s (the application is not affected)", self.name, exc_info=error)
        self._harmless += not steps_down
        if self.errors - self._harmless >= self._forgiven + LIMIT and not self.tripped:
            self.tripped = True
            if self._on_trip is not None:
                self._on_trip()

    def forgive(self) -> None:
        """Begin anew, with the next error as the first."""
        self._forgiven, self._harmless, self.tripped = self.errors, 0, False
