"""The app's functions with ``cachebox.cached``.

cachebox's caches are of compiled types that take no patch and no weak reference: one that is used by itself is not
seen, and neither are functions from before. A function's wrapper counts by itself, in variables of its closure. These
are read and not its ``cache_info()``: that asks for the number of entries, waits for the cache's lock, and with it
would wait for whatever a key's ``__eq__`` does meanwhile. So the size is not known, nor what was evicted.
"""

from __future__ import annotations

import functools
import sys
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.patches import put
from otel_perf.memory.cache_metrics import Numbers
from otel_perf.memory.found.shared import name_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

# What ``cached`` makes its wrappers with, whoever imported ``cached`` by name before.
BUILDERS: Final = (
    "_cached_wrapper",
    "_cached_wrapper_without_lock",
    "_async_cached_wrapper",
    "_async_cached_wrapper_without_lock",
)


class Cachebox:
    """A function with a cache, or with one for each instance."""

    def __init__(self, made: Any, name: str, limit: int) -> None:
        self.reference = weakref.ref(made)
        self.name = name
        self.limit = limit
        variables = dict(zip(made.__code__.co_freevars, made.__closure__, strict=True))
        self._hits, self._misses = variables["hits"], variables["misses"]

    def numbers(self) -> Numbers | None:
        """As :meth:`~otel_perf.memory.cache_metrics.Watched.numbers`."""
        if self.reference() is None:
            return None
        return Numbers(self._hits.cell_contents, self._misses.cell_contents, limit=self.limit)


class CacheboxCaches:
    """The app's functions with ``cachebox.cached``. Calls cost what they did."""

    def __init__(self) -> None:
        self._found: weakref.WeakKeyDictionary[Any, Cachebox] = weakref.WeakKeyDictionary()

    def read(self) -> Iterable[Cachebox]:
        """Those that are there now."""
        return list(self._found.values())

    def install(self, library: Any, undo: ExitStack) -> None:
        """Be told of each new one, until the undo."""
        for name in BUILDERS:
            if name in vars(library.utils):
                put(library.utils, name, self._building(vars(library.utils)[name]), undo)

    def _building(self, original: Any) -> Any:
        @functools.wraps(original)
        def building(function: Any, cache: Any, *arguments: Any, **keywords: Any) -> Any:
            made = original(function, cache, *arguments, **keywords)
            with suppress(Exception):
                self._add(made, function, cache)
            return made

        return building

    def _add(self, made: Any, function: Any, cache: Any) -> None:
        name = name_of(function)
        if name is not None:
            limit = 0 if callable(cache) else int(cache.maxsize)  # it is a constant, and takes no lock
            self._found[made] = Cachebox(made, name, limit if limit < sys.maxsize else 0)
