"""``@cached``: a function's results, kept within limits; concurrent misses of one key are computed once.

Usable where :func:`functools.lru_cache` was. What it adds: bytes and expiry as limits, methods that do not keep their
instances alive, coroutines, one computation for all that wait for it, and giving back under memory pressure.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from otel_perf.core.forks import on_fork
from otel_perf.core.guard import Guard
from otel_perf.core.threads import get_ident
from otel_perf.core.weak import alive
from otel_perf.memory.limited import Store
from otel_perf.memory.lookup import Cached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

F = TypeVar("F", bound="Callable[..., Any]")

PATIENCE: Final = 10.0  # seconds to wait for another thread's result; then compute it here, too
_MISSING: Final = object()
_ALONE: Final = object()
_guard = Guard("memory.caches")


@overload
def cached(function: F, /) -> F: ...
@overload
def cached(
    *,
    max_entries: int | None = ...,
    max_bytes: int | str | None = ...,
    ttl: float | str | None = ...,
    jitter: float = ...,
    typed: bool = ...,
    weigher: Callable[[Any, Any], int] | None = ...,
    on_evict: Callable[[Any, Any, str], object] | None = ...,
    name: str = ...,
    priority: int = ...,
    floor: int = ...,
) -> Callable[[F], F]: ...
def cached(  # noqa: PLR0913 - what users can set
    function: Any = None,
    /,
    *,
    max_entries: int | None = None,
    max_bytes: int | str | None = None,
    ttl: float | str | None = None,
    jitter: float = 0.1,
    typed: bool = False,
    weigher: Callable[[Any, Any], int] | None = None,
    on_evict: Callable[[Any, Any, str], object] | None = None,
    name: str = "",
    priority: int = 0,
    floor: int = 0,
) -> Any:
    """Keep what the function returns, by its arguments, which have to be hashable.

    Without a limit of entries or bytes, it keeps 1,024 entries. ``ttl`` is how long one lives (s, or ``"5m"``), less a
    random share of up to ``jitter``. The other options are those of :class:`~otel_perf.memory.caches.LRUCache`; entries
    that are used once go first (S3-FIFO). An exception is not kept. Threads, or tasks, that miss the same key at once
    wait for the first one's result or exception, threads for 10 s at most. A method's results go with its instance,
    which has to be weakly referable. For a coroutine function, its result is kept, not the coroutine.

    Adds ``cache_info()``, ``cache_clear()``, ``cache_invalidate(*args, **kwargs)`` and ``cache_parameters()``. A hit
    costs what ``functools.lru_cache``'s does where the look-up is compiled, and twelve times as much where it is not.
    Thread-safe, re-entrant, safe in forked children.
    """
    if function is not None and not callable(function):
        raise TypeError(
            f"@cached: {function!r} is not a function; its options are given by name: @cached(max_entries=…)"
        )
    if max_entries is None and max_bytes is None:
        max_entries = 1_024

    def decorate(function: Any) -> Any:
        if isinstance(function, staticmethod | classmethod):
            return type(function)(decorate(function.__func__))
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"@cached: {function!r} is a generator, which can be read once; cache a list instead")
        store = Store(
            name or f"{function.__module__}.{function.__qualname__}", max_entries=max_entries, max_bytes=max_bytes,
            ttl=ttl, jitter=jitter, weigher=weigher, on_evict=on_evict, policy="s3fifo", priority=priority, floor=floor,
        )  # fmt: skip
        kind = _Coroutines if inspect.iscoroutinefunction(function) else _Functions
        return kind(function, store, typed).made

    return decorate if function is None else decorate(function)


class _Token:
    """Stands for an instance in keys, and knows which keys those are, and some that were dropped."""

    __slots__ = ("keys", "most")

    def __init__(self) -> None:
        self.keys: set[Any] = set()
        self.most = 16

    def add(self, key: Any, entries: dict[Any, Any]) -> None:
        """Know one more; now and then forget those that were dropped."""
        if len(self.keys) >= self.most:
            self.keys = {known for known in list(self.keys) if known in entries}
            self.most = max(16, 2 * len(self.keys))
        self.keys.add(key)


class _Flight:
    """A result that a thread is computing."""

    __slots__ = ("done", "error", "thread", "value")

    def __init__(self) -> None:
        self.thread = get_ident()
        self.done = threading.Event()
        self.value: Any = _MISSING
        self.error: Exception | None = None


class _Functions:
    """The part of a cached function that is not a hit."""

    def __init__(self, function: Any, store: Store, typed: bool) -> None:
        self.function = function
        self.store = store
        self.flights: dict[Any, Any] = {}
        self.lookup = Cached(store.entries, self.miss, typed)
        self.lookup.method = _is_method(function)
        self.references: dict[int, Any] = {}  # of a method: by id() of an instance, as the look-up's tokens are
        self.gone: deque[_Token] = deque()  # of instances that are no more
        store.counted = self.lookup
        self.made = self.wrapper()
        functools.update_wrapper(self.made, function)
        self.made.cache_info = store.info
        self.made.cache_clear = self.clear
        self.made.cache_invalidate = self.invalidate
        self.made.cache_parameters = self.parameters
        _all.add(self)

    def wrapper(self) -> Any:
        """What the user calls."""
        return self.lookup

    def miss(self, key: Any, args: tuple[Any, ...], keywords: dict[str, Any] | None) -> Any:
        """Compute, or wait for the thread that is at it."""
        if key is None:
            self.adopt(args[0])
            return self.lookup(*args, **keywords or {})
        value, flight, own = self.begin(key, _Flight)
        if value is not _MISSING:
            return value
        if own is None:
            # A finaliser or a signal handler may ask for what its own thread is computing.
            if flight.thread != get_ident() and flight.done.wait(PATIENCE):
                if flight.error is not None:
                    raise flight.error
                if flight.value is not _MISSING:
                    return flight.value
            value = self.function(*args, **keywords or {})
            self.keep(key, value, args)
            return value
        try:
            own.value = self.function(*args, **keywords or {})
            self.keep(key, own.value, args)
            return own.value
        except Exception as error:
            own.error = error
            raise
        finally:
            self.end(key, own)
            own.done.set()

    def begin(self, key: Any, make: Callable[[], Any], *, again: bool = False) -> tuple[Any, Any, Any]:
        """A result that came meanwhile; or who computes ``key`` already; or what was made now to say so."""
        for _ in self.forget() if self.gone else ():
            pass
        store = self.store
        with store.lock:
            entry = store.find(key)
            if entry is not None:
                self.lookup.hits += not again
                return entry.value, None, None
            store.misses += not again
            flight = self.flights.get(key)
            if flight is None:
                made = self.flights[key] = make()
                return _MISSING, None, made
            return _MISSING, flight, None

    def end(self, key: Any, own: Any) -> None:
        """Nobody has to wait any more."""
        with self.store.lock:
            if self.flights.get(key) is own:
                del self.flights[key]

    def keep(self, key: Any, value: Any, args: tuple[Any, ...]) -> None:
        """Store a result. A weigher that fails is logged: the caller gets its result all the same."""
        if self.lookup.method:
            token = self.lookup.tokens.get(id(args[0]))
            if token is None:
                return
            token.add(key, self.store.entries)
        with _guard:
            self.store.put(key, value)

    # --- methods ------------------------------------------------------------------------------------

    def adopt(self, instance: Any) -> None:
        """Let a token stand for ``instance`` in keys, until it is gone."""
        number = id(instance)

        def gone(reference: Any) -> None:
            # This runs wherever an instance goes, perhaps under the cache's lock, perhaps in another thread: the
            # token has to go at once, since the number may be another instance's next.
            if self.references.get(number) is reference:
                self.gone.append(self.lookup.tokens.pop(number))
                del self.references[number]

        try:
            reference = weakref.ref(instance, gone)
        except TypeError:
            raise TypeError(
                f"@cached: a {type(instance).__name__} cannot be referred to weakly; add '__weakref__' to its __slots__"
            ) from None
        with self.store.lock:
            if number not in self.lookup.tokens:
                self.references[number] = reference
                self.lookup.tokens[number] = _Token()

    def forget(self) -> Iterator[int]:
        """Drop the results of instances that are no more, one at a time; 1 for each."""
        while self.gone:
            try:
                token = self.gone.popleft()
            except IndexError:
                return
            try:
                while token.keys:
                    self.store.remove(token.keys.pop())
                    yield 1
            finally:
                if token.keys:
                    self.gone.append(token)

    # --- for users ----------------------------------------------------------------------------------

    def clear(self) -> None:
        """Drop all results, and begin to count anew."""
        self.store.clear()
        self.lookup.hits = self.store.misses = self.store.evictions = self.store.expirations = 0

    def invalidate(self, *args: Any, **keywords: Any) -> bool:
        """Drop the result for these arguments, of a method with its instance; whether there was one."""
        key = self.lookup.key(*args, **keywords)
        return key is not None and self.store.remove(key) is not None

    def parameters(self) -> dict[str, Any]:
        """The options."""
        store = self.store
        return {
            "maxsize": store.max_entries, "typed": self.lookup.typed, "max_bytes": store.max_bytes, "ttl": store.ttl,
        }  # fmt: skip


class _Missed:
    """What a look-up gives for a coroutine that has to be awaited."""

    __slots__ = ("args", "key", "keywords")

    def __init__(self, key: Any, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.key = key
        self.args = args
        self.keywords = keywords


class _Task:
    """A result that a task is computing. Used by tasks of one loop only."""

    __slots__ = ("loop", "task", "timer", "waiting")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.current_task()
        self.waiting: list[asyncio.Future[Any]] = []
        self.timer: asyncio.TimerHandle | None = None  # one for all who wait

    async def result(self) -> Any:
        """The result, or its exception; ``_MISSING`` if there will be none, ``_ALONE`` if it is no use to wait."""
        if self.loop is not asyncio.get_running_loop() or self.task is asyncio.current_task():
            return _ALONE
        if self.timer is None:
            self.timer = self.loop.call_later(PATIENCE, self.end, _ALONE)
        # A future for each: a cancelled task cancels what it waits for.
        future = self.loop.create_future()
        self.waiting.append(future)
        return await future

    def end(self, value: Any, error: Exception | None = None) -> None:
        """Let all go on who wait."""
        if self.timer is not None:
            self.timer.cancel()
        waiting, self.waiting, self.timer = self.waiting, [], None
        for future in waiting:
            if future.done():
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
                future.exception()  # who waited may be cancelled before it sees it


class _Coroutines(_Functions):
    """The same for a coroutine function."""

    def wrapper(self) -> Any:
        lookup, compute = self.lookup, self.compute

        async def cached(*args: Any, **keywords: Any) -> Any:
            found = lookup(*args, **keywords)
            return await compute(found) if type(found) is _Missed else found

        return cached

    def miss(self, key: Any, args: tuple[Any, ...], keywords: dict[str, Any] | None) -> Any:
        if key is None:
            self.adopt(args[0])
            return self.lookup(*args, **keywords or {})
        return _Missed(key, args, keywords or {})

    async def compute(self, missed: _Missed) -> Any:
        """Compute, or wait for the task that is at it."""
        key = missed.key
        value, flight, own = self.begin(key, _Task)
        while flight is not None:
            value = await flight.result()
            if value is _ALONE:
                value = await self.function(*missed.args, **missed.keywords)
                self.keep(key, value, missed.args)
                return value
            if value is not _MISSING:
                return value
            value, flight, own = self.begin(key, _Task, again=True)  # it was cancelled: the first in line is next
        if own is None:
            return value
        value, failed = _MISSING, None
        try:
            value = await self.function(*missed.args, **missed.keywords)
            self.keep(key, value, missed.args)
            return value
        except Exception as error:
            failed = error
            raise
        finally:
            self.end(key, own)
            own.end(value, failed)


def _is_method(function: Any) -> bool:
    """Whether it is defined in a class and its first parameter is called ``self``."""
    place = getattr(function, "__qualname__", "").rpartition(".")[0]
    code = getattr(inspect.unwrap(function), "__code__", None)
    return bool(place) and not place.endswith("<locals>") and code is not None and code.co_varnames[:1] == ("self",)


def forget() -> Iterator[int]:
    """Drop the results of instances that are no more, of all methods; 1 for each."""
    for functions in alive(_all):
        yield from functions.forget()


_all: weakref.WeakSet[_Functions] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    own = get_ident()
    for functions in alive(_all):
        # Other threads are not there to finish; a task of this one may go on.
        functions.flights = {
            key: flight for key, flight in list(functions.flights.items()) if getattr(flight, "thread", own) == own
        }


on_fork(child=_after_fork_in_child)
