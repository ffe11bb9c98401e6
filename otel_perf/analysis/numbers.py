"""Numbers that several parts of the report need."""

from __future__ import annotations

import math
from typing import Any


def number_of(value: Any) -> float:
    """An attribute as a number that SQLite takes; 0 for what is none. Anybody may have sent it."""
    return float(value) if isinstance(value, int | float) and -1e15 < value < 1e15 else 0.0


def quantile(ordered: list[float], share: float) -> float:
    """The value at ``share`` of a sorted list, by the nearest rank."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
