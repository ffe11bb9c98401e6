"""Looks at what is in memory: how many objects of which type, in which containers, allocated where.

Nothing here keeps an object of the app's alive for more than some ms, or runs code of its classes. Objects that the
garbage collector does not know (strings, bytes, numbers) show only where they were allocated, and in the containers
that hold them.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import suppress
from itertools import chain
from pathlib import Path
from threading import Lock
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core import collector
from otel_perf.core.owner import APP, owner

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

SAMPLES: Final = 500  # of the newest objects, young and old, that are asked for their size and line
SLICE: Final = 20_000  # types counted in one go: 1 ms
PAUSE: Final = 0.005  # seconds between two slices
TRACER: Final = 6 * 2**20  # bytes that the tracer takes for about 100,000 blocks, of which a look takes 70 ms
BLOCKS: Final = 50_000  # of which lines are summed up; of more, every second, third …
NAMED: Final = 20_000  # attributes that are looked at for containers
_GENERATIONS: Final = (2, 1, 0)  # those last whose objects are the newest
_SELF: Final = (__file__, tracemalloc.__file__)
_CONTAINERS: Final = (list, dict, set, deque, OrderedDict, defaultdict)
_PLAIN: Final = (type(None), str, bytes, int, float, FunctionType, BuiltinFunctionType, MethodType, ModuleType)

_start: Final = tracemalloc.start

Line = tuple[str, int]


def types(wait: Callable[[float], bool]) -> Counter[type]:
    """How many objects of each type the garbage collector knows; frozen ones are not counted.

    Holds the interpreter for about 60 ms a million objects, and takes 16 bytes for each for as long.
    """
    # One call, in which no other thread runs: one that did might drop the last reference but this list's to something
    # that has to be finalized in its own thread.
    found = list(map(type, chain.from_iterable(map(gc.get_objects, _GENERATIONS))))
    counts: Counter[int] = Counter()  # by id(): a metaclass may have a hash of its own, or none
    for start in range(0, len(found), SLICE):
        counts.update(map(id, found[start : start + SLICE]))
        if wait(PAUSE):
            break
    kinds = {id(kind): kind for kind in found}
    return Counter({kinds[number]: count for number, count in counts.items() if _is_plain(kinds[number])})


def _is_plain(kind: type) -> bool:
    """Whether a type can be a key without its metaclass being asked."""
    meta = type(kind)
    return meta.__hash__ is type.__hash__ and meta.__eq__ is type.__eq__


def ask(kinds: Collection[type]) -> dict[type, tuple[int, Line | None]]:
    """The mean size of the newest objects of these types without what they hold (bytes), and the line that made most.

    Holds the interpreter for about 80 ms a million objects; a thousand of these types are kept for some ms.
    """
    asked = tuple(kind for kind in kinds if kind not in {tuple, frozenset})  # which may be half-made
    newest = collector.find(*asked, most=SAMPLES)
    found: dict[type, tuple[int, Line | None]] = {}
    for kind in kinds:
        same = [item for item in newest if type(item) is kind]
        size = basic_size(kind)
        with suppress(Exception):
            if isinstance(kind.__sizeof__, MethodDescriptorType):  # else it may be the app's own code
                size = sum(map(sys.getsizeof, same)) // max(len(same), 1)
        places = Counter(line for item in same if (line := line_of(item)) is not None)
        found[kind] = size, max(places, key=places.__getitem__, default=None)
    return found


def basic_size(kind: type) -> int:
    """Bytes of an object without what it holds."""
    return int(type.__dict__["__basicsize__"].__get__(kind))


def module_of(kind: type) -> str:
    """The name of its module."""
    with suppress(Exception):  # a metaclass may have its own idea of it
        return str(kind.__module__)
    return ""


def name_of(kind: type) -> str:
    """With its module, where it has one that says something."""
    module, name = module_of(kind), type.__dict__["__qualname__"].__get__(kind)
    return str(name) if module in {"", "builtins"} else f"{module}.{name}"


def owner_of(module: str) -> int:
    """Whose code a module is. Without a file it is Python's, or the program that was typed in."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return owner(file) if file else APP if module == "__main__" else 0


