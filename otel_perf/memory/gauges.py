"""Process and GC metrics under the names of OpenTelemetry's semantic conventions.

Read when metrics are collected, never on a timer of their own; one reading of all costs about 60 µs on
Linux. Everything is read anew from the kernel, so a forked child reports itself and not its parent.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_perf.core.census import Metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import ExitStack

    from otel_perf.core.census import Census, Reading

MEMORY_USAGE: Final = Metric("process.memory.usage", "By", "updowncounter", "Physical memory in use (RSS)")
MEMORY_VIRTUAL: Final = Metric("process.memory.virtual", "By", "updowncounter", "Committed virtual memory")
CPU_TIME: Final = Metric("process.cpu.time", "s", "counter", "CPU seconds, by cpu.mode")
THREAD_COUNT: Final = Metric("process.thread.count", "{thread}", "updowncounter", "Threads of the process")
DESCRIPTORS: Final = Metric(
    "process.unix.file_descriptor.count", "{file_descriptor}", "updowncounter", "Open file descriptors"
)
GC_COLLECTIONS: Final = Metric("cpython.gc.collections", "{collection}", "counter", "Collections, by generation")
GC_COLLECTED: Final = Metric("cpython.gc.collected_objects", "{object}", "counter", "Objects collected, by generation")
GC_UNCOLLECTABLE: Final = Metric(
    "cpython.gc.uncollectable_objects", "{object}", "counter", "Objects found uncollectable, by generation"
)

_LINUX: Final = sys.platform.startswith("linux")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def memory() -> tuple[int, int]:
    """Resident and virtual size in bytes."""
    if _LINUX:
        virtual, resident = Path("/proc/self/statm").read_bytes().split()[:2]
        return int(resident) * _PAGE, int(virtual) * _PAGE
    import psutil

    info = psutil.Process().memory_info()  # a new Process: a cached one would be the parent's after a fork
    return info.rss, info.vms


def _memory_usage() -> Iterable[Reading]:
    return [(memory()[0], {})]


def _memory_virtual() -> Iterable[Reading]:
    return [(memory()[1], {})]


def _cpu_time() -> Iterable[Reading]:
    times = os.times()
    return [(times.user, {"cpu.mode": "user"}), (times.system, {"cpu.mode": "system"})]


def _thread_count() -> Iterable[Reading]:
    if _LINUX:  # threads of C extensions count too
        return [(len(os.listdir("/proc/self/task")), {})]
    return [(threading.active_count(), {})]


def _descriptors() -> Iterable[Reading]:
    if _LINUX:
        return [(len(os.listdir("/proc/self/fd")) - 1, {})]  # the listing itself opens one
    import psutil

    process = psutil.Process()
    return [(process.num_fds(), {})] if hasattr(process, "num_fds") else []


def _gc_source(field: str) -> Callable[[], Iterable[Reading]]:
    def source() -> Iterable[Reading]:
        return [
            (stats[field], {"cpython.gc.generation": generation}) for generation, stats in enumerate(gc.get_stats())
        ]

    return source


def install(census: Census, undo: ExitStack) -> None:
    """Report all of them until the undo."""
    for metric, source in (
        (MEMORY_USAGE, _memory_usage),
        (MEMORY_VIRTUAL, _memory_virtual),
        (CPU_TIME, _cpu_time),
        (THREAD_COUNT, _thread_count),
        (DESCRIPTORS, _descriptors),
        (GC_COLLECTIONS, _gc_source("collections")),
        (GC_COLLECTED, _gc_source("collected")),
        (GC_UNCOLLECTABLE, _gc_source("uncollectable")),
    ):
        undo.callback(census.add(metric, source))
