"""Caches that the app has, found without a change to it: one module a library.

No library is imported for it, and no module of ours for a library that the app does not import. What it imports is
patched then, or at once if it is there; the undo puts all back.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack

    from otel_perf.memory.cache_metrics import Watched

LIBRARIES: Final = {  # what the app imports: the module here, and its class
    "cachebox": ("cachebox", "CacheboxCaches"),
    "cachetools": ("cachetools", "CachetoolsCaches"),
    "django.core.cache": ("django", "DjangoCaches"),
    "redis": ("redis", "RedisCaches"),
}


def install(undo: ExitStack) -> tuple[Callable[[], Iterable[Watched]], ...]:
    """Find them until the undo; what gives those that there are."""
    from otel_perf.core import collector, lookups
    from otel_perf.core.patches import on_import
    from otel_perf.memory.found.functions import FunctoolsCaches, own
    from otel_perf.memory.found.tally import Tally

    functions = FunctoolsCaches()
    functions.install(undo)
    collector.lookers.append(functions.look)
    undo.callback(collector.lookers.remove, functions.look)
    libraries: list[Any] = []

    def begin(module: str, kind: str) -> Callable[[Any], None]:
        def imported(library: Any) -> None:
            caches = getattr(import_module(f"{__name__}.{module}"), kind)()
            libraries.append(caches)
            caches.install(library, undo)

        return imported

    def read() -> Iterable[Watched]:
        return [watched for caches in list(libraries) for watched in caches.read()]

    def known() -> Iterable[Watched]:
        return [*own(), *functions.known(), *read()]

    for name, (module, kind) in LIBRARIES.items():
        on_import(name, begin(module, kind), undo)
    tally = Tally(known)
    lookups.sources.append(tally)
    undo.callback(lookups.sources.remove, tally)
    return own, functions.read, read
