"""Patches of what the app imports: made when it does, undone in reverse."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.core.guard import Guard


def on_import(name: str, wrap: Callable[[Any], None], undo: ExitStack, guard: Guard | None = None) -> None:
    """Call ``wrap`` with the module when the app imports it, or now if it did, until the undo.

    What fails in there is left out (and told by ``guard``): the app gets its module as it is.
    """
    from wrapt import register_post_import_hook

    on = True

    def imported(module: Any) -> None:
        if on:
            with suppress(Exception) if guard is None else guard:
                wrap(module)

    def end() -> None:
        nonlocal on
        on = False

    undo.callback(end)
    register_post_import_hook(imported, name)


def put(kind: Any, name: str, wrapper: Any, undo: ExitStack) -> None:
    """Put ``wrapper`` in the place of ``name`` in a class or module; the undo puts the original back."""
    original = vars(kind)[name]
    setattr(kind, name, wrapper)

    def restore() -> None:
        if vars(kind).get(name) is wrapper:
            setattr(kind, name, original)

    undo.callback(restore)
