"""Caches that the app has, found without a change to it: those of functools, of cachetools and of ours.

``functools.lru_cache`` counts by itself, so that its caches only have to be found: by one look at what the garbage
collector knows (17 ms for 500,000 objects), when metrics are read first, and by being told of each new one.
"""

from __future__ import annotations

import functools
import gc
import inspect
import sys
import weakref
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_perf.core.owner import APP, owner
from otel_perf.memory.cache_metrics import Numbers

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

_original: Any = functools._lru_cache_wrapper


class Own:
    """A cache of ours."""

    def __init__(self, store: Any) -> None:
        self.reference = weakref.ref(store)
        self.name = store.name

    def numbers(self) -> Numbers | None:
        """As :meth:`~otel_perf.memory.cache_metrics.Watched.numbers`."""
        store = self.reference()
        if store is None:
            return None
        info = store.info()
        return Numbers(info.hits, info.misses, info.evictions, info.currsize, info.maxsize or 0)


_own: weakref.WeakKeyDictionary[Any, Own] = weakref.WeakKeyDictionary()


def own() -> Iterable[Own]:
    """The caches of ours."""
    caches = sys.modules.get("otel_perf.memory.limited")
    for store in () if caches is None else list(caches.stores):
        if store.is_cache and store not in _own:
            _own[store] = Own(store)
    return list(_own.values())


class Functools:
    """A function of the app's with ``functools.lru_cache``."""

    def __init__(self, wrapper: Any, function: Any) -> None:
        self.reference = weakref.ref(wrapper)
        self.name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', '?')}"

    def numbers(self) -> Numbers | None:
        """As :meth:`~otel_perf.memory.cache_metrics.Watched.numbers`."""
        wrapper = self.reference()
        if wrapper is None:
            return None
        info = wrapper.cache_info()
        # Each miss has stored an entry, but for errors; what is not there any more was dropped.
        dropped = max(0, info.misses - info.currsize) if info.maxsize else 0
        return Numbers(info.hits, info.misses, dropped, info.currsize, info.maxsize or 0)


class FunctoolsCaches:
    """The app's functions with ``functools.lru_cache``: those that are there, and those that will be made.

    Libraries have hundreds, which say nothing to the app's people; they are left out.
    """

    def __init__(self) -> None:
        self._found: weakref.WeakKeyDictionary[Any, Functools] = weakref.WeakKeyDictionary()
        self._looked = False

    def read(self) -> Iterable[Functools]:
        """Those that are there now; the first time, those from before are looked for."""
        if not self._looked:
            self._looked = True
            for found in gc.get_objects():
                if type(found) is _original:
                    self.add(found, getattr(found, "__wrapped__", None))
        return list(self._found.values())

    def add(self, wrapper: Any, function: Any) -> None:
        """Watch a function, if it is the app's. Never raises."""
        with suppress(Exception):
            code = getattr(inspect.unwrap(function), "__code__", None)
            if code is not None and owner(code.co_filename) == APP:
                self._found[wrapper] = Functools(wrapper, function)

    def install(self, undo: ExitStack) -> None:
        """Be told of each new one until the undo."""
        add = self.add

        class Kind(type):
            """Answers for the original to who asks whether something is one."""

            def __instancecheck__(cls, instance: Any) -> bool:
                return isinstance(instance, _original)

        class Maker(metaclass=Kind):
            """What ``functools.lru_cache`` calls, also where it was imported by name before."""

            def __new__(cls, function: Any, *arguments: Any) -> Any:
                made = _original(function, *arguments)
                add(made, function)
                return made

        module: Any = functools
        module._lru_cache_wrapper = Maker

        def restore() -> None:
            if module._lru_cache_wrapper is Maker:
                module._lru_cache_wrapper = _original

        undo.callback(restore)


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

    def install(self, undo: ExitStack) -> None:
        """Wrap the library's classes, now or when they are imported, until the undo."""
        from wrapt import register_post_import_hook

        on = True

        def imported(module: Any) -> None:
            if on:
                with suppress(Exception):
                    self._wrap(module, undo)

        def end() -> None:
            nonlocal on
            on = False

        undo.callback(end)
        register_post_import_hook(imported, "cachetools")

    def _wrap(self, module: Any, undo: ExitStack) -> None:
        for kind in list(vars(module).values()):
            if isinstance(kind, type) and issubclass(kind, module.Cache):
                for name, wrap in (("__getitem__", self._getting), ("popitem", self._popping)):
                    if name in vars(kind):
                        _put(kind, name, wrap(vars(kind)[name]), undo)
        _put(module.Cache, "get", self._asking(module.Cache.get), undo)
        _put(module.Cache, "__init__", self._making(module.Cache.__init__, module.__file__), undo)

    def _making(self, original: Any, library: str) -> Any:
        folder = str(Path(library).parent)

        @functools.wraps(original)
        def made(cache: Any, *arguments: Any, **keywords: Any) -> None:
            original(cache, *arguments, **keywords)
            with suppress(Exception):
                frame: Any = sys._getframe(1)
                while frame.f_code.co_filename.startswith(folder):
                    frame = frame.f_back
                if owner(frame.f_code.co_filename) == APP:
                    self._add(cache, f"{frame.f_globals.get('__name__', '?')}:{frame.f_lineno}")

        return made

    def _add(self, cache: Any, name: str) -> None:
        number = id(cache)
        watched = Cachetools(cache, name)
        self._found[number] = watched
        weakref.finalize(cache, self._found.pop, number, None).atexit = False

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


def _put(kind: Any, name: str, wrapper: Any, undo: ExitStack) -> None:
    original = vars(kind)[name]
    setattr(kind, name, wrapper)

    def restore() -> None:
        if vars(kind).get(name) is wrapper:
            setattr(kind, name, original)

    undo.callback(restore)
