"""The hit of a cached function, in Python; ``_lookup.c`` is its compiled twin, for where it could be built.

A call makes a key, looks it up, and on a hit counts it and returns the value. What happens on a miss is the caller's.
Plain dictionaries only: they stand it when a key's ``__hash__`` or ``__eq__`` changes them in the midst of a look-up.
"""

from __future__ import annotations

import time
from contextlib import suppress
from importlib import import_module
from math import inf
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable


GONE: Any = object()  # the value of an entry that was removed, see otel_perf/memory/queues.py


class _Entry:
    """A value in a cache."""

    __slots__ = ("deadline", "key", "main", "used", "value", "weight")

    def __init__(self, key: Any, value: Any, deadline: float = inf, weight: int = 0) -> None:
        self.key = key
        self.value = value
        self.deadline = deadline  # by time.monotonic
        self.weight = weight
        self.used = 0  # since when, or how often: the policy's
        self.main = False  # in the second of the policy's two queues


class _Cached:
    """A function with a cache."""

    __slots__ = ("__dict__", "__weakref__", "entries", "hits", "method", "miss", "tokens", "typed")

    def __init__(self, entries: dict[Any, Any], miss: Callable[[Any, Any, Any], Any], typed: bool = False) -> None:
        self.entries = entries
        self.miss = miss
        self.typed = typed
        self.tokens: dict[int, Any] = {}  # by id() of an instance: what stands for it in keys
        self.method = False
        self.hits = 0

    def key(self, /, *args: Any, **keywords: Any) -> Any:
        """The key of a call; ``None`` for an instance that no token stands for yet."""
        named = args
        if self.method and args:
            token = self.tokens.get(id(args[0]))
            if token is None:
                return None
            named = (token, *args[1:])
        if len(named) == 1 and not keywords and not self.typed and type(named[0]) in _PLAIN:
            return named[0]
        if keywords:
            named += (KEYWORDS, *(part for pair in keywords.items() for part in pair))
        if self.typed:
            named += (*map(type, args), *map(type, keywords.values()))
        return named

    def __call__(self, /, *args: Any, **keywords: Any) -> Any:
        key = self.key(*args, **keywords)
        if key is None:
            return self.miss(None, args, keywords or None)
        entry = self.entries.get(key)
        if entry is not None and (entry.deadline == inf or time.monotonic() < entry.deadline):
            value = entry.value
            if value is not GONE:  # another thread removed it just now
                entry.used += 1
                self.hits += 1
                return value
        return self.miss(key, args, keywords or None)

    def __get__(self, instance: Any, _owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def __reduce__(self) -> str:
        return str(vars(self)["__qualname__"])

    def __copy__(self) -> _Cached:
        return self

    def __deepcopy__(self, _memo: Any) -> _Cached:
        return self


_PLAIN: Final = (str, int)
KEYWORDS: Any = object()  # between the positional arguments and the keywords of a key
Entry: Any = _Entry
Cached: Any = _Cached
COMPILED = False
with suppress(ImportError):
    _compiled: Any = import_module("otel_perf.memory._lookup")
    Entry, Cached, KEYWORDS, COMPILED = _compiled.Entry, _compiled.Cached, _compiled.KEYWORDS, True
