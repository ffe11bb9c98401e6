"""What features have to do with the garbage collector, together."""

from __future__ import annotations

import gc
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable

    Callback = Callable[[str, dict[str, int]], None]

lookers: list[Callable[[], object]] = []
"""Called each time before objects are frozen, which ``gc.get_objects`` does not show any more. Perhaps within a
collection: to be quick, and to take no lock."""
collecting: set[int] = set()
"""Threads in which :func:`collect` runs."""

_shield: Any = None
with suppress(ImportError):
    _shield = import_module("otel_perf.core._shield")


def look() -> None:
    """Let all of them look."""
    for looker in tuple(lookers):
        with suppress(Exception):
            looker()


def collect() -> int:
    """A full collection that is ours and not the app's; the number of objects it found."""
    thread = get_ident()
    collecting.add(thread)
    try:
        return gc.collect()
    finally:
        collecting.discard(thread)


_callbacks: list[Callback] = []
_shielded: Any = None if _shield is None else partial(_shield.call, _callbacks)


def on_collection(callback: Callback) -> Callable[[], None]:
    """Have ``callback(phase, info)`` called as ``gc.callbacks`` are, until the returned function is called.

    What a signal handler raises within a collection would be lost in a callback that is written in Python; where it
    could be compiled (``_shield.c``), it reaches the app.
    """
    known: list[Any] | None = getattr(gc, "callbacks", None)  # CPython's only
    if known is None:
        return lambda: None
    ours = known if _shielded is None else _callbacks
    ours.append(callback)
    if ours is not known and _shielded not in known:
        known.append(_shielded)

    def remove() -> None:
        if callback in ours:
            ours.remove(callback)
        if not _callbacks and _shielded in known:
            known.remove(_shielded)

    return remove
