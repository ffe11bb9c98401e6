"""The app's functions with ``functools.lru_cache``, and the caches of ours.

``functools.lru_cache`` counts by itself, so that its caches only have to be found: by one look at what the garbage
collector knows (17 ms for 500,000 objects), when metrics are read first, and by being told of each new one.
"""

from __future__ import annotations

import functools
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from otel_perf.core import collector
from otel_perf.core.weak import alive_in
from otel_perf.memory.cache_metrics import Numbers
from otel_perf.memory.found.shared import name_of

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
    for store in alive_in("otel_perf.memory.limited", "stores"):
        if store.is_cache and store not in _own:
            _own[store] = Own(store)
    return list(_own.values())


class Functools:
    """A function of the app's with ``functools.lru_cache``."""

    def __init__(self, wrapper: Any, name: str) -> None:
        self.reference = weakref.ref(wrapper)
        self.name = name
        info = wrapper.cache_info()
        self.before = info.hits, info.misses  # when it was found

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
        self.look()
        return list(self._found.values())

    def known(self) -> Iterable[Functools]:
        """Those that were found so far, without a look."""
        return list(self._found.values())

    def look(self) -> None:
        """Look for those from before, once; frozen objects are not found any more."""
        if not self._looked:
            self._looked = True
            for found in collector.find(_original):
                self.add(found, getattr(found, "__wrapped__", None))

    def add(self, wrapper: Any, function: Any) -> None:
        """Watch a function, if it is the app's. Never raises."""
        with suppress(Exception):
            name = name_of(function)
            if name is not None:
                self._found[wrapper] = Functools(wrapper, name)

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
