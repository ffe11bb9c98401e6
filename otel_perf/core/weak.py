"""Reading weak collections while other threads add to them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from weakref import WeakSet, ref

T = TypeVar("T")


def alive(items: WeakSet[T]) -> list[T]:
    """Those that are there now. Iterating over it fails when another thread adds one; a copy of its set is one step."""
    references: set[ref[T]] = items.data.copy()  # type: ignore[attr-defined]
    return [item for reference in references if (item := reference()) is not None]


def alive_in(module: str, name: str) -> list[Any]:
    """The same of a collection of ``module``: none before it is imported, nor while another thread imports it."""
    items = getattr(sys.modules.get(module), name, None)
    return [] if items is None else alive(items)
