"""What the caches of the process have counted, for who asks at every request.

Those who know caches (the ``memory`` feature) add a source here. All caches are read at once, and no more often than
so that reading takes half a percent of the time. A difference is of two readings: whoever took one as something began
takes another as it ends, and who came too early for the first one knows nothing.
"""

from __future__ import annotations

from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Source = Callable[[], Iterable[tuple[str, int, int]]]

NAMES: Final = 200  # caches told apart; the others are "other"
REST: Final = 200  # times as long as a reading took


class Lookups(NamedTuple):
    """Hits and misses of all caches."""

    hits: int
    misses: int


sources: list[Source] = []
"""Each gives name, hits and misses of every cache that it knows, quickly and from any thread."""
_again: float = 0.0


def by_cache() -> dict[str, tuple[int, int]]:
    """Hits and misses of each cache, now; those of one name together. About 2 µs a cache; never raises."""
    found: dict[str, tuple[int, int]] = {}
    for source in tuple(sources):
        with suppress(Exception):
            for name, hits, misses in source():
                if name not in found and len(found) >= NAMES:
                    name = "other"  # noqa: PLW2901
                known = found.get(name)
                found[name] = (hits, misses) if known is None else (known[0] + hits, known[1] + misses)
    return found


def read_if_due() -> Lookups | None:
    """Of all caches, now, if it is time for a reading. 0.1 µs where it is not; thread-safe."""
    return read() if sources and perf_counter() >= _again else None


def read() -> Lookups:
    """Of all caches, now; the next reading comes the later."""
    global _again
    began = perf_counter()
    hits = misses = 0
    for source in tuple(sources):
        with suppress(Exception):
            for _, hit, missed in source():
                hits += hit
                misses += missed
    ended = perf_counter()
    _again = max(_again, ended) + REST * (ended - began)
    return Lookups(hits, misses)
