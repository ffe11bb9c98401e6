"""Whether the program is under strain: who finds that it is says so here, and what is dear steps down meanwhile.

Whoever measures needs not know what steps down (``otel_perf/stepping.py``). A forked child inherits what lasts: who
began it there goes on looking, and ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_causes: dict[str, str] = {}
changed: list[Callable[[], None]] = []
"""Called when a cause begins or ends, in that thread: to return at once."""


def begin(cause: str, reason: str) -> None:
    """``cause`` lasts until :func:`end`; ``reason`` is a sentence for people. From any thread, as often as you like."""
    _causes[cause] = reason
    _tell()


def end(cause: str) -> None:
    """``cause`` is over; nothing happens if it did not last."""
    if _causes.pop(cause, None) is not None:
        _tell()


def reason() -> str:
    """Why the program is under strain; empty if it is not."""
    return "; ".join(_causes.copy().values())


def _tell() -> None:
    for tell in tuple(changed):
        tell()
