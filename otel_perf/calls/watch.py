"""Measures functions that nobody decorated: as modules are imported, and in those that were imported before.

Properties, dunder methods and functions of C are left alone, and so is what a module only imported. A function whose
measuring costs more than ``SHARE`` of a core for ``PERIOD`` seconds is stepped down to counting, and told.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from otel_perf.calls.decorators import MARK, code_of, public_methods, wrap
from otel_perf.calls.function import FUNCTIONS
from otel_perf.calls.patterns import Patterns
from otel_perf.core.events import FEATURE_CHANGED
from otel_perf.core.forks import on_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from importlib.machinery import ModuleSpec

    from otel_perf.calls.function import Function
    from otel_perf.core.feature import Host

SHARE: Final = 0.05  # of a core
PERIOD: Final = 10.0  # seconds
# What the distribution itself runs on: measured, it would measure itself.
_NEVER: Final = ("otel_perf", "opentelemetry")
_SAMPLE: Final = 2_000  # calls that show what measuring one costs here


class Watch:
    """The functions that match, wrapped in place. Thread-safe: modules are imported under Python's own locks."""

    def __init__(self, patterns: Patterns, host: Host) -> None:
        self._patterns = patterns
        self._host = host
        self._finding = threading.local()
        self._undo: list[Callable[[], None]] = []
        self._watched: dict[str, tuple[Function, int]] = {}  # name → function, and its calls at the last look

    # --- finding modules ---------------------------------------------------------------------------

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Let the others find the module, and look at it once it has run."""
        if getattr(self._finding, "name", None) == name or not self._is_for_module(name):
            return None
        self._finding.name = name
        try:
            spec = self._find(name, path, target)
        finally:
            self._finding.name = None
        loader = None if spec is None else spec.loader
        execute = getattr(loader, "exec_module", None)
        if loader is not None and execute is not None and not isinstance(loader, type):

            def exec_module(module: ModuleType) -> None:
                with suppress(AttributeError):
                    del loader.exec_module  # the loader is as it was
                execute(module)
                with self._host.guard("calls"):
                    self.watch(module)

            with suppress(AttributeError, TypeError):
                loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def _find(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in tuple(sys.meta_path):
            if finder is not self:
                find = getattr(finder, "find_spec", None)
                spec: ModuleSpec | None = None if find is None else find(name, path, target)
                if spec is not None:
                    return spec
        return None

    def _is_for_module(self, name: str) -> bool:
        return name.partition(".")[0] not in _NEVER and self._patterns.is_for_module(name)

    # --- wrapping ----------------------------------------------------------------------------------

    def watch_imported(self) -> None:
        """Wrap what matches in the modules that are there, and where these functions were imported to."""
        replaced: dict[int, tuple[Any, Any]] = {}
        modules = [module for module in tuple(sys.modules.values()) if isinstance(module, ModuleType)]
        for module in modules:
            if self._is_for_module(module.__name__):
                replaced.update(self.watch(module))
        if not replaced:
            return
        for module in modules:
            for key, value in tuple(vars(module).items()):
                if id(value) in replaced and replaced[id(value)][0] is value:
                    self._replace(module, key, value, replaced[id(value)][1])

    def watch(self, module: ModuleType) -> dict[int, tuple[Any, Any]]:
        """Wrap what matches in ``module``; returns functions and their wrappers, by the function's id."""
        replaced: dict[int, tuple[Any, Any]] = {}
        for key, value in tuple(vars(module).items()):
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if isinstance(value, FunctionType):
                wrapper = self._wrapped(module, value)
                if wrapper is not None:
                    self._replace(module, key, value, wrapper)
                    replaced[id(value)] = (value, wrapper)
            elif isinstance(value, type):
                self._watch_class(module, value)
        return replaced

    def _watch_class(self, module: ModuleType, cls: type) -> None:
        for key, value in public_methods(cls):
            function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            wrapper = self._wrapped(module, function) if isinstance(function, FunctionType) else None
            if wrapper is not None:
                kind = type(value) if isinstance(value, staticmethod | classmethod) else None
                with suppress(AttributeError, TypeError):  # a class that lets nobody set anything
                    self._replace(cls, key, value, wrapper if kind is None else kind(wrapper))

    def _wrapped(self, module: ModuleType, function: FunctionType) -> Any:
        name = function.__qualname__
        short = function.__name__
        if hasattr(function, MARK) or (short.startswith("__") and short.endswith("__")) or short == "<lambda>":
            return None
        if function.__module__ != module.__name__ or not self._patterns.is_for(module.__name__, name):
            return None
        qualified = f"{module.__name__}.{name}"
        watched = FUNCTIONS.add(qualified, "auto", code_of(function))
        self._watched[qualified] = (watched, watched.counts.count)
        return wrap(function, watched)

    def _replace(self, owner: Any, key: str, old: Any, new: Any) -> None:
        setattr(owner, key, new)

        def undo() -> None:
            if vars(owner).get(key) is new:
                setattr(owner, key, old)

        self._undo.append(undo)

    def undo(self) -> None:
        """Put back what is still ours."""
        while self._undo:
            with suppress(Exception):
                self._undo.pop()()
        self._watched.clear()

    # --- too hot -----------------------------------------------------------------------------------

    def look(self, elapsed: float, cost: float) -> None:
        """Step down the functions whose measuring, at ``cost`` s a call, used too much of ``elapsed`` s."""
        for name, (function, before) in tuple(self._watched.items()):
            calls = function.counts.count - before
            self._watched[name] = (function, function.counts.count)
            share = calls * cost / elapsed
            if share > SHARE and not function.counting:
                FUNCTIONS.step_down(function)
                line = (
                    f"{name} was called {calls / elapsed:,.0f} times a second: measuring it cost {share:.0%} of a core;"
                    " from now on its calls are only counted"
                )
                attributes = {"perf.feature": "calls", "perf.feature.state": "stepped down", "code.function.name": name}
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
    sys.meta_path.insert(0, watch)

    def leave() -> None:
        with suppress(ValueError):
            sys.meta_path.remove(watch)

    undo.callback(leave)
    watch.watch_imported()
    stop = threading.Event()
    _look_out(watch, stop)

    def end() -> None:
        stop.set()

    def again() -> None:
        nonlocal stop
        stop = threading.Event()
        _look_out(watch, stop)

    undo.callback(end)
    undo.callback(on_fork(child=again))


def _look_out(watch: Watch, stop: threading.Event) -> None:
    def look() -> None:
        began, cost = time.monotonic(), 0.0
        while not stop.wait(PERIOD):
            cost = cost or cost_of_a_call()
            now = time.monotonic()
            watch.look(now - began, cost)
            began = now

    threading.Thread(target=look, name="otel-perf-watch", daemon=True).start()


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
