"""Memory: what the process uses, what its caches do, and what is given back when it is short. See DESIGN 5.3."""

from __future__ import annotations

import sys
from dataclasses import field
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core import sequence
from otel_perf.core.feature import Feature, Host
from otel_perf.core.records import record
from otel_perf.core.settings import Size, Url  # noqa: TC001 - read at run time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import ExitStack

    from otel_perf.memory.cache_metrics import Numbers
    from otel_perf.memory.pressure import Usage

EXPIRE: Final = 10.0  # seconds between looks at expired entries, and at what is kept for what is no more


@record
class MemorySettings:
    """How much memory there is, and who is told when it is short."""

    limit: Size = field(
        default=0,
        metadata={"doc": "Memory that the process may use; 0 is what the cgroup or the machine allows (bytes)."},
    )
    webhook: Url = field(
        default="",
        metadata={"doc": "A URL to which each change of the level of pressure is posted, as JSON."},
    )
    leaks: bool = field(
        default=True,
        metadata={"doc": "Look for memory that grows evenly towards the limit, and for what it is that grows."},
    )
    leaks_trace: bool = field(
        default=True,
        metadata={"doc": "When a leak is suspected, trace allocations for 30 s, which makes each dearer meanwhile."},
    )


class MemoryFeature(Feature[MemorySettings]):
    """Gauges of the process, the garbage collector and every cache; memory pressure."""

    name = "memory"
    summary = "memory, CPU, threads, descriptors, GC and caches as metrics; caches give back when memory is short"
    emits = sequence.MEMORY_MANAGEMENT
    awaits = (sequence.ERROR_HANDLING,)
    settings_type = MemorySettings

    def __init__(self) -> None:
        self._read: Callable[[], Usage] | None = None

    def prove(self) -> None:
        """Read it."""
        if self._read is None:
            raise RuntimeError("the memory of this process cannot be read here")
        self._read()

    def install(self, settings: MemorySettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.core import cleaning
        from otel_perf.memory import found, gauges
        from otel_perf.memory.cache_metrics import CacheMetrics
        from otel_perf.memory.collection_metrics import CollectionMetrics

        gauges.install(host.census, undo)
        sources = found.install(undo)
        CacheMetrics(sources).install(host.census, undo)
        CollectionMetrics().install(host.census, undo)
        # With numbers of its own: reading is not made for two threads.
        self._watch_pressure(settings, host, undo, CacheMetrics(sources).read)
        self._watch_singletons(host, undo)
        # No deadline: a million entries take more than a minute of slices; what is cut short counts as failed.
        undo.callback(cleaning.register("otel_perf.memory: expired entries", expired, EXPIRE, deadline=inf))
        undo.callback(cleaning.register("otel_perf.memory: dead weak references", dead, EXPIRE, deadline=inf))

    def _watch_singletons(self, host: Host, undo: ExitStack) -> None:
        from otel_perf.core import health
        from otel_perf.memory import checks, singletons

        def tell(name: str, seconds: float, error: BaseException | None) -> None:
            attributes: dict[str, Any] = {"perf.singleton.name": name, "perf.singleton.duration": seconds}
            if error is not None:
                attributes["exception.type"] = type(error).__qualname__
                attributes["exception.message"] = str(error)
            host.event(singletons.CLOSED, attributes, severity="INFO" if error is None else "WARN")

        singletons.closed.append(tell)
        undo.callback(singletons.closed.remove, tell)
        pings = partial(checks.pings, singletons.singletons)
        every, timeout = checks.PING_EVERY, checks.PING_TIMEOUT + 1.0  # each has its own
        undo.callback(health.register("singletons", pings, every=every, timeout=timeout))

    def _watch_pressure(
        self, settings: MemorySettings, host: Host, undo: ExitStack, caches: Callable[[], Mapping[str, Numbers]]
    ) -> None:
        from otel_perf.core import health, strain
        from otel_perf.core.forks import on_fork
        from otel_perf.memory import checks, pressure

        self._read = read = pressure.reader(settings.limit)
        if read is None:
            return
        watched = True

        def end() -> None:
            nonlocal watched
            watched = False
            strain.end(self.name)

        def tell(what: dict[str, Any]) -> None:
            attributes = {f"perf.memory.pressure.{name}": value for name, value in what.items()}
            severity = "INFO" if what["level"] in {"normal", "moderate"} else "WARN"
            host.event(pressure.PRESSURE, attributes, body=pressure.sentence(what), severity=severity)
            critical = what["level"] == "critical"
            if critical and "before" in what:
                strain.begin(self.name, pressure.sentence(what))
            if not (critical and watched):  # its last look may come after the end
                strain.end(self.name)
            if what["action"] == "level":
                health.news(self.name)
            if settings.webhook and what["action"] == "level":
                from otel_perf.memory import alerts

                alerts.post(settings.webhook, {"service": host.service_name, **what})

        monitor = pressure.Monitor(read, tell)
        leaks = self._watch_leaks(settings, host, undo, read, caches) if settings.leaks else None
        watcher = pressure.Watcher(monitor, lambda: host.guard(self.name), leaks)
        undo.callback(end)
        undo.callback(monitor.release)
        undo.callback(watcher.end)
        undo.callback(on_fork(child=watcher.start))
        undo.callback(health.register(self.name, partial(checks.level, monitor, read), every=1.0, quick=True))
        for metric, source in (
            (pressure.LIMIT, lambda: [(read().limit, {})]),
            (pressure.UTILIZATION, lambda: [(read().share, {})]),
            (pressure.LEVEL, lambda: [(monitor.level, {})]),
            (pressure.RECLAIMED, monitor.readings),
        ):
            undo.callback(host.census.add(metric, source))

    def _watch_leaks(
        self,
        settings: MemorySettings,
        host: Host,
        undo: ExitStack,
        read: Callable[[], Usage],
        caches: Callable[[], Mapping[str, Numbers]],
    ) -> Callable[[], None]:
        from otel_perf.core.forks import on_fork
        from otel_perf.memory import leaks

        def tell(attributes: dict[str, Any], body: str) -> None:
            host.event(leaks.LEAK_SUSPECTED, attributes, body=body, severity="WARN")

        watch = leaks.LeakWatch(read, tell, lambda: host.guard(self.name), caches, trace=settings.leaks_trace)
        undo.callback(watch.end)
        undo.callback(on_fork(child=watch.start))  # before the thread that feeds it is started again
        return watch.look


def expired() -> Iterator[int]:
    """Drop entries of caches that have expired, a few at a time; yields how many."""
    from otel_perf.core.weak import alive_in

    for store in alive_in("otel_perf.memory.limited", "stores"):
        before = store.expirations
        for _ in store.expire():
            yield store.expirations - before
            before = store.expirations


def dead() -> Iterator[int]:
    """Drop the results of methods of instances that are no more, which else wait for the next miss; 1 for each."""
    forget = getattr(sys.modules.get("otel_perf.memory.cached"), "forget", None)
    if forget is not None:
        yield from forget()


FEATURE = MemoryFeature()
