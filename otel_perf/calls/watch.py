"""Measures functions that nobody decorated: as modules are imported, and in those that were imported before.

Properties, dunder methods and functions of C are left alone, and so is what a module only imported. Nothing is asked
of the objects that a module holds but what is certain to have no effect: some of them wake up when they are asked. A
function whose measuring costs more than ``SHARE`` of a core for ``PERIOD`` seconds is stepped down to counting, and
told.
"""

from __future__ import annotations

import time
from contextlib import suppress
from inspect import CO_ITERABLE_COROUTINE
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet, ref

from otel_perf.calls.decorators import MARK, code_of, wrap
from otel_perf.calls.function import FUNCTIONS, OVERFLOW
from otel_perf.calls.imports import Imports, modules, namespace_of
from otel_perf.calls.patterns import Patterns
from otel_perf.core.events import FEATURE_CHANGED
from otel_perf.core.forks import on_fork
from otel_perf.core.threads import allocate_lock, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import ExitStack

    from otel_perf.calls.counts import Counts
    from otel_perf.calls.function import Function
    from otel_perf.core.feature import Host

    # The functions of one module and their wrappers, by the function's id.
    Replaced = dict[int, tuple[FunctionType, FunctionType]]

SHARE: Final = 0.05  # of a core
PERIOD: Final = 10.0  # seconds
# What the distribution itself runs on: measured, it would measure itself.
_NEVER: Final = ("otel_perf", "opentelemetry")
_SAMPLE: Final = 2_000  # calls that show what measuring one costs here
_members_of: Final[Callable[[type], Mapping[str, Any]]] = vars(type)["__dict__"].__get__


class _Seen:
    """The watched functions that are counted together, and their calls at the last look."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.calls = counts.count
        self.functions: WeakSet[Function] = WeakSet()  # a reloaded module's old ones go


class Watch:
    """The functions that match, wrapped in place. Thread-safe: modules are imported under Python's own locks."""

    def __init__(self, patterns: Patterns, host: Host) -> None:
        self._patterns = patterns
        self._host = host
        self._classes: dict[int, ref[type]] = {}  # not a WeakSet: a metaclass may make its classes equal
        self._wrappers: WeakSet[FunctionType] = WeakSet()
        self._seen: dict[str, _Seen] = {}

    def is_for_module(self, name: str) -> bool:
        """Whether the module may hold functions to watch."""
        return name.partition(".")[0] not in _NEVER and self._patterns.is_for_module(name)

    # --- wrapping ----------------------------------------------------------------------------------

    def watch_imported(self) -> None:
        """Wrap what matches in the modules that are there, and where these functions were imported to."""
        replaced: Replaced = {}
        found = list(modules().values())
        for module in found:
            name = namespace_of(module).get("__name__")
            if isinstance(name, str) and self.is_for_module(name):
                with self._host.guard("calls"):
                    replaced.update(self.watch(module))
        self._replace_in(found, replaced)

    def ran(self, module: ModuleType, imported: list[ModuleType]) -> None:
        """Wrap what matches in ``module``, and where its functions went while it ran: imports may be circular."""
        self._replace_in(imported, self.watch(module))

    def watch(self, module: ModuleType) -> Replaced:
        """Wrap what matches in ``module``."""
        replaced: Replaced = {}
        namespace = namespace_of(module)
        name = namespace.get("__name__")
        if not isinstance(name, str):
            return replaced
        for key, value in tuple(namespace.items()):
            if type(value) is FunctionType:
                wrapper = self._wrapped(name, value, replaced)
                if wrapper is not None:
                    namespace[key] = wrapper
            elif issubclass(type(value), type) and _members_of(value).get("__module__") == name:
                self._watch_class(name, value, replaced)
        return replaced

    def _watch_class(self, module: str, cls: type, replaced: Replaced) -> None:
        for key, value in tuple(_members_of(cls).items()):
            kind = type(value)
            function = value.__func__ if kind is staticmethod or kind is classmethod else value
            if key.startswith("_") or type(function) is not FunctionType:
                continue
            wrapper: Any = self._wrapped(module, function, replaced)
            if wrapper is None:
                continue
            if function is not value:
                wrapper = kind(wrapper)
            with suppress(TypeError):  # nothing can be set on a class of C
                type.__setattr__(cls, key, wrapper)
                self._remember(cls)

    def _remember(self, cls: type) -> None:
        key = id(cls)

        def forget(_: object) -> None:
            self._classes.pop(key, None)

        self._classes[key] = ref(cls, forget)

    def _wrapped(self, module: str, function: FunctionType, replaced: Replaced) -> FunctionType | None:
        if id(function) in replaced:  # one function under two names stays one
            return replaced[id(function)][1]
        name, short = function.__qualname__, function.__name__
        if hasattr(function, MARK) or (short.startswith("__") and short.endswith("__")) or short == "<lambda>":
            return None
        if function.__module__ != module or not self._patterns.is_for(module, name):
            return None
        if function.__code__.co_flags & CO_ITERABLE_COROUTINE:  # types.coroutine's mark is lost on a wrapper
            return None
        watched = FUNCTIONS.add(f"{module}.{name}", "auto", code_of(function))
        seen = self._seen.setdefault(watched.counts.name, _Seen(watched.counts))
        seen.functions.add(watched)
        wrapper: FunctionType = wrap(function, watched)
        self._wrappers.add(wrapper)
        replaced[id(function)] = (function, wrapper)
        return wrapper

    def _replace_in(self, found: Iterable[ModuleType], replaced: Replaced) -> None:
        if not replaced:
            return
        for module in found:
            with self._host.guard("calls"):
                namespace = namespace_of(module)
                for key, value in tuple(namespace.items()):
                    if id(value) in replaced and replaced[id(value)][0] is value:
                        namespace[key] = replaced[id(value)][1]

    def undo(self) -> None:
        """Put back what is still ours."""
        for module in modules().values():
            namespace = namespace_of(module)
            for key, value in tuple(namespace.items()):
                if self._is_ours(value):
                    namespace[key] = value.__wrapped__
        for reference in tuple(self._classes.values()):
            cls = reference()
            for key, value in tuple(_members_of(cls).items()) if cls is not None else ():
                kind = type(value)
                if self._is_ours(value):
                    type.__setattr__(cls, key, value.__wrapped__)
                elif (kind is staticmethod or kind is classmethod) and self._is_ours(value.__func__):
                    type.__setattr__(cls, key, kind(value.__func__.__wrapped__))
        self._classes.clear()
        self._seen.clear()

    def _is_ours(self, value: Any) -> bool:
        return type(value) is FunctionType and value in self._wrappers

    # --- too hot -----------------------------------------------------------------------------------

    def look(self, elapsed: float, cost: float) -> None:
        """Step down the functions whose measuring, at ``cost`` s a call, used too much of ``elapsed`` s."""
        for name, seen in tuple(self._seen.items()):
            calls = seen.counts.count - seen.calls
            seen.calls = seen.counts.count
            share = calls * cost / elapsed
            timed = [function for function in tuple(seen.functions) if not function.counting]
            if share > SHARE and timed:
                for function in timed:
                    FUNCTIONS.step_down(function)
                self._tell(name, calls / elapsed, share)

    def _tell(self, name: str, rate: float, share: float) -> None:
        what: dict[str, Any] = {"code.function.name": name}
        who, their = f"{name} was", "its"
        if name == OVERFLOW:
            what = {OVERFLOW: True}
            who, their = "the watched functions beyond OTEL_PERF_CALLS_FUNCTIONS were", "their"
        line = (
            f"{who} called {rate:,.0f} times a second: measuring that cost {share:.0%} of a core;"
            f" from now on {their} calls are only counted"
        )
        attributes = {"perf.feature": "calls", "perf.feature.state": "stepped down", **what}
        self._host.event(FEATURE_CHANGED, attributes, body=line)
        self._host.problem(f"otel-perf: {line}")


