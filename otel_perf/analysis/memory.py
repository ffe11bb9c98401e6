"""What a store says of memory: the processes' figures, their caches, and what was done when memory was short."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel

from otel_perf.analysis.otlp import instance_of, service_of
from otel_perf.core.events import FEATURE_CHANGED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_perf.analysis.otlp import LogEntry, Point

EVENTS: Final = frozenset(
    {"perf.memory.leak_suspected", "perf.memory.pressure", "perf.gc.tuned", "perf.health.changed"}
)
STEPS: Final = {"stepped down", "back"}  # of a feature: by itself, mostly because memory was short
_CACHE: Final = "perf.cache."
_NOW: Final = {"size", "limit"}  # of a cache as it is, not since its start
SILENT: Final = 300 * 10**9  # ns without a reading, after which a process is taken for gone
_Key = tuple[str, str]  # service and instance


class Process(BaseModel):
    """One process's own figures, from its last reading. Memory in bytes, CPU in seconds."""

    service: str
    instance: str
    rss: int
    rss_peak: int
    rss_growth: int | None = None  # since the first reading; not known where there is one
    cpu: float
    threads: int
    gc_collections: int


class Cache(BaseModel):
    """The caches of one name in one service, all its processes together; what is not known is null.

    Size and limit are of those that there are: processes that were gone when the last one began are not among them.
    """

    service: str
    name: str
    hits: int
    misses: int
    evictions: int | None = None
    size: int | None = None
    limit: int | None = None

    @property
    def looked_up(self) -> int:
        """Hits and misses."""
        return self.hits + self.misses


class MemoryEvent(BaseModel):
    """Events of one kind of one service: how many, and what the last one says."""

    service: str
    event: str
    count: int
    last: str
    last_ns: int


class Memory:
    """Gathers the rows while points and log records pass by."""

    def __init__(self) -> None:
        self._processes: dict[_Key, Process] = {}
        self._first: dict[_Key, int] = {}
        self._totals: dict[_Key, dict[tuple[str, str], float]] = defaultdict(dict)
        self._caches: dict[tuple[str, str], dict[tuple[str, str], float]] = defaultdict(dict)
        self._lives: dict[_Key, tuple[int, int]] = {}  # ns, of processes with caches
        self._events: dict[tuple[str, str], MemoryEvent] = {}

    def add_point(self, point: Point) -> None:
        """Look at a data point."""
        key = service_of(point.resource), instance_of(point.resource)
        if point.name.startswith(_CACHE):
            cache = self._caches[key[0], str(point.attributes.get("perf.cache.name", ""))]
            place = point.name, key[1]
            cache[place] = point.value + (cache.get(place, 0.0) if point.delta else 0.0)
            first, last = self._lives.get(key, (point.time, point.time))
            self._lives[key] = min(first, point.start or point.time), max(last, point.time)
        elif point.name.startswith(("process.", "cpython.gc.")):
            self._add_process(key, point)

    def _add_process(self, key: _Key, point: Point) -> None:
        process = self._processes.get(key)
        if process is None:
            process = self._processes[key] = Process(
                service=key[0], instance=key[1], rss=0, rss_peak=0, cpu=0.0, threads=0, gc_collections=0
            )
        value = point.value
        if point.name == "process.memory.usage":
            process.rss = int(value)
            process.rss_peak = max(process.rss_peak, process.rss)
            if key in self._first:
                process.rss_growth = process.rss - self._first[key]
            else:
                self._first[key] = process.rss
        elif point.name == "process.thread.count":
            process.threads = int(value)
        elif point.name in {"process.cpu.time", "cpython.gc.collections"}:
            totals, series = self._totals[key], (point.name, repr(sorted(point.attributes.items())))
            totals[series] = value + (totals.get(series, 0.0) if point.delta else 0.0)

    def add_log(self, entry: LogEntry) -> None:
        """Look at a log record."""
        stepped = entry.event_name == FEATURE_CHANGED.name and entry.attributes.get("perf.feature.state") in STEPS
        others = entry.attributes.get("perf.health.check", "memory") != "memory"
        if (entry.event_name not in EVENTS or others) and not stepped:
            return
        key = service_of(entry.resource), entry.event_name
        known = self._events.get(key)
        if known is None:
            known = self._events[key] = MemoryEvent(service=key[0], event=key[1], count=0, last="", last_ns=0)
        known.count += 1
        if entry.time >= known.last_ns:
            known.last, known.last_ns = entry.body, entry.time

    def processes(self) -> list[Process]:
        """The largest first."""
        for key, process in self._processes.items():
            totals: dict[str, float] = defaultdict(float)
            for (name, _attributes), value in self._totals[key].items():
                totals[name] += value
            process.cpu = totals["process.cpu.time"]
            process.gc_collections = int(totals["cpython.gc.collections"])
        return sorted(self._processes.values(), key=lambda process: -process.rss_peak)

    def caches(self) -> list[Cache]:
        """Those with the most misses first."""
        rows = list(self._cache_rows())
        return sorted(rows, key=lambda row: (-row.misses, -row.looked_up, row.name))

    def _cache_rows(self) -> Iterator[Cache]:
        for (service, name), values in self._caches.items():
            totals: dict[str, int] = {}
            here = self._here(service, {instance for _, instance in values})
            for (metric, instance), value in values.items():
                field = metric.removeprefix(_CACHE)
                if field not in _NOW or instance in here:
                    totals[field] = totals.get(field, 0) + int(value)
            yield Cache(
                service=service, name=name, hits=totals.get("hits", 0), misses=totals.get("misses", 0),
                evictions=totals.get("evictions"), size=totals.get("size"), limit=totals.get("limit"),
            )  # fmt: skip

    def _here(self, service: str, instances: set[str]) -> set[str]:
        """Those of which the last one's time has readings, and which were not silent at its end."""
        lives = {instance: self._lives[service, instance] for instance in instances}
        began, ended = max(lives.values(), key=lambda life: life[1])
        return {instance for instance, (_, last) in lives.items() if last >= max(began, ended - SILENT)}

    def events(self) -> list[MemoryEvent]:
        """The latest first."""
        return sorted(self._events.values(), key=lambda event: -event.last_ns)
