"""One instance of each kind in a process: made once, closed once, in the reverse order.

A registry by key, not a metaclass: what is shared is an ordinary object that tests can replace.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import inspect
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from otel_perf.core.events import Event
from otel_perf.core.forks import on_fork
from otel_perf.core.records import entity
from otel_perf.core.threads import get_ident
from otel_perf.core.weak import alive
from otel_perf.memory.either import awaited, called, method, raise_all, run, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

T = TypeVar("T")
Closer = Callable[[Any], Any]
Runner = Callable[[Awaitable[Any]], tuple[Any, Exception | None]]  # of what a coroutine function gave
_NONE: Final = object()

closed: list[Callable[[str, float, BaseException | None], None]] = []
"""Called with the name, the seconds that it took, and what was raised, when an instance was closed."""
CLOSED: Final = Event(
    "perf.singleton.closed", "A singleton was closed: its name, how long that took, and what it raised"
)


@entity
class _Kind:
    """What was registered."""

    key: Any
    factory: Callable[[], Any]
    close: Closer | None
    ping: Callable[[Any], Any] | None
    weak: bool
    value: Any = _NONE  # or a weak reference to it

    @property
    def name(self) -> str:
        return getattr(self.key, "__qualname__", None) or str(self.key)

    def found(self) -> Any:
        """The instance, or ``_NONE``."""
        value = self.value
        if self.weak and value is not _NONE:
            instance = value()
            return _NONE if instance is None else instance
        return value


class _Making:
    """An instance that is being made, and by whom."""

    __slots__ = ("future", "loop", "maker")

    def __init__(self, maker: Any, loop: Any) -> None:
        self.maker = maker
        self.loop = loop
        self.future: Future[Any] = Future()

    def give_up(self) -> None:
        """Whoever waits may try."""
        self.future.cancel()
        self.future.set_running_or_notify_cancel()


class Singletons:
    """A registry. Thread-safe, for tasks of any loop, and for forked children, which make instances of their own.

    ``get`` of an instance that is there costs 0.2 µs and takes no lock. Factories run outside of the lock.
    """

    def __init__(self) -> None:
        self._kinds: dict[Any, _Kind] = {}
        self._order: list[_Kind] = []  # as they were made
        self._making: dict[Any, _Making] = {}
        self._waiting: dict[Any, _Making] = {}  # by who waits
        self._lock = threading.RLock()
        self._at_exit = False
        _all.add(self)

    def register(
        self,
        key: Any,
        factory: Callable[[], Any] | None = None,
        *,
        close: Closer | str | None = None,
        ping: Callable[[Any], Any] | str | None = None,
        weak: bool = False,
    ) -> None:
        """Say how the instance for ``key`` (a class, or any hashable) is made: by ``factory``, else by the class.

        ``close`` and ``ping`` are called with the instance, or are the names of its methods; each may be a coroutine
        function, as may be the factory. ``ping`` returns false or raises when the instance is not well. With ``weak``
        it is only kept as long as somebody else holds it. Raises ``ValueError`` for a key that is registered.
        """
        if factory is None and not callable(key):
            raise ValueError(f"singleton {key!r} needs factory=, since it is not a class")
        kind = _Kind(key, factory or key, method(close), method(ping), weak)
        with self._lock:
            if key in self._kinds:
                raise ValueError(f"singleton {kind.name} is registered already; to replace it in a test: override()")
            self._kinds[key] = kind

    def unregister(self, key: Any) -> None:
        """Forget how it is made; an instance that is there is closed."""
        self.close(key)
        with self._lock:
            self._kinds.pop(key, None)

    # --- getting ------------------------------------------------------------------------------------

    @overload
    def get(self, key: type[T]) -> T: ...
    @overload
    def get(self, key: Any) -> Any: ...
    def get(self, key: Any) -> Any:
        """The instance; made now if there is none. Raises what the factory raises; the next call tries again.

        Raises ``LookupError`` for an unknown key, and ``RuntimeError`` where waiting would never end: singletons that
        need each other, or one whose factory is a coroutine function (use ``aget``).
        """
        kind = self._kinds.get(key)
        if kind is not None and (found := kind.found()) is not _NONE:
            return found
        kind = self._known(key)
        if inspect.iscoroutinefunction(kind.factory):
            raise RuntimeError(f"singleton {kind.name} is made by a coroutine function; use: await singletons.aget(…)")
        loop = asyncio._get_running_loop()
        while True:
            making, mine = self._begin(kind, loop)
            if making is None:
                if (found := kind.found()) is not _NONE:
                    return found
                continue
            if mine:
                return self._make(kind, making, kind.factory)
            if loop is not None and making.loop is loop and making.maker != _who(loop):
                raise RuntimeError(
                    f"a task of this loop is making singleton {kind.name}; use: await singletons.aget(…)"
                )
            with self._waits(kind, making, loop), contextlib.suppress(CancelledError):
                return making.future.result()

    @overload
    async def aget(self, key: type[T]) -> T: ...
    @overload
    async def aget(self, key: Any) -> Any: ...
    async def aget(self, key: Any) -> Any:
        """As :meth:`get`, for any factory; who waits for another task's or thread's factory lets the loop go on."""
        kind = self._known(key)
        while True:
            found = kind.found()
            if found is not _NONE:
                return found
            loop = asyncio.get_running_loop()
            making, mine = self._begin(kind, loop)
            if making is None:
                continue
            if mine:
                break
            with self._waits(kind, making, loop):
                await asyncio.wait((asyncio.wrap_future(making.future),))
                if not making.future.cancelled():
                    return making.future.result()
        if not inspect.iscoroutinefunction(kind.factory):
            return self._make(kind, making, kind.factory)
        try:
            value = await kind.factory()
        except Exception as error:
            self._end(kind, making)
            making.future.set_exception(error)
            raise
        except BaseException:  # cancelled: another one may try
            self._end(kind, making)
            making.give_up()
            raise
        return self._make(kind, making, lambda: value)

    def _known(self, key: Any) -> _Kind:
        kind = self._kinds.get(key)
        if kind is None:
            name = getattr(key, "__qualname__", None) or repr(key)
            raise LookupError(f"singleton {name} is not registered; call singletons.register({name}, …) first")
        return kind

    def _begin(self, kind: _Kind, loop: Any) -> tuple[_Making | None, bool]:
        """Who is making it, and whether it is who asks; nobody if it is there."""
        mine = _Making(_who(loop), loop)  # first: what the garbage collector calls may make it
        with self._lock:
            if kind.found() is not _NONE:
                return None, False
            making = self._making.setdefault(kind.key, mine)
            if making is mine and kind.found() is not _NONE:  # what compares keys has made it
                del self._making[kind.key]
                return None, False
            return making, making is mine

    def _make(self, kind: _Kind, making: _Making, factory: Callable[[], Any]) -> Any:
        try:
            value = factory()
            with self._lock:
                kind.value = weakref.ref(value) if kind.weak else value
                if kind in self._order:
                    self._order.remove(kind)
                self._order.append(kind)
                if not self._at_exit:
                    self._at_exit = True
                    atexit.register(self._exit)
        except Exception as error:
            self._end(kind, making)
            making.future.set_exception(error)
            raise
        except BaseException:  # Ctrl-C is meant for this thread
            self._end(kind, making)
            making.give_up()
            raise
        self._end(kind, making)
        making.future.set_result(value)
        return value

    def _end(self, kind: _Kind, making: _Making) -> None:
        with self._lock:
            if self._making.get(kind.key) is making:
                del self._making[kind.key]

    @contextlib.contextmanager
    def _waits(self, kind: _Kind, making: _Making, loop: Any) -> Iterator[None]:
        """Wait for ``making``, unless who makes it waits for who asks, over however many others."""
        who = _who(loop)
        with self._lock:
            names, other = [kind.name], making
            while other.maker != who:
                following = self._waiting.get(other.maker)
                if following is None:
                    break
                other = following
                names += [made.name for made in self._kinds.values() if self._making.get(made.key) is other]
            else:
                raise RuntimeError(f"singletons need each other: {' → '.join([*names, kind.name])}")
            self._waiting[who] = making
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(who, None)

    # --- closing ------------------------------------------------------------------------------------

    def close(self, key: Any = None) -> None:
        """Close the instance for ``key``, or all, the last made first; each once, whoever else closes.

        What one raises does not keep the others open: all of it comes as an ``ExceptionGroup``. A coroutine function
        is run to its end, which needs a thread without a running loop. The next ``get`` makes a new instance.
        """
        errors: list[Exception] = []
        for kind, value in self._taken(key):
            began = time.monotonic()
            result, error = called(kind.close, value)
            self._told(kind, began, run(result)[1] if inspect.isawaitable(result) else error, errors)
        raise_all("singletons could not be closed", errors)

    async def aclose(self, key: Any = None) -> None:
        """As :meth:`close`, in a running loop."""
        errors: list[Exception] = []
        for kind, value in self._taken(key):
            began = time.monotonic()
            result, error = called(kind.close, value)
            self._told(kind, began, (await awaited(result))[1] if inspect.isawaitable(result) else error, errors)
        raise_all("singletons could not be closed", errors)

    def _taken(self, key: Any) -> Iterator[tuple[_Kind, Any]]:
        """Take the instances out, one by one; none of a kind that was closed already and made again meanwhile."""
        done: list[_Kind] = []
        while True:
            with self._lock:
                left = [kind for kind in self._order if (key is None or kind.key == key) and kind not in done]
                if not left:
                    return
                kind, value = left[-1], _NONE
                done.append(kind)
                with contextlib.suppress(ValueError):  # a signal handler, or a finaliser, was quicker
                    self._order.remove(kind)
                    value, kind.value = kind.found(), _NONE
            if value is not _NONE:
                yield kind, value

    def _told(self, kind: _Kind, began: float, error: Exception | None, errors: list[Exception]) -> None:
        if kind.close is None:
            return
        if error is not None:
            error.add_note(f"when singleton {kind.name} was closed")
            errors.append(error)
        for tell in tuple(closed):
            with contextlib.suppress(Exception):
                tell(kind.name, time.monotonic() - began, error)

    def _exit(self) -> None:
        left = [kind.name for kind in self._order if kind.close is not None and kind.found() is not _NONE]
        if left:
            warnings.warn(
                f"singletons were never closed: {', '.join(left)}; call singletons.close() when the program ends",
                ResourceWarning,
                stacklevel=1,
            )
            with contextlib.suppress(Exception):
                self.close()

    # --- health, tests, forks -----------------------------------------------------------------------

    def ping(self, *, run: Runner = run) -> dict[str, Exception | None]:
        """What is wrong with each instance that is there and has a ``ping``, by name; ``None`` if it is well."""
        found = {}
        for kind, value in self._pinged():
            result, error = called(kind.ping, value)
            answer = run(result) if inspect.isawaitable(result) else (result, error)
            found[kind.name] = verdict(kind.name, *answer)
        return found

    async def aping(self) -> dict[str, Exception | None]:
        """As :meth:`ping`, in a running loop."""
        found = {}
        for kind, value in self._pinged():
            result, error = called(kind.ping, value)
            answer = await awaited(result) if inspect.isawaitable(result) else (result, error)
            found[kind.name] = verdict(kind.name, *answer)
        return found

    def _pinged(self) -> list[tuple[_Kind, Any]]:
        with self._lock:
            there = [(kind, kind.found()) for kind in self._order if kind.ping is not None]
        return [(kind, value) for kind, value in there if value is not _NONE]

    @contextlib.contextmanager
    def override(self, key: Any, value: T) -> Iterator[T]:
        """For a test: ``value`` is the instance within the block. Nothing is made or closed."""
        with self._lock:
            kind = self._kinds.get(key)
            if kind is None:
                kind = self._kinds[key] = _Kind(key, lambda: value, None, None, weak=False)
                before: Any = None
            else:
                before = kind.value, kind.weak
            kind.value, kind.weak = value, False
        try:
            yield value
        finally:
            with self._lock:
                if before is None:
                    self._kinds.pop(key, None)
                else:
                    kind.value, kind.weak = before

    def __contains__(self, key: object) -> bool:
        kind = self._kinds.get(key)
        return kind is not None and kind.found() is not _NONE

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()
        own = get_ident()
        self._making = {key: making for key, making in self._making.items() if making.maker == own}
        self._waiting = {}
        self._order = []
        for kind in self._kinds.values():
            kind.value = _NONE  # a connection is the parent's


def _who(loop: Any) -> Any:
    """Who asks: a task, or a thread."""
    return get_ident() if loop is None else asyncio.current_task() or get_ident()


_all: weakref.WeakSet[Singletons] = weakref.WeakSet()


def _child() -> None:
    for registry in alive(_all):
        registry._after_fork_in_child()


on_fork(child=_child)
singletons: Final = Singletons()
"""The registry of the process."""
