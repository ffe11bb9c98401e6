"""Memory: what the process uses and what its caches do, as metrics. See DESIGN 5.3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_perf.core.feature import Feature, Host, NoSettings

if TYPE_CHECKING:
    from contextlib import ExitStack


class MemoryFeature(Feature[NoSettings]):
    """Gauges of the process, the garbage collector and every cache."""

    name = "memory"
    summary = "memory, CPU, threads, descriptors, GC and caches of the process as metrics"

    def install(self, settings: NoSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.memory import gauges
        from otel_perf.memory.cache_metrics import CacheMetrics
        from otel_perf.memory.discovery import CachetoolsCaches, FunctoolsCaches, own

        gauges.install(host.census, undo)
        functions, cachetools = FunctoolsCaches(), CachetoolsCaches()
        functions.install(undo)
        cachetools.install(undo)
        CacheMetrics((own, functions.read, cachetools.read)).install(host.census, undo)


FEATURE = MemoryFeature()
