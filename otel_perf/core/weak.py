"""Reading weak collections while other threads add to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from weakref import WeakSet, ref

T = TypeVar("T")


def alive(items: WeakSet[T]) -> list[T]:
    """Those that are there now. Iterating over it fails when another thread adds one; a copy of its set is one step."""
    references: set[ref[T]] = items.data.copy()  # type: ignore[attr-defined]
    return [item for reference in references if (item := reference()) is not None]
