"""Measures functions that nobody decorated: as modules are imported, and in those that were imported before.

Properties, dunder methods, lambdas and functions of C are left alone, and so is what a module only imported. Nothing is
asked of the objects that a module holds but what certainly has no effect: some of them wake up when they are asked. A
function whose measuring costs more than ``SHARE`` of a core for ``PERIOD`` seconds is stepped down to counting, and
told.
"""

from __future__ import annotations

import logging
import time
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet

from otel_perf.calls.decorators import MARK, code_of, wrap
from otel_perf.calls.function import FUNCTIONS
from otel_perf.calls.imports import Imports, modules, namespace_of
from otel_perf.calls.inplace import is_ours, measured_code
from otel_perf.calls.keys import OVERFLOW
from otel_perf.calls.patterns import Patterns
from otel_perf.core.events import FEATURE_CHANGED
from otel_perf.core.forks import on_fork
from otel_perf.core.threads import allocate_lock, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import ExitStack

    from otel_perf.calls.counts import Counts
    from otel_perf.calls.function import Function
    from otel_perf.core.feature import Host

SHARE: Final = 0.05  # of a core
PERIOD: Final = 10.0  # seconds
# What the distribution itself runs on: measured, it would measure itself.
_NEVER: Final = ("otel_perf", "opentelemetry")
_SAMPLE: Final = 2_000  # calls that show what measuring one costs here
# Of a class, without asking its metaclass.
_members_of: Final[Callable[[type], Mapping[str, Any]]] = vars(type)["__dict__"].__get__
_name_of: Final[Callable[[type], str]] = vars(type)["__qualname__"].__get__


class _Seen:
    """The watched functions that are counted together, and their calls at the last look."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.calls = counts.count
        self.functions: WeakSet[Function] = WeakSet()  # a reloaded module's old ones go


class Watch:
    """The functions that match, measured in place. Thread-safe: modules are imported under Python's own locks."""

    def __init__(self, patterns: Patterns, host: Host) -> None:
        self._patterns = patterns
        self._host = host
        # The code that each function had, and has now; of functions that are still there.
        self._codes: WeakKeyDictionary[FunctionType, tuple[CodeType, CodeType]] = WeakKeyDictionary()
        self._seen: dict[str, _Seen] = {}

    def is_for_module(self, name: str) -> bool:
        """Whether the module may hold functions to watch."""
        return name.partition(".")[0] not in _NEVER and self._patterns.is_for_module(name)

    # --- measuring ---------------------------------------------------------------------------------

    def watch_imported(self) -> None:
        """Measure what matches in the modules that are there."""
        for module in modules():
            name = namespace_of(module).get("__name__")
            if isinstance(name, str) and self.is_for_module(name):
                with self._host.guard("calls"):
                    self.watch(module)

    def watch(self, module: ModuleType) -> None:
        """Measure what matches in ``module``."""
        name = namespace_of(module).get("__name__")
        if not isinstance(name, str):
            return
        for function in _functions_of(module, name):
            if function not in self._codes and self._is_for(name, function):
                with self._host.guard("calls"):
                    self._measure(name, function)

    def _is_for(self, module: str, function: FunctionType) -> bool:
        short = function.__name__
        if hasattr(function, MARK) or (short.startswith("__") and short.endswith("__")) or short == "<lambda>":
            return False
        return function.__module__ == module and self._patterns.is_for(module, function.__qualname__)

    def _measure(self, module: str, target: FunctionType) -> None:
        function = FUNCTIONS.add(f"{module}.{target.__qualname__}", "auto", code_of(target))
        seen = self._seen.setdefault(function.counts.name, _Seen(function.counts))
        seen.functions.add(function)
        before, code = target.__code__, measured_code(target, function)
        self._codes[target] = before, code
        target.__code__ = code

    def undo(self) -> None:
        """Give every function its code back."""
        for reference in self._codes.keyrefs():
            target = reference()
            if target is not None:
                before, code = self._codes[target]
                if target.__code__ is code:  # else somebody has put something else there
                    target.__code__ = before
        self._codes.clear()
        self._seen.clear()

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


def _functions_of(module: ModuleType, name: str) -> Iterator[FunctionType]:
    """The functions of ``module`` and the public methods of its classes."""
    for value in tuple(namespace_of(module).values()):
        if type(value) is FunctionType:
            yield value
        elif _is_class_of(name, value):
            yield from _methods_of(name, value)


def _methods_of(module: str, cls: type) -> Iterator[FunctionType]:
    for key, member in tuple(_members_of(cls).items()):
        if key.startswith("_"):
            continue
        kind = type(member)
        found = member.__func__ if kind is staticmethod or kind is classmethod else member
        if type(found) is FunctionType:
            yield found
        elif _is_class_of(module, member) and _name_of(member) == f"{_name_of(cls)}.{key}":
            yield from _methods_of(module, member)


def _is_class_of(module: str, value: Any) -> bool:
    return issubclass(type(value), type) and _members_of(value).get("__module__") == module


def install(text: str, host: Host, undo: ExitStack) -> None:
    """Watch what ``text`` names, now and from now on."""
    patterns = Patterns(text)
    for problem in patterns.problems:
        host.problem(f"otel-perf: {problem}")
    if not patterns:
        return
    watch = Watch(patterns, host)
    undo.callback(watch.undo)
    _hide_from_logging(undo)
    undo.callback(Imports(watch.is_for_module, watch.watch, lambda: host.guard("calls")).begin())
    watch.watch_imported()
    _look_out(watch, host, undo)


def _hide_from_logging(undo: ExitStack) -> None:
    """Let ``stacklevel`` of a log call count the program's frames only."""
    internal = getattr(logging, "_is_internal_frame", None)
    if internal is None:  # not in every Python
        return

    def is_internal_frame(frame: FrameType) -> bool:
        return is_ours(frame) or internal(frame)

    def leave() -> None:
        if logging._is_internal_frame is is_internal_frame:  # type: ignore[attr-defined]
            logging._is_internal_frame = internal  # type: ignore[attr-defined]

    logging._is_internal_frame = is_internal_frame  # type: ignore[attr-defined]
    undo.callback(leave)


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
