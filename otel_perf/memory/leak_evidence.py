"""What grows, when a leak is suspected: types, the lines that allocate, the containers that hold it, and caches.

Three looks, half of :data:`SECONDS` apart; what grew in both halves counts, so that what comes and goes does not.
Meanwhile allocations are traced, which makes a program that does nothing but allocate 3 to 8 times as slow.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeVar

from otel_perf.core.owner import APP, LIBRARY, owner
from otel_perf.core.records import record
from otel_perf.memory import leak_looks as looks
from otel_perf.memory.leak_looks import Line, tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from otel_perf.memory.cache_metrics import Numbers

SECONDS: Final = 30.0
STEP: Final = 0.25  # seconds between looks at how much was traced
MOST: Final = 3  # of each kind that are named
SHARE: Final = 0.1  # of what it grew is the least that grew in each half: tracing may make one 7 times as slow
FEW: Final = 10  # objects of a type that is not the app's, which are not worth a word: a look leaves some itself
WORTH: Final = 0.1  # of what the first grew is the least with which another is named
_OURS: Final = f"{os.sep}otel_perf{os.sep}"
K = TypeVar("K")


@record
class Grown:
    """A type, a line or a container that grew, by so many objects and about so many bytes; 0 is unknown."""

    name: str
    count: int = 0
    size: int = 0
    place: Line | None = None


@record
class Filling:
    """A cache that got more entries: of how many it may have (0 is any number), and seconds until it is full."""

    name: str
    grew: int
    size: int
    limit: int
    full: float


@record
class Evidence:
    """What grew, most of it first."""

    seconds: float
    types: Sequence[Grown] = ()
    lines: Sequence[Grown] = ()
    containers: Sequence[Grown] = ()
    caches: Sequence[Filling] = ()

    def attributes(self) -> dict[str, Any]:
        """Of the event."""
        found: dict[str, Any] = {"perf.memory.leak.observed": self.seconds}
        name = "perf.memory.leak"
        if self.types:
            found[f"{name}.types"] = [one.name for one in self.types]
            found[f"{name}.types.grew"] = [one.count for one in self.types]  # {object}
            found[f"{name}.types.size"] = [one.size for one in self.types]  # bytes, without what they hold
        if self.lines:
            found[f"{name}.lines"] = [one.name for one in self.lines]
            found[f"{name}.lines.size"] = [one.size for one in self.lines]  # bytes
        if self.containers:
            found[f"{name}.containers"] = [one.name for one in self.containers]
            found[f"{name}.containers.grew"] = [one.count for one in self.containers]  # {entry}
        if self.caches:
            found[f"{name}.caches"] = [cache.name for cache in self.caches]
        if self.lines and self.lines[0].place is not None:
            found["code.file.path"], found["code.line.number"] = self.lines[0].place
        return found

    def words(self) -> str:
        """For a person."""
        said = []
        if self.types:
            said.append("more objects: " + ", ".join(map(_of_type, self.types)))
        if self.lines:
            said.append("allocated and kept: " + ", ".join(f"{amount(one.size)} at {one.name}" for one in self.lines))
        if self.containers:
            said.append("in " + ", ".join(f"{one.name} (+{one.count:,} entries)" for one in self.containers))
        for cache in self.caches:
            limit = f"its limit of {cache.limit:,}" if cache.limit else "no limit"
            said.append(f"the cache {cache.name} has {limit}, and {cache.size:,} entries (+{cache.grew:,})")
        if not said:
            return f"in {self.seconds:.0f} s nothing that Python knows of grew: look at C extensions and fragmentation"
        return f"in {self.seconds:.0f} s " + "; ".join(said)


@dataclass(slots=True)
class _Observed:
    """The three looks."""

    types: list[Mapping[type, int]] = field(default_factory=list)
    lines: list[Mapping[Line, int]] = field(default_factory=list)
    containers: list[Mapping[str, int]] = field(default_factory=list)
    caches: list[Mapping[str, Numbers]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)  # when caches were looked at (s)


def gather(
    wait: Callable[[float], bool],
    caches: Callable[[], Mapping[str, Numbers]],
    *,
    trace: bool = True,
    seconds: float | None = None,
) -> Evidence | None:
    """Look three times within ``seconds`` (30 by default); ``None`` if ``wait`` says that it is to end.

    Tracing ends with this, or when about 100,000 blocks were traced. Three looks and the last questions hold the
    interpreter for up to 90 ms a million objects, each.
    """
    half = (SECONDS if seconds is None else seconds) / 2
    began = time.monotonic()
    seen = _Observed()
    try:
        if trace:
            seen.lines.append({} if tracing.start() else looks.lines())
        _look(seen, wait, caches)
        for _ in range(2):
            if _watch(seen, wait, half, traced=trace):
                return None
            _look(seen, wait, caches)
        types = _types(steady(seen.types))
    finally:
        tracing.stop()
    lines, containers = _lines(steady(seen.lines)), _containers(steady(seen.containers))
    caches_seen = _filling(seen.caches, seen.times[-1] - seen.times[0])
    return Evidence(time.monotonic() - began, types, lines, containers, caches_seen)


def _watch(seen: _Observed, wait: Callable[[float], bool], seconds: float, *, traced: bool) -> bool:
    """Wait, and add a look at the lines at the end of it, or when so much was traced; whether it is to end."""
    until = time.monotonic() + seconds
    open_ = traced and tracemalloc.is_tracing()
    while (left := until - time.monotonic()) > 0:
        if wait(min(left, STEP)):
            return True
        if open_ and tracing.is_full():
            break
    if open_:
        seen.lines.append(looks.lines())
        if tracing.is_full():
            tracing.stop()
    return left > 0 and wait(left)


def _look(seen: _Observed, wait: Callable[[float], bool], caches: Callable[[], Mapping[str, Numbers]]) -> None:
    seen.types.append(looks.types(wait))
    seen.containers.append(looks.containers())
    seen.times.append(time.monotonic())
    seen.caches.append(caches())


def steady(seen: Sequence[Mapping[K, int]]) -> dict[K, int]:
    """By how much each grew from the first look to the last, of those that grew from each to the next."""
    if len(seen) < 2:
        return {}
    found = {}
    for key, last in seen[-1].items():
        values = [look.get(key, 0) for look in seen[:-1]] + [last]
        grew = last - values[0]
        least = min(after - before for before, after in pairwise(values))
        if grew > 0 and least >= SHARE * grew:
            found[key] = grew
    return found


def _types(grown: Mapping[type, int]) -> list[Grown]:
    """The app's first, then those of libraries, then Python's."""
    worth = WORTH * max(grown.values(), default=0)
    ranked = [
        (looks.owner_of(looks.module_of(kind)), count * looks.basic_size(kind), kind)
        for kind, count in grown.items()
        if count >= worth and not looks.module_of(kind).startswith("otel_perf.")
    ]
    ranked = [entry for entry in ranked if entry[0] == APP or grown[entry[2]] >= FEW]
    ranked.sort(key=lambda entry: entry[:2], reverse=True)
    kinds = [kind for _, _, kind in ranked[:MOST]]
    asked = looks.ask(kinds)
    return [Grown(looks.name_of(kind), grown[kind], grown[kind] * asked[kind][0], asked[kind][1]) for kind in kinds]


def _lines(grown: Mapping[Line, int]) -> list[Grown]:
    """The app's; else those of libraries; else any but ours."""
    worth = WORTH * max(grown.values(), default=0)
    lines = sorted((line for line, size in grown.items() if size >= worth), key=grown.__getitem__, reverse=True)
    for least in (APP, LIBRARY, 0):
        named = [line for line in lines if owner(line[0]) >= least and _OURS not in line[0]]
        if named:
            return [Grown(looks.shown(line), size=grown[line], place=line) for line in named[:MOST]]
    return []


