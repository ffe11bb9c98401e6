"""Numbers that several parts of the report need."""

from __future__ import annotations

import math


def quantile(ordered: list[float], share: float) -> float:
    """The value at ``share`` of a sorted list, by the nearest rank."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
