"""The numbers of every cache in the process as metrics: ours, and those that the app had before.

Read when metrics are collected. Caches of one name are summed up, and what a cache had counted stays counted when it
is gone, so that counters never fall.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, Protocol

from otel_perf.core.census import Metric
from otel_perf.core.records import entity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack

    from otel_perf.core.census import Census, Reading

HITS: Final = Metric("perf.cache.hits", "{hit}", "counter", "Look-ups that found their key, by cache")
MISSES: Final = Metric("perf.cache.misses", "{miss}", "counter", "Look-ups that did not, by cache")
EVICTIONS: Final = Metric("perf.cache.evictions", "{entry}", "counter", "Entries dropped for room or memory, by cache")
SIZE: Final = Metric("perf.cache.size", "{entry}", "gauge", "Entries in the cache")
LIMIT: Final = Metric("perf.cache.limit", "{entry}", "gauge", "Entries that may be in the cache, where it has a limit")
HIT_RATIO: Final = Metric("perf.cache.hit_ratio", "1", "gauge", "Hits by look-ups since the start, by cache")
NAMES: Final = 200  # caches told apart; the others are "other"


@entity
class Numbers:
    """Of one cache, or of all of one name. ``None`` is what nobody knows, such as how many entries a server has."""

    hits: int = 0
    misses: int = 0
    evictions: int | None = None
    size: int | None = None
    limit: int = 0  # 0 is none

    def add(self, other: Numbers) -> None:
        """Sum up."""
        self.hits += other.hits
        self.misses += other.misses
        self.evictions = _sum(self.evictions, other.evictions)
        self.size = _sum(self.size, other.size)
        self.limit += other.limit


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


class Watched(Protocol):
    """A cache, wherever its numbers come from."""

    name: str

    def numbers(self) -> Numbers | None:
        """Of now; ``None`` if it is gone."""
        ...


class CacheMetrics:
    """Sums up the caches that ``sources`` give."""

    def __init__(self, sources: Iterable[Callable[[], Iterable[Watched]]]) -> None:
        self._sources = tuple(sources)
        self._seen: dict[int, tuple[Watched, Numbers]] = {}  # by id() of what is watched
        self._gone: defaultdict[str, Numbers] = defaultdict(Numbers)

    def read(self) -> dict[str, Numbers]:
        """By name, those first that were there first."""
        seen = {}
        for source in self._sources:
            for watched in source():
                numbers = watched.numbers()
                if numbers is not None:
                    seen[id(watched)] = watched, numbers
        for number, (watched, last) in self._seen.items():
            if number not in seen:
                size = None if last.size is None else 0
                self._gone[watched.name].add(Numbers(last.hits, last.misses, last.evictions, size))
        self._seen = seen
        found: defaultdict[str, Numbers] = defaultdict(Numbers)
        for name, numbers in [*self._gone.items(), *((watched.name, numbers) for watched, numbers in seen.values())]:
            found[name if name in found or len(found) < NAMES else "other"].add(numbers)
        return found

    def report(
        self,
        census: Census,
        undo: ExitStack,
        metric: Metric,
        label: str,
        value: Callable[[Numbers], float | None],
    ) -> None:
        """Report one number of each, with its name as ``label``, until the undo."""

        def source() -> Iterable[Reading]:
            return [
                (found, {label: name}) for name, numbers in self.read().items() if (found := value(numbers)) is not None
            ]

        undo.callback(census.add(metric, source))

    def install(self, census: Census, undo: ExitStack) -> None:
        """Report all of them until the undo."""
        values: dict[Metric, Callable[[Numbers], float | None]] = {
            HITS: lambda numbers: numbers.hits,
            MISSES: lambda numbers: numbers.misses,
            EVICTIONS: lambda numbers: numbers.evictions,
            SIZE: lambda numbers: numbers.size,
            LIMIT: lambda numbers: numbers.limit or None,
            HIT_RATIO: lambda numbers: numbers.hits / asked if (asked := numbers.hits + numbers.misses) else None,
        }
        for metric, value in values.items():
            self.report(census, undo, metric, "perf.cache.name", value)
