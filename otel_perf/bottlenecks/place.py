"""A line of code that a person can open: which frame of a stack is the app's own, and not a library's."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import field, replace
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_perf.core.owner import APP, LIBRARY, owner
from otel_perf.core.records import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType, FrameType

DEPTH: Final = 200  # frames that are looked at
CALLERS: Final = 8  # frames that are remembered of a line

_LOOPS: Final = ("asyncio/events.py", "asyncio/base_events.py", "asyncio/runners.py", "uvloop/__init__.py")
_RUNS: Final = frozenset({"_run", "_run_once", "run_forever", "run_until_complete", "run"})


@record
class Place:
    """A line: the function as Python qualifies it, the file, and the code itself."""

    function: str
    path: str
    line: int
    code: CodeType
    callers: tuple[tuple[CodeType, int], ...] = field(default=(), compare=False)
    """The app's frames around it, innermost first, with their lines; only where :func:`here` was asked."""

    @property
    def is_app(self) -> bool:
        """Whether it is the app's own, and not a library's."""
        return owner(self.code.co_filename) == APP

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def stack_of(frame: FrameType | None) -> Iterable[tuple[CodeType, int]]:
    """The code and line of each frame, innermost first; about 0.1 µs each."""
    for _ in range(DEPTH):
        if frame is None:
            return
        yield frame.f_code, frame.f_lineno or 0
        frame = frame.f_back


def inside_loop(stack: Iterable[tuple[CodeType, int]]) -> Iterator[tuple[CodeType, int]]:
    """What an event loop is running: the frames of the loop itself, and those that only started it, are left out."""
    return takewhile(lambda frame: not (frame[0].co_name in _RUNS and frame[0].co_filename.endswith(_LOOPS)), stack)


def place_of(stack: Iterable[tuple[CodeType, int]]) -> Place | None:
    """The innermost line of the app; where there is none, of a library."""
    fallback = None
    for code, line in stack:
        whose = owner(code.co_filename)
        if whose == APP:
            return _place(code, line)
        if whose == LIBRARY and fallback is None:
            fallback = code, line
    return None if fallback is None else _place(*fallback)


def here(depth: int = 1) -> Place | None:
    """The line of the app from which this is called, and the frames around it. About 10 µs, by the stack's depth."""
    stack = list(inside_loop(stack_of(sys._getframe(depth + 1))))
    place = place_of(stack)
    if place is None:
        return None
    callers = [(code, line) for code, line in stack if owner(code.co_filename) == APP]
    return replace(place, callers=tuple(callers[1 : CALLERS + 1]))


@lru_cache(maxsize=2_000)
def _place(code: CodeType, line: int) -> Place:
    path = code.co_filename
    with suppress(ValueError, OSError):  # elsewhere, or a working folder that was deleted
        path = str(Path(path).relative_to(Path.cwd()))
    return Place(code.co_qualname, path, line, code)
