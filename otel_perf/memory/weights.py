"""How many bytes a value takes: what a cache weighs its entries by when it is told nothing better."""

from __future__ import annotations

import sys
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

ITEMS: Final = 10_000  # objects looked at; what is larger is estimated from these
DEPTH: Final = 50
_SHARED: Final = (type, ModuleType, FunctionType, BuiltinFunctionType, MethodType, CodeType)
_ATOMS: Final = frozenset({str, bytes, bytearray, int, float, complex, bool, type(None)})


def size_of(value: Any) -> int:
    """Bytes of ``value`` with what it holds: containers, attributes, arrays; each object once.

    Classes, functions and modules count nothing, as others hold them too. When :data:`ITEMS` objects have been looked
    at, the rest of each container is taken to be like its beginning. Costs about 1 µs an object. Never raises: what
    cannot be looked into, or is nested more than :data:`DEPTH` deep, counts with its own size.
    """
    return int(_weight(value, set(), [ITEMS], DEPTH))


def _weight(item: Any, seen: set[int], left: list[int], depth: int) -> float:
    if id(item) in seen:
        return 0
    seen.add(id(item))
    left[0] -= 1
    if type(item) in _ATOMS:
        return sys.getsizeof(item)
    if isinstance(item, _SHARED):
        return 0
    own = _own(item)
    inside: float = 0.0
    parts = _inside(item) if depth else ()
    for done, part in enumerate(parts):
        if left[0] <= 0 and done:
            return own + inside / done * len(parts)
        inside += _weight(part, seen, left, depth - 1)
    return own + inside


def _own(item: Any) -> int:
    own = sys.getsizeof(item, 64)
    array = getattr(type(item), "nbytes", None)  # numpy, array-likes; a view's own size leaves its data out
    if array is not None:
        data = item.nbytes
        return max(own, int(data)) if isinstance(data, int) else own
    return own


def _inside(item: Any) -> list[Any]:
    try:
        if isinstance(item, dict):
            return [*item.keys(), *item.values()]
        if isinstance(item, list | tuple | set | frozenset):
            return list(item)
        found = list(getattr(item, "__dict__", {}).values())
        for kind in type(item).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for slot in (slots,) if isinstance(slots, str) else slots:
                if slot not in {"__dict__", "__weakref__"} and hasattr(item, slot):
                    found.append(getattr(item, slot))
        return found
    except Exception:  # an object that does not want to be looked at
        return []
