"""Time that a span's children cover."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def covered(children: Iterable[tuple[int, int]], start: int, end: int) -> int:
    """How much of ``start``–``end``, all in ns, is time in which a child ran: overlapping children count once."""
    covered, reached = 0, start
    for child_start, child_end in sorted(children):
        until = min(child_end, end)
        begin = max(child_start, reached)
        if until > begin:
            covered += until - begin
            reached = until
    return covered
