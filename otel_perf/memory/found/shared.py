"""What finding caches of libraries has in common: whose a cache is, and its counts."""

from __future__ import annotations

import inspect
import os
import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.owner import APP, MACHINE, owner
from otel_perf.memory.cache_metrics import Numbers

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

NAMES: Final = 200  # of one library; further ones are "other"


def folder(module: Any) -> str:
    """The folder of a library, as the files in it begin."""
    return str(Path(module.__file__).parent) + os.sep


def maker(library: str) -> FrameType | None:
    """The app's frame that called what now makes a cache; ``None`` if a library makes it.

    Frames in the folder ``library``, and those that stand between every call and its work, are passed over.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(library) and (whose := owner(file)) != MACHINE:
            return frame if whose == APP else None
        frame = frame.f_back
    return None


def name_of(function: Any) -> str | None:
    """Module and qualified name of a function of the app's; ``None`` if it is a library's."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        return None
    filename = code.co_filename
    if not Path(filename).is_absolute():  # compiled by Cython: as it was called where the library was built
        filename = getattr(sys.modules.get(function.__module__), "__file__", None) or filename
    if owner(filename) != APP:
        return None
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', '?')}"


class Counted:
    """What was counted for one name, by whatever objects have it. What goes stays counted.

    A count is an addition to an attribute, within which CPython changes no thread (there is no call in it).
    """

    __slots__ = ("hits", "misses", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.hits = self.misses = 0

    def numbers(self) -> Numbers:
        """As :meth:`~otel_perf.memory.cache_metrics.Watched.numbers`."""
        return Numbers(self.hits, self.misses)


def remember(found: dict[int, Any], thing: Any, watched: Any) -> None:
    """Find ``watched`` by ``id(thing)`` as long as there is the thing. TypeError if it takes no weak reference."""
    number = id(thing)
    weakref.finalize(thing, found.pop, number, None).atexit = False
    found[number] = watched


def named(names: dict[str, Any], library: str, name: str, make: Callable[[str], Any] = Counted) -> Any:
    """What is counted for ``library.name``, made when it is new; from :data:`NAMES` on, for ``library.other``."""
    full = f"{library}.{name}"
    if full not in names and len(names) >= NAMES:
        full = f"{library}.other"
    known = names.get(full)
    return names.setdefault(full, make(full)) if known is None else known
