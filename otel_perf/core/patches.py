"""Patches of what the app imports: made when it does, undone in reverse."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.core.guard import Guard


_waiting: dict[str, list[Callable[[Any], None]]] = {}
"""By module, who is told when it is imported: wrapt lets nobody go, so that it knows one of us for each module."""


def on_import(name: str, wrap: Callable[[Any], None], undo: ExitStack, guard: Guard | None = None) -> None:
    """Call ``wrap`` with the module when the app imports it, or now if it did, until the undo.

    What fails in there is left out (and told by ``guard``): the app gets its module as it is.
    """
    waits = True

    def imported(module: Any) -> None:
        nonlocal waits
        if waits:
            waits = False
            with suppress(Exception) if guard is None else guard:
                wrap(module)

    def end() -> None:
        nonlocal waits
        waits = False
        with suppress(ValueError):
            _waiting.get(name, []).remove(imported)

    module, known = sys.modules.get(name), name in _waiting
    if module is not None:
        imported(module)
        return
    _waiting.setdefault(name, []).append(imported)
    undo.callback(end)
    if not known:
        from wrapt import register_post_import_hook

        register_post_import_hook(_tell, name)
    elif (module := sys.modules.get(name)) is not None:  # just now, by another thread
        imported(module)


def _tell(module: Any) -> None:
    for imported in _waiting.pop(module.__name__, ()):
        imported(module)


def put(kind: Any, name: str, wrapper: Any, undo: ExitStack) -> None:
    """Put ``wrapper`` in the place of ``name`` in a class or module; the undo puts the original back."""
    original = vars(kind)[name]
    setattr(kind, name, wrapper)

    def restore() -> None:
        if vars(kind).get(name) is wrapper:
            setattr(kind, name, original)

    undo.callback(restore)