def install(text: str, host: Host, undo: ExitStack) -> None:
    """Watch what ``text`` names, now and from now on."""
    patterns = Patterns(text)
    for problem in patterns.problems:
        host.problem(f"otel-perf: {problem}")
    if not patterns:
        return
    watch = Watch(patterns, host)
    undo.callback(watch.undo)
    undo.callback(Imports(watch.is_for_module, watch.ran, lambda: host.guard("calls")).begin())
    watch.watch_imported()
    _look_out(watch, host, undo)


def _look_out(watch: Watch, host: Host, undo: ExitStack) -> None:
    """Look every ``PERIOD`` seconds, in a thread that no program meets among its own."""

    def look(stop: Any) -> None:
        began, cost = time.monotonic(), 0.0
        while not stop.acquire(timeout=PERIOD):
            with host.guard("calls"):
                cost = cost or cost_of_a_call()
                now = time.monotonic()
                watch.look(now - began, cost)
                began = now

    stop: Any = None

    def begin() -> None:
        nonlocal stop
        stop = allocate_lock()
        stop.acquire()
        start_new_thread(look, (stop,))

    def end() -> None:
        stop.release()

    begin()
    undo.callback(end)
    undo.callback(on_fork(child=begin))


def cost_of_a_call() -> float:
    """CPU seconds that measuring one call costs on this machine."""
    from otel_perf.calls.counts import Counts
    from otel_perf.calls.function import Function

    def nothing() -> None:
        pass

    function = Function("", Counts(""), "auto", {})
    function.on = True
    measured = wrap(nothing, function)

    def time_of(call: Callable[[], None]) -> float:
        began = time.thread_time()
        for _ in range(_SAMPLE):
            call()
        return (time.thread_time() - began) / _SAMPLE

    return max(1e-7, time_of(measured) - time_of(nothing))