class Tracing:
    """Allocations traced with one frame, unless the app traces them itself: then that is used, and left on."""

    def __init__(self) -> None:
        self._ours = False
        self._lock = Lock()

    def start(self) -> bool:
        """Whether it is ours; the app's once that calls ``tracemalloc.start``, which is replaced meanwhile."""
        with self._lock:
            if not tracemalloc.is_tracing():
                _start(1)
                self._ours = True
                tracemalloc.start = self._taken_over
            return self._ours

    def stop(self) -> None:
        """Only what :meth:`start` has begun. Idempotent; by any thread."""
        with self._lock:
            if self._give_up():
                tracemalloc.stop()

    def _give_up(self) -> bool:
        was, self._ours = self._ours, False
        if tracemalloc.start == self._taken_over:
            tracemalloc.start = _start
        return was

    def _taken_over(self, nframe: int = 1, /) -> None:
        with self._lock:
            if self._give_up() and nframe > tracemalloc.get_traceback_limit():
                tracemalloc.stop()  # what is traced goes on with the frames that it began with
        _start(nframe)

    def after_fork_in_child(self) -> None:
        """Who had the lock is not here; what it had begun is."""
        self._lock = Lock()
        self.stop()

    @staticmethod
    def is_full(times: int = 1) -> bool:
        """So many blocks that looking at them would be felt."""
        return tracemalloc.get_tracemalloc_memory() > times * TRACER


def lines() -> Counter[Line]:
    """Bytes that are allocated, by line. Holds the interpreter for 0.7 µs a traced block, and copies them."""
    sums: Counter[Line] = Counter()
    if tracemalloc.is_tracing() and not Tracing.is_full(2):  # with what came since the last look at how full it is
        traces = tracemalloc.take_snapshot().traces
        step = len(traces) // BLOCKS + 1
        for number in range(0, len(traces), step):
            trace = traces[number]
            frame = trace.traceback[-1]  # the newest, of more than one where the app traces
            if frame.filename not in _SELF:
                sums[frame.filename, frame.lineno] += trace.size * step
    return sums


def line_of(item: object) -> Line | None:
    """Where it was allocated, if that was traced. Python 3.11 does not find it for objects with a ``__dict__``."""
    trace = tracemalloc.get_object_traceback(item)
    return (trace[-1].filename, trace[-1].lineno) if trace else None


def shown(line: Line) -> str:
    """``file:line``, as seen from the working folder."""
    path = line[0]
    with suppress(ValueError, OSError):
        path = str(Path(path).relative_to(Path.cwd()))
    return f"{path}:{line[1]}"


def containers() -> dict[str, int]:
    """How much is in the containers that the app's modules, their classes and their objects have, by name.

    ``shop.sessions``, ``shop.Cache.all``, ``shop.cache.entries``; the first two levels, of at most :data:`NAMED`
    attributes. About 0.3 µs for each.
    """
    found: dict[str, int] = {}
    left = NAMED
    for module, loaded in list(sys.modules.items()):
        if owner_of(module) != APP:
            continue
        inner: list[tuple[str, Any]] = []
        for name, value in _attributes(loaded):
            left -= 1
            if _is_container(value):
                found[f"{module}.{name}"] = len(value)
            elif not issubclass(type(value), _PLAIN) and _is_app_s(value):
                inner.append((f"{module}.{name}", value))
        for name, value in inner:
            for attribute, held in _attributes(value):
                left -= 1
                if _is_container(held):
                    found[f"{name}.{attribute}"] = len(held)
        if left <= 0:
            break
    return found


def _is_container(value: object) -> bool:
    kind = type(value)
    return any(kind is known for known in _CONTAINERS)  # not by hash: a metaclass may have one of its own


def _is_app_s(value: object) -> bool:
    kind = value if issubclass(type(value), type) else type(value)
    return owner_of(str(getattr(kind, "__module__", ""))) == APP


def _attributes(item: object) -> list[tuple[str, Any]]:
    """Without a property or ``__getattr__`` being called."""
    with suppress(Exception):
        held = (
            type.__getattribute__(item, "__dict__")
            if issubclass(type(item), type)
            else (object.__getattribute__(item, "__dict__"))
        )
        return [(name, value) for name, value in list(held.items()) if not name.startswith("__")]
    return []


tracing = Tracing()
