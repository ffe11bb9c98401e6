"""Whether the app is at work at this moment, as far as somebody knows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

sources: list[Callable[[], bool]] = []
"""Each says whether there is active work: an open local root of a trace."""


def is_active() -> bool:
    """Whether any source knows of active work."""
    return any(source() for source in tuple(sources))
