"""What caches have counted since they were found, by name: numbers that never fall."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from otel_perf.core.lookups import NAMES
from otel_perf.core.threads import allocate_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_perf.memory.cache_metrics import Watched


class Tally:
    """A source of :mod:`otel_perf.core.lookups`. Thread-safe; who comes while another reads gets what it had before.

    What a cache had counted stays counted when it is gone or begins anew (``cache_clear``), and what it had before
    anybody knew it is not counted: a difference of two readings is what came between them.
    """

    def __init__(self, known: Callable[[], Iterable[Watched]]) -> None:
        self._known = known
        self._seen: dict[int, tuple[Watched, int, int]] = {}  # by id() of what is watched
        self._counted: dict[str, tuple[int, int]] = {}
        self._gates: dict[int, Any] = {}  # by process: a child of fork has one of its own
        self._read()
        self._counted.clear()  # that was before

    def __call__(self) -> Iterable[tuple[str, int, int]]:
        """Name, hits and misses of each."""
        process = os.getpid()
        gate = self._gates.get(process) or self._gates.setdefault(process, allocate_lock())
        if gate.acquire(blocking=False):
            try:
                self._read()
            finally:
                gate.release()
        return [(name, hits, misses) for name, (hits, misses) in list(self._counted.items())]

    def _read(self) -> None:
        seen: dict[int, tuple[Watched, int, int]] = {}
        for watched in self._known():
            numbers = watched.numbers()
            if numbers is None:
                continue
            _, hits, misses = self._seen.get(id(watched), (watched, *getattr(watched, "before", (0, 0))))
            seen[id(watched)] = watched, numbers.hits, numbers.misses
            if numbers.hits < hits or numbers.misses < misses:  # it has begun anew
                hits = misses = 0
            name = watched.name if watched.name in self._counted or len(self._counted) < NAMES else "other"
            counted = self._counted.get(name, (0, 0))
            self._counted[name] = counted[0] + numbers.hits - hits, counted[1] + numbers.misses - misses
        self._seen = seen
