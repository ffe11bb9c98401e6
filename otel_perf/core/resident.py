"""How much memory the process has resident, for who asks at every request."""

from __future__ import annotations

import os
import sys
from time import perf_counter
from typing import Final

from otel_perf.core.forks import on_fork
from otel_perf.core.own_file import OwnFile

RECENT: Final = 0.001  # seconds: a reading that is not older will do where what counts are megabytes

_LINUX: Final = sys.platform.startswith("linux")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_file: OwnFile | None = None
_last: tuple[float, int] = (float("-inf"), 0)


def _forget() -> None:
    global _file, _last
    _file, _last = None, (float("-inf"), 0)  # it shows the parent


on_fork(child=_forget)


def resident() -> int:
    """Bytes, now; 0 where that is not known. 1.5 µs on Linux, 15 µs elsewhere. Never raises."""
    global _file
    if not _LINUX:
        return _elsewhere()
    try:
        file = _file
        if file is None:
            file = _file = OwnFile("/proc/self/statm")
        return int(file.read().split(b" ", 2)[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        _file = None
        return 0


def recent() -> int:
    """Bytes, at most a millisecond old. 0.2 µs where somebody has just asked."""
    global _last
    now = perf_counter()
    read, found = _last
    if now - read >= RECENT:
        found = resident()
        _last = now, found
    return found


def _elsewhere() -> int:
    try:
        import psutil

        return int(psutil.Process().memory_info().rss)  # a new Process: a cached one would be the parent's after a fork
    except Exception:
        return 0
