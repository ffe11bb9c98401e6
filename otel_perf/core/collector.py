"""What features have to do with the garbage collector, together."""

from __future__ import annotations

import gc
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from itertools import chain, compress
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.threads import get_ident

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType

    Callback = Callable[[str, dict[str, int]], None]

lookers: list[Callable[[], object]] = []
"""Called each time before objects are frozen, which ``gc.get_objects`` does not show any more. Perhaps within a
collection: to be quick, and to take no lock."""
collecting: set[int] = set()
"""Threads in which :func:`collect` runs."""
between: list[CodeType] = []
"""Code of ours that stands between the app and ``gc.collect``: not whoever asked for a collection."""

_compiled: Any = None
with suppress(ImportError):
    _compiled = import_module("otel_perf.core._collector")


def look() -> None:
    """Let all of them look."""
    for looker in tuple(lookers):
        with suppress(Exception):
            looker()


def is_of_signal(error: BaseException) -> bool:
    """Whether what a callback of the collector raised comes of a signal's handler, called by Python in its midst.

    Callbacks call what is in their own package, and in C; a handler is the app's.
    """
    packages, at = set(), error.__traceback__
    while at is not None:
        packages.add(str(at.tb_frame.f_globals.get("__name__")).partition(".")[0])
        at = at.tb_next
    return len(packages) > 1 or not isinstance(error, Exception)


def collect() -> int:
    """A full collection that is ours and not the app's; the number of objects it found."""
    thread = get_ident()
    collecting.add(thread)
    try:
        return gc.collect()
    finally:
        collecting.discard(thread)


_GENERATIONS: Final = (2, 1, 0)


def _find(kinds: tuple[type, ...], most: int) -> list[Any]:
    wanted = frozenset(map(id, kinds)).__contains__
    enabled = gc.isenabled()
    gc.disable()
    try:
        # Both passes are within one call into C, in which no other thread runs, and after which no list of all objects
        # is left: somebody else's half-made tuple must not be seen to be shared. What the first pass makes itself
        # comes last, among the young ones.
        fits = map(wanted, map(id, map(type, chain.from_iterable(map(gc.get_objects, _GENERATIONS)))))
        at_once = chain.from_iterable(map(list, (fits,)))
        found = list(compress(chain.from_iterable(map(gc.get_objects, _GENERATIONS)), at_once))
    finally:
        if enabled:
            gc.enable()
    found = [item for item in found if wanted(id(type(item)))]
    return found if len(found) <= 2 * most else [*found[:most], *found[-most:]]


def find(*kinds: type, most: int = sys.maxsize // 2) -> list[Any]:
    """The objects of exactly these types, but the frozen ones; of more than twice ``most``, so many of either end.

    Holds the interpreter for about 10 ms a million objects. Not for tuples and frozensets, which may be half-made.
    """
    return _find(kinds, most) if _compiled is None else list(_compiled.find(kinds, most))


_callbacks: list[Callback] = []
_shielded: Any = None if _compiled is None else partial(_compiled.call, _callbacks, is_of_signal)


def on_collection(callback: Callback) -> Callable[[], None]:
    """Have ``callback(phase, info)`` called as ``gc.callbacks`` are, until the returned function is called.

    What a signal handler raises within a collection would be lost in a callback that is written in Python; where it
    could be compiled (``_collector.c``), it reaches the app.
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
