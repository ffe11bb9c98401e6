"""The caches of Django's settings, by alias: ``django.default``.

Counted is what asks for a value, once each, however a backend does it: ``get``, each key of ``get_many``, and the first
look of ``get_or_set``; so are their asynchronous twins. ``in``, ``has_key`` and ``incr`` ask for no value. Size, limit
and evictions are known of ``LocMemCache`` alone.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Iterator
from contextlib import suppress
from contextvars import ContextVar
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.patches import put
from otel_perf.memory.cache_metrics import Numbers
from otel_perf.memory.found.shared import Counted, named, remember

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack

_MISSING: Final = object()
_LOCAL: Final = "django.core.cache.backends.locmem"


class Alias(Counted):
    """A cache of the settings. Each thread and context has an object of its own for it."""

    __slots__ = ("_stores", "evictions")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.evictions: int | None = None
        self._stores: dict[int, tuple[weakref.ref[Any], int]] = {}  # of LocMemCache: its threads share one

    def add(self, cache: Any) -> None:
        """One more object."""
        local = sys.modules.get(_LOCAL)
        if local is not None and isinstance(cache, local.LocMemCache):
            self._stores[id(cache._cache)] = weakref.ref(cache._cache), cache._max_entries
            if self.evictions is None:
                self.evictions = 0

    def numbers(self) -> Numbers:
        """As :meth:`~otel_perf.memory.cache_metrics.Watched.numbers`."""
        stores = [(store, limit) for found, limit in list(self._stores.values()) if (store := found()) is not None]
        size = sum(len(store) for store, _ in stores) if self._stores else None
        return Numbers(self.hits, self.misses, self.evictions, size, sum(limit for _, limit in stores))


class Once:
    """Of ``get_or_set``: its first look counts, the one after it stored does not; what it calls to compute does."""

    __slots__ = ("alias", "done", "key")

    def __init__(self, alias: Alias, key: Any) -> None:
        self.alias, self.key, self.done = alias, key, False


# What goes on in this context: a look-up of this cache, which counts already, or a get_or_set. A backend's method may
# call others (DatabaseCache.get calls get_many, BaseCache.has_key calls get), in another thread, too (aget does).
_within: ContextVar[Alias | Once | None] = ContextVar("otel_perf.memory.found.django", default=None)


class DjangoCaches:
    """The caches of Django's settings, those that the app made otherwise are not counted.

    A ``get`` of ``LocMemCache`` costs 0.5 µs more (of 3.6), of others 1.3 µs, ``get_or_set`` 2 µs, ``in`` 1 µs. No
    lock, from any thread or context; nothing is kept of keys and values.
    """

    def __init__(self) -> None:
        self._caches: dict[int, Alias] = {}  # by id() of a cache
        self._aliases: dict[str, Alias] = {}
        self._kinds: dict[type, object] = {}

    def read(self) -> Iterable[Alias]:
        """Those that were used so far."""
        return list(self._aliases.values())

    def install(self, library: Any, undo: ExitStack) -> None:
        """Be told of each that Django makes, until the undo."""
        handler = library.CacheHandler
        put(handler, "create_connection", self._making(handler.create_connection, undo), undo)
        for alias in vars(library.caches).get("settings", ()):  # there already, if Django has read them
            cache = getattr(library.caches._connections, alias, None)
            if cache is not None:
                self._add(cache, alias, undo)

    def _making(self, original: Any, undo: ExitStack) -> Any:
        @functools.wraps(original)
        def create_connection(handler: Any, alias: Any) -> Any:
            cache = original(handler, alias)
            with suppress(Exception):
                self._add(cache, alias, undo)
            return cache

        return create_connection

    def _add(self, cache: Any, name: str, undo: ExitStack) -> None:
        alias = named(self._aliases, "django", name, Alias)
        alias.add(cache)
        for kind in type(cache).__mro__[:-1]:
            mine = object()
            if self._kinds.setdefault(kind, mine) is mine:
                self._patch(kind, undo)
        remember(self._caches, cache, alias)

    def _patch(self, kind: type, undo: ExitStack) -> None:
        """Wrap a backend's class, once. What ``BaseCache`` asks by ``get`` counts there."""
        base = kind.__module__ == "django.core.cache.backends.base"
        for name, wrap in (
            ("get", None if base else self._getting),
            ("get_many", None if base else self._getting_many),
            ("get_or_set", functools.partial(self._around, within=Once)),
            ("has_key", self._around),
            ("incr", self._around),
            ("incr_version", self._around),
        ):
            for spelt in (name, f"a{name}"):
                function = vars(kind).get(spelt)
                if wrap is not None and type(function) is FunctionType:
                    put(kind, spelt, wrap(function), undo)
        if kind.__module__ == _LOCAL and "_cull" in vars(kind):
            put(kind, "_cull", self._culling(vars(kind)["_cull"]), undo)

    def _getting(self, original: Any) -> Any:
        fallback = _fallback(original)

        def begin(arguments: Any, keywords: Any) -> tuple[Any, Any]:
            """The arguments with a default that no value is, and the one that was given."""
            if fallback is inspect.Parameter.empty:
                return arguments, None
            if len(arguments) == 1 and "default" not in keywords:
                return (arguments[0], _MISSING), fallback
            if len(arguments) > 1:
                return (arguments[0], _MISSING, *arguments[2:]), arguments[1]
            default = keywords.get("default", fallback)
            keywords["default"] = _MISSING
            return arguments, default

        def end(alias: Alias, value: Any, default: Any) -> Any:
            if value is _MISSING or (value is None and fallback is inspect.Parameter.empty):
                alias.misses += 1
                return default
            alias.hits += 1
            return value

        if original.__module__ == _LOCAL:
            return self._getting_local(original, begin)
        return self._looking(original, begin, end)

    def _getting_local(self, original: Any, begin: Callable[..., Any]) -> Any:
        """The quickest backend's ``get``, which calls none of the others, for a third of what the general way costs."""
        caches, again = self._caches, self._around(original)

        @functools.wraps(original)
        def get(cache: Any, *arguments: Any, **keywords: Any) -> Any:
            alias, outer = caches.get(id(cache)), _within.get()
            if outer is not None:
                alias, second = _part_of(outer, alias, arguments, keywords)
                if second:
                    return again(cache, *arguments, **keywords)
            if alias is None:
                return original(cache, *arguments, **keywords)
            if len(arguments) == 1 and not keywords:
                value, default = original(cache, arguments[0], _MISSING), None
            elif len(arguments) == 2:  # as get_many and get_or_set do
                value, default = original(cache, arguments[0], _MISSING, **keywords), arguments[1]
            else:
                arguments, default = begin(arguments, keywords)
                value = original(cache, *arguments, **keywords)
            if value is _MISSING:
                alias.misses += 1
                return default
            alias.hits += 1
            return value

        return get

    def _getting_many(self, original: Any) -> Any:
        def begin(arguments: Any, keywords: Any) -> tuple[Any, Any]:
            """The arguments, with a list for an iterator, and the keys."""
            keys = arguments[0] if arguments else keywords.get("keys")
            if isinstance(keys, Iterator):
                keys = list(keys)
                if arguments:
                    arguments = (keys, *arguments[1:])
                else:
                    keywords["keys"] = keys
            return arguments, keys

        def end(alias: Alias, values: Any, keys: Any) -> Any:
            with suppress(Exception):
                missed = sum(key not in values for key in keys)
                alias.misses += missed
                alias.hits += len(keys) - missed
            return values

        return self._looking(original, begin, end)

    def _looking(self, original: Any, begin: Callable[..., Any], end: Callable[..., Any]) -> Any:
        caches, again = self._caches, self._around(original)
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def look_async(cache: Any, *arguments: Any, **keywords: Any) -> Any:
                alias, outer = caches.get(id(cache)), _within.get()
                if outer is not None:
                    alias, second = _part_of(outer, alias, arguments, keywords)
                    if second:
                        return await again(cache, *arguments, **keywords)
                if alias is None:
                    return await original(cache, *arguments, **keywords)
                arguments, given = begin(arguments, keywords)
                _within.set(alias)
                try:
                    value = await original(cache, *arguments, **keywords)
                finally:
                    _within.set(outer)  # not a reset, which raises where a coroutine goes on in another context
                return end(alias, value, given)

            return look_async

        @functools.wraps(original)
        def look(cache: Any, *arguments: Any, **keywords: Any) -> Any:
            alias, outer = caches.get(id(cache)), _within.get()
            if outer is not None:
                alias, second = _part_of(outer, alias, arguments, keywords)
                if second:
                    return again(cache, *arguments, **keywords)
            if alias is None:
                return original(cache, *arguments, **keywords)
            arguments, given = begin(arguments, keywords)
            _within.set(alias)
            try:
                value = original(cache, *arguments, **keywords)
            finally:
                _within.set(outer)
            return end(alias, value, given)

        return look

    def _around(self, original: Any, within: Callable[..., Any] = lambda alias, _key: alias) -> Any:
        """Set what goes on while it runs."""
        caches = self._caches
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def around_async(cache: Any, *arguments: Any, **keywords: Any) -> Any:
                alias = caches.get(id(cache))
                if alias is None:
                    return await original(cache, *arguments, **keywords)
                outer = _within.get()
                _within.set(within(alias, _key(arguments, keywords)))
                try:
                    return await original(cache, *arguments, **keywords)
                finally:
                    _within.set(outer)

            return around_async

        @functools.wraps(original)
        def around(cache: Any, *arguments: Any, **keywords: Any) -> Any:
            alias = caches.get(id(cache))
            if alias is None:
                return original(cache, *arguments, **keywords)
            outer = _within.get()
            _within.set(within(alias, _key(arguments, keywords)))
            try:
                return original(cache, *arguments, **keywords)
            finally:
                _within.set(outer)

        return around

    def _culling(self, original: Any) -> Any:
        caches = self._caches

        @functools.wraps(original)
        def cull(cache: Any, *arguments: Any, **keywords: Any) -> Any:
            before = len(cache._cache)  # under the cache's own lock
            result = original(cache, *arguments, **keywords)
            alias = caches.get(id(cache))
            if alias is not None and alias.evictions is not None:
                alias.evictions += before - len(cache._cache)
            return result

        return cull


def _part_of(
    within: Alias | Once, alias: Alias | None, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Alias | None, bool]:
    """What to count a look-up for that happens within another, and whether it is the second one of ``get_or_set``."""
    if within is alias:
        return None, False
    try:
        if type(within) is Once and within.alias is alias and within.key == _key(arguments, keywords):
            done, within.done = within.done, True
            return alias, done
    except Exception:
        pass  # keys that cannot be compared are not the same
    return alias, False


def _key(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return arguments[0] if arguments else keywords.get("key")


def _fallback(function: Any) -> Any:
    """What ``get`` of a backend answers where no default is given; ``empty`` if it takes none in the usual place."""
    parameters = list(inspect.signature(function).parameters.values())
    if len(parameters) > 2 and parameters[2].name == "default":
        return parameters[2].default
    return inspect.Parameter.empty