def _containers(grown: Mapping[str, int]) -> list[Grown]:
    worth = WORTH * max(grown.values(), default=0)
    names = sorted((name for name, count in grown.items() if count >= worth), key=grown.__getitem__, reverse=True)
    return [Grown(name, grown[name]) for name in names[:MOST]]


def _filling(seen: Sequence[Mapping[str, Numbers]], seconds: float) -> list[Filling]:
    """Caches that got more entries, and are not full."""
    grown = steady([{name: numbers.size or 0 for name, numbers in look.items()} for look in seen])
    found = []
    for name in sorted(grown, key=grown.__getitem__, reverse=True)[:MOST]:
        now, grew = seen[-1][name], grown[name]
        size = now.size or 0
        full = (now.limit - size) * seconds / grew if now.limit else inf
        if full > 0:
            found.append(Filling(name, grew, size, now.limit, full))
    return found


def _of_type(one: Grown) -> str:
    place = f" at {looks.shown(one.place)}" if one.place else ""
    return f"{one.name} +{one.count:,} ({amount(one.size)}{place})"


def amount(size: float) -> str:
    """Bytes, for a person."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.{1 if size < 100 * factor else 0}f} {unit}"
    return f"{size:.0f} B"


def duration(seconds: float) -> str:
    """To the minute, for a person."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
