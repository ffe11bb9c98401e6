"""Memory: what the process uses, as gauges with the conventions' names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_perf.core.feature import Feature, Host, NoSettings

if TYPE_CHECKING:
    from contextlib import ExitStack


class MemoryFeature(Feature[NoSettings]):
    """Process and garbage-collector gauges."""

    name = "memory"
    summary = "memory, CPU, threads, descriptors and GC of the process as metrics"

    def install(self, settings: NoSettings, host: Host, undo: ExitStack) -> None:
        """Turn it on."""
        from otel_perf.memory.gauges import install

        install(host.census, undo)


FEATURE = MemoryFeature()
