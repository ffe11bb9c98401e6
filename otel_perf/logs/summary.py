"""What the process did since the last time, in one record: the event ``perf.summary``.

It is made by the thread that cleans up, every so many seconds, and at the end of the program. All that it needs is
asked for through :mod:`otel_perf.core`: what is off, or not there, is left out. Counters are read as they are, and the
summary is what came since the reading before.
"""

from __future__ import annotations

import gc
import os
import time
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core import lookups, resident
from otel_perf.core.events import SUMMARY
from otel_perf.core.numerals import digits
from otel_perf.core.threads import allocate_lock
from otel_perf.logs.request_record import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from otel_perf.core.feature import Host, Parts
    from otel_perf.logs.requests import Requests

TOP: Final = 10  # functions, caches and routes
SLICE: Final = 100  # functions read in one go

_CALLS: Final = "perf.call.duration"
_PAUSES: Final = "perf.gc.pause"


class Summary:
    """Thread-safe; a forked child begins anew."""

    def __init__(
        self, host: Host, parts: Parts, requests: Requests | None, events: Callable[[], Mapping[str, int]]
    ) -> None:
        self._host = host
        self._parts = parts
        self._requests = requests
        self._events = events
        self.begin()
        for _ in self._of_functions():  # another one may have told of them before
            pass

    def begin(self) -> None:
        """The next one is about what comes from now on."""
        self._gate = allocate_lock()
        self._since = time.monotonic()
        self._before: dict[str, float] = {}
        self._cpu = _cpu()
        self._resident = resident.resident()
        self._collections = _collections()
        for part in (self._of_requests, self._of_lines, self._of_events, self._of_findings, self._of_caches):
            part({})

    def run(self) -> Iterator[None]:
        """Emit one, in slices."""
        if not self._gate.acquire(blocking=False):
            return  # the end of the program is about to do it
        try:
            yield from self._emit("interval")
        finally:
            self._gate.release()

    def last(self) -> None:
        """Emit what came since the last one, if there is anything: the program ends."""
        if not self._gate.acquire(timeout=0.2):
            return  # one is being made, perhaps by the thread that was interrupted
        try:
            for _ in self._emit("exit"):
                pass
        finally:
            self._gate.release()

    def _emit(self, reason: str) -> Iterator[None]:
        now = time.monotonic()
        period, self._since = max(0.0, now - self._since), now
        found: dict[str, Any] = {"perf.summary.reason": reason, "perf.summary.period": round(period, 3)}
        done = 0
        for part in (self._of_requests, self._of_lines, self._of_events, self._of_findings, self._of_caches):
            done += part(found)
            yield
        functions: list[dict[str, Any]] = []
        for function in self._of_functions():
            if function is None:
                yield
            else:
                functions.append(function)
        if functions:
            done += 1
            functions.sort(key=lambda row: (-row["self_time"], -row["calls"]))
            found["perf.summary.functions"] = functions[:TOP]
        yield
        self._of_process(found)
        if done or reason == "interval":
            self._host.event(SUMMARY, found, body=_sentence(found))

    # --- what it is made of ------------------------------------------------------------------------

    def _since_last(self, key: str, value: float) -> float:
        """What was added to a counter since the last summary. One that is smaller now has begun anew."""
        before = self._before.get(key, 0)
        self._before[key] = value
        return value - before if value >= before else value

    def _of_requests(self, found: dict[str, Any]) -> int:
        requests = self._requests
        if requests is None:
            return 0
        routes = requests.records.take()
        if not routes:
            return 0
        rows = sorted(routes.items(), key=lambda pair: -pair[1].time)
        found["perf.summary.requests"] = sum(route.count for _, route in rows)
        found["perf.summary.requests.failed"] = sum(route.failed for _, route in rows)
        found["perf.summary.requests.time"] = sum(route.time for _, route in rows) / 1e9
        found["perf.summary.requests.longest"] = max(route.longest for _, route in rows) / 1e9
        found["perf.summary.routes"] = [
            {
                "name": name, "count": route.count, "failed": route.failed, "time": route.time / 1e9,
                "longest": route.longest / 1e9,
            }
            for name, route in rows[:TOP]
        ]  # fmt: skip
        return 1

    def _of_lines(self, found: dict[str, Any]) -> int:
        requests, done = self._requests, 0
        for level, number in zip(LEVELS, () if requests is None else requests.lines, strict=requests is not None):
            new = int(self._since_last(f"lines {level}", number))
            if new:
                found[f"perf.summary.logs.{level}"] = new
                done = 1
        return done

    def _of_events(self, found: dict[str, Any]) -> int:
        made = [(name, int(self._since_last(f"event {name}", number))) for name, number in self._events().items()]
        rows = sorted(((name, number) for name, number in made if number), key=lambda pair: -pair[1])
        if rows:
            found["perf.summary.events"] = sum(number for _, number in rows)
            found["perf.summary.events.top"] = [{"name": name, "count": number} for name, number in rows[:TOP]]
        return bool(rows)

    def _of_findings(self, found: dict[str, Any]) -> int:
        kinds: dict[str, int] = {}
        for number, attributes in self._host.census.named("perf.bottlenecks"):
            kind = str(attributes.get("kind", ""))
            new = int(self._since_last(f"finding {kind} {attributes.get('culprit')}", number))
            if new:
                kinds[kind] = kinds.get(kind, 0) + new
        if kinds:
            found["perf.summary.findings"] = sum(kinds.values())
            found["perf.summary.findings.kinds"] = dict(sorted(kinds.items(), key=lambda pair: -pair[1]))
        return bool(kinds)

    def _of_caches(self, found: dict[str, Any]) -> int:
        rows: list[dict[str, Any]] = []
        for name, (hits, misses) in lookups.by_cache().items():
            hit, missed = self._since_last(f"hits {name}", hits), self._since_last(f"misses {name}", misses)
            if hit or missed:
                rows.append({"name": name, "hits": int(hit), "misses": int(missed)})
        if rows:
            rows.sort(key=lambda row: (-row["misses"], -row["hits"]))
            found["perf.summary.cache.hits"] = sum(row["hits"] for row in rows)
            found["perf.summary.cache.misses"] = sum(row["misses"] for row in rows)
            found["perf.summary.caches"] = rows[:TOP]
        return bool(rows)

    def _of_functions(self) -> Iterator[dict[str, Any] | None]:
        """A row for each function that was called; None where others may go on."""
        own = _by_function(self._host.census.named("perf.call.self_time"))
        errors = _by_function(self._host.census.named("perf.call.errors"))
        for number, counts in enumerate(self._counted(_CALLS)):
            if number % SLICE == SLICE - 1:
                yield None
            name = str(counts.attributes.get("code.function.name", "(all others)"))
            count = getattr(counts, "count", None)
            calls = int(self._since_last(f"calls {name}", sum(counts.buckets) if count is None else count))
            taken = self._since_last(f"time {name}", counts.total)
            self_time = self._since_last(f"self {name}", own.get(name, 0.0))
            failed = int(self._since_last(f"errors {name}", errors.get(name, 0)))
            if calls:
                yield {"name": name, "calls": calls, "errors": failed, "time": taken, "self_time": self_time}

    def _counted(self, metric: str) -> Iterable[Any]:
        for producer in tuple(self._parts.metric_producers):
            if producer.metric.name == metric:
                yield from producer.counted()

    def _of_process(self, found: dict[str, Any]) -> None:
        before, self._resident = self._resident, resident.resident()
        if self._resident:
            found["perf.summary.memory"] = self._resident
            found["perf.summary.memory.growth"] = self._resident - before
        for share, _ in self._host.census.named("perf.memory.utilization"):
            found["perf.summary.memory.utilization"] = share
        spent, self._cpu = self._cpu, _cpu()
        found["perf.summary.cpu_time"] = round(self._cpu - spent, 6)
        run, self._collections = self._collections, _collections()
        found["perf.summary.gc.collections"] = self._collections - run
        pauses = self._counted(_PAUSES)
        paused = sum(self._since_last(f"pauses {dict(counts.attributes)}", counts.total) for counts in pauses)
        if paused:
            found["perf.summary.gc.time"] = paused


