"""Says when a module has been imported, before anybody sees it, whichever loader ran it.

The loader stays its own: only while it still has to run a wanted module is its ``exec_module`` ours. That looks like a
frame of Python's import system, so that tracebacks and warnings of the module leave it out as they do the others.
"""

from __future__ import annotations

import inspect
import sys
import threading
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.forks import on_fork

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec

    from otel_perf.core.guard import Guard

_IMPORT_SYSTEM: Final = "<frozen importlib._bootstrap>"
# What a module holds, without asking it: some load themselves when they are asked.
namespace_of: Final[Callable[[ModuleType], dict[str, Any]]] = vars(ModuleType)["__dict__"].__get__


def modules() -> list[ModuleType]:
    """The modules that are there."""
    return [module for module in sys.modules.copy().values() if issubclass(type(module), ModuleType)]


class Imports:
    """A finder in front of the others, which finds nothing itself. Thread-safe.

    ``ran`` is called, under ``guard``, with every module whose name is ``wanted`` when it has run.
    """

    def __init__(
        self,
        wanted: Callable[[str], bool],
        ran: Callable[[ModuleType], object],
        guard: Callable[[], Guard],
    ) -> None:
        self._wanted = wanted
        self._ran = ran
        self._guard = guard
        self._finding = threading.local()
        self._ended = False
        self._lock = threading.RLock()  # a finalizer or a signal's handler may import something in the midst of it

    def begin(self) -> Callable[[], None]:
        """Watch every import from now on; the returned function ends it."""
        sys.meta_path.insert(0, self)
        leave_forks = on_fork(child=self._after_fork_in_child)

        def end() -> None:
            self._ended = True
            leave_forks()
            with suppress(ValueError):
                sys.meta_path.remove(self)

        return end

    def _after_fork_in_child(self) -> None:
        self._lock = threading.RLock()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Let the others find the module, and stand by until it has run."""
        finding: set[str] = vars(self._finding).setdefault("names", set())
        if name in finding or not self._wanted(name):
            return None
        finding.add(name)
        try:
            spec = self._ask_others(name, path, target)
        finally:
            finding.remove(name)
        if spec is not None and spec.loader is not None:
            with self._guard():
                self._stand_by(spec.loader, name)
        return spec

    def _ask_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in tuple(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if find is not None and finder is not self:
                spec: ModuleSpec | None = find(name, path, target)
                if spec is not None:
                    return spec
        return None

    def _stand_by(self, loader: Any, name: str) -> None:
        loader = inspect.unwrap(loader)  # wrapt's stands in front of another one, and calls it
        if isinstance(loader, type) or not hasattr(loader, "exec_module"):
            return  # what is built in or frozen
        with self._lock, suppress(AttributeError, TypeError):  # a loader that lets nobody set anything
            ours: Any = vars(loader).get("exec_module")
            if not isinstance(getattr(ours, "waiting_for", None), set):
                loader.exec_module = ours = self._stand_in(loader)
            ours.waiting_for.add(name)

    def _stand_in(self, loader: Any) -> Any:
        """What runs the modules of ``loader`` as long as one is waited for; that of a zip file has many at a time."""
        waiting_for: set[str] = set()
        execute, before = loader.exec_module, vars(loader).get("exec_module")

        def is_wanted(module: ModuleType) -> bool:
            with self._guard(), self._lock:
                name = _name_of(module)
                if name in waiting_for:
                    waiting_for.discard(name)
                    if not waiting_for:
                        vars(loader).pop("exec_module", None)
                        if before is not None:
                            loader.exec_module = before
                    return True
            return False

        def has_run(module: ModuleType) -> None:
            if not self._ended and issubclass(type(module), ModuleType):
                with self._guard():
                    self._ran(module)

        def exec_module(module: ModuleType) -> None:
            wanted = is_wanted(module)
            execute(module)
            if wanted:
                has_run(module)

        stand_in: Any = exec_module
        stand_in.__code__ = exec_module.__code__.replace(co_filename=_IMPORT_SYSTEM)
        stand_in.waiting_for = waiting_for
        return stand_in


def _name_of(module: Any) -> str | None:
    """The name under which ``module`` is imported."""
    if not issubclass(type(module), ModuleType):  # a loader may make anything
        return getattr(getattr(module, "__spec__", None), "name", None)
    namespace = namespace_of(module)
    return getattr(namespace.get("__spec__"), "name", None) or namespace.get("__name__")
