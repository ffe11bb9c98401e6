"""Copies of the stacks of threads and of waiting coroutines: code, line and instruction of each frame.

Compiled where they could be (``_frames.c``), so that nothing changes while a stack is copied. Without that, another
thread's frames are not touched on Python 3.11, which crashes when they go meanwhile; nor where there is no GIL.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    Stack: TypeAlias = list[tuple[CodeType, int, int]]

SAFE_IN_PYTHON: Final = sys.version_info >= (3, 12) and getattr(sys, "_is_gil_enabled", lambda: True)()


def _threads(depth: int) -> dict[int, Stack]:
    """The stack of each thread by its ident, innermost frame first."""
    found: dict[int, Stack] = {}
    for thread, innermost in sys._current_frames().items() if SAFE_IN_PYTHON else ():
        stack = found[thread] = []
        frame: Any = innermost
        while frame is not None and len(stack) < depth:
            stack.append((frame.f_code, frame.f_lineno or 0, frame.f_lasti))
            frame = frame.f_back
    return found


def _awaited(coroutine: Any, depth: int) -> Stack | None:
    """What a coroutine waits for, outermost frame first; ``None`` while it runs."""
    if not SAFE_IN_PYTHON:
        return None
    stack: Stack = []
    waiting = coroutine
    while len(stack) < depth:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            break
        if getattr(waiting, "cr_running", False) or getattr(waiting, "gi_running", False):
            return None
        stack.append((frame.f_code, frame.f_lineno or 0, frame.f_lasti))
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return stack


threads: Callable[[int], dict[int, Stack]] = _threads
awaited: Callable[[Any, int], Stack | None] = _awaited
_compiled: Any = None
with suppress(ImportError):
    _compiled = import_module("otel_perf.bottlenecks._frames")
    threads, awaited = _compiled.threads, _compiled.awaited
SEEN: Final = _compiled is not None or SAFE_IN_PYTHON
"""Whether stacks of other threads can be had."""
