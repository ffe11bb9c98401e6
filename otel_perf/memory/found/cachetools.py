"""The caches of cachetools that the app makes."""

from __future__ import annotations

import functools
import weakref
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any

from otel_perf.core.patches import put
from otel_perf.memory.cache_metrics import Numbers
from otel_perf.memory.found.shared import folder, maker, remember

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack


class Cachetools:
    """A cache of cachetools."""

    def __init__(self, cache: Any, name: str) -> None:
        self.reference = weakref.ref(cache)
        self.name = name
        self.hits = self.misses = self.evictions = 0

    def numbers(self) -> Numbers | None:
        """As :meth:`~otel_perf.memory.cache_metrics.Watched.numbers`."""
        cache = self.reference()
        if cache is None:
            return None
        limit = cache.maxsize
        return Numbers(self.hits, self.misses, self.evictions, len(cache), int(limit) if limit < inf else 0)


class CachetoolsCaches:
    """The caches of cachetools that the app makes, named by where it makes them.

    Caches from before, and classes that look up in a way of their own, are not counted.
    """

    def __init__(self) -> None:
        self._found: dict[int, Cachetools] = {}

    def read(self) -> Iterable[Cachetools]:
        """Those that are there now."""
        return list(self._found.values())

    def install(self, library: Any, undo: ExitStack) -> None:
        """Wrap the library's classes until the undo."""
        for kind in list(vars(library).values()):
            if isinstance(kind, type) and issubclass(kind, library.Cache):
                for name, wrap in (("__getitem__", self._getting), ("popitem", self._popping)):
                    if name in vars(kind):
                        put(kind, name, wrap(vars(kind)[name]), undo)
        put(library.Cache, "get", self._asking(library.Cache.get), undo)
        put(library.Cache, "__init__", self._making(library.Cache.__init__, folder(library)), undo)

    def _making(self, original: Any, library: str) -> Any:
        @functools.wraps(original)
        def made(cache: Any, *arguments: Any, **keywords: Any) -> None:
            original(cache, *arguments, **keywords)
            with suppress(Exception):
                frame = maker(library)
                if frame is not None:
                    self._add(cache, f"{frame.f_globals.get('__name__', '?')}:{frame.f_lineno}")

        return made

    def _add(self, cache: Any, name: str) -> None:
        remember(self._found, cache, Cachetools(cache, name))

    def _getting(self, original: Any) -> Any:
        @functools.wraps(original)
        def getting(cache: Any, key: Any, *more: Any, **keywords: Any) -> Any:
            watched = self._found.get(id(cache))
            if watched is None or type(cache).__getitem__ is not getting:  # it is called by the class's own
                return original(cache, key, *more, **keywords)
            try:
                value = original(cache, key, *more, **keywords)
            except KeyError:
                watched.misses += 1
                raise
            watched.hits += 1
            return value

        return getting

    def _asking(self, original: Any) -> Any:
        @functools.wraps(original)
        def asking(cache: Any, key: Any, *more: Any, **keywords: Any) -> Any:
            watched = self._found.get(id(cache))
            if watched is None:
                return original(cache, key, *more, **keywords)
            hits = watched.hits
            value = original(cache, key, *more, **keywords)
            if watched.hits == hits:  # it is asked with ``in`` first
                watched.misses += 1
            return value

        return asking

    def _popping(self, original: Any) -> Any:
        @functools.wraps(original)
        def popping(cache: Any, *arguments: Any, **keywords: Any) -> Any:
            popped = original(cache, *arguments, **keywords)
            watched = self._found.get(id(cache))
            if watched is not None and type(cache).popitem is popping:
                watched.evictions += 1
            return popped

        return popping