def _by_function(readings: Iterable[tuple[float, Mapping[str, Any]]]) -> dict[str, float]:
    return {str(attributes.get("code.function.name", "(all others)")): value for value, attributes in readings}


def _cpu() -> float:
    """Seconds that the process has used."""
    times = os.times()
    return times.user + times.system


def _collections() -> int:
    stats: Any = getattr(gc, "get_stats", list)()
    return sum(int(generation["collections"]) for generation in stats)


def _sentence(found: Mapping[str, Any]) -> str:
    """The summary in a line."""
    parts = []
    if "perf.summary.requests" in found:
        number, failed = found["perf.summary.requests"], found["perf.summary.requests.failed"]
        mean = found["perf.summary.requests.time"] / number * 1e3
        parts.append(f"{number:,} requests ({failed:,} failed, {digits(mean)} ms on average)")
    if "perf.summary.functions" in found:
        top = found["perf.summary.functions"][0]
        parts.append(f"most of its own time in {top['name']} ({digits(top['self_time'])} s in {top['calls']:,} calls)")
    if "perf.summary.findings" in found:
        kinds = ", ".join(f"{number} {kind}" for kind, number in found["perf.summary.findings.kinds"].items())
        parts.append(f"bottlenecks: {kinds}")
    hits, misses = found.get("perf.summary.cache.hits", 0), found.get("perf.summary.cache.misses", 0)
    if hits or misses:
        parts.append(f"caches hit {hits / (hits + misses):.0%} of {hits + misses:,}")
    lines = [f"{found[key]:,} {level}" for level in LEVELS if (key := f"perf.summary.logs.{level}") in found]
    if lines:
        parts.append(f"lines: {', '.join(lines)}")
    if "perf.summary.events" in found:
        parts.append(f"{found['perf.summary.events']:,} business events")
    if "perf.summary.memory" in found:
        grown = found["perf.summary.memory.growth"] / 1e6
        parts.append(f"memory {found['perf.summary.memory'] / 1e6:.0f} MB ({grown:+.1f})")
    share = found["perf.summary.cpu_time"] / period if (period := found["perf.summary.period"]) else 0.0
    parts.append(f"CPU {share:.0%}")
    paused = found.get("perf.summary.gc.time")
    if paused:
        parts.append(f"GC {digits(paused * 1e3)} ms")
    return f"{period:.0f} s: {'; '.join(parts)}"
