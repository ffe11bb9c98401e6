"""A line on standard error while long work runs: how much is done, and how fast. Only in a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

T = TypeVar("T")

AFTER: Final = 0.5  # seconds; what is quicker needs no line
EVERY: Final = 0.2
_CHECK: Final = 64  # items between two looks at the clock
_ERASE: Final = "\r\x1b[K"


def watched(items: Iterable[T], doing: str, total: int = 0) -> Generator[T, None, None]:
    """``items`` as they are; meanwhile ``doing``, how many, of how many if that is known, and how many a second.

    About 0.1 µs an item; nothing is written where standard error is no terminal.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    begin = time.monotonic()
    shown, due, number = False, begin + AFTER, 0
    try:
        for number, item in enumerate(items, 1):
            if number % _CHECK == 0 or total:
                now = time.monotonic()
                if now >= due:
                    shown, due = True, now + EVERY
                    sys.stderr.write(_ERASE + _line(doing, number, total, now - begin))
                    sys.stderr.flush()
            yield item
    finally:
        if shown:
            sys.stderr.write(_ERASE)
            sys.stderr.flush()


def _line(doing: str, number: int, total: int, seconds: float) -> str:
    speed = number / seconds
    if not total:
        return f"{doing}: {number:,} ({speed:,.0f} a second)"
    left = (total - number) / speed
    return f"{doing}: {number:,} of {total:,} ({number / total:.0%}, {left:.0f} s left)"
