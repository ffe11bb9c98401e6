"""The kernel's account of the current thread: how long it waited for a CPU, and how often it got one. Linux only.

Read at the start of each local root, together with the CPU times of thread and process: 5 µs of system calls, which is
why roots that start within a millisecond share a reading.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Final, NamedTuple

from otel_perf.core.forks import on_fork
from otel_perf.core.own_file import OwnFile

_LINUX: Final = sys.platform.startswith("linux")


class Account(NamedTuple):
    """Both only grow; -1 where they are not known."""

    waited: int  # ns, ready to run and without a CPU
    turns: int  # times that it got one

    def since(self, before: Account) -> Account:
        """What came after ``before``."""
        if min(*self, *before) < 0:
            return UNKNOWN
        return Account(self.waited - before.waited, self.turns - before.turns)


class Clocks(NamedTuple):
    """Of the current thread, and of its process."""

    queue: Account
    process: int  # CPU time (ns)
    thread: int  # CPU time (ns)


UNKNOWN: Final = Account(-1, -1)
RECENT: Final = 1_000_000  # ns: a reading that is not older will do where what counts is 20 ms and more
FILES: Final = 64  # threads that have one: the descriptors are the app's


class _Own(threading.local):
    """What each thread has."""

    file: OwnFile | None = None
    clocks: Clocks | None = None
    read = 0  # when (ns)


_own = _Own()


def _forget() -> None:
    global _own
    _own = _Own()  # it shows the parent's threads


on_fork(child=_forget)


def account() -> Account:
    """Of the thread that asks. About 1 µs, and 15 µs the first time in a thread."""
    if not _LINUX:
        return UNKNOWN
    try:
        file = _own.file
        if file is None:
            if OwnFile.number > FILES:
                return UNKNOWN
            file = _own.file = OwnFile("/proc/thread-self/schedstat")
        _, waited, turns = file.read().split()
        return Account(int(waited), int(turns))
    except (OSError, ValueError):
        _own.file = None
        return UNKNOWN


def clocks() -> Clocks:
    """Of the thread that asks, now. About 2.5 µs."""
    return Clocks(account(), time.process_time_ns(), time.thread_time_ns())


def recent_clocks(now: int) -> Clocks:
    """Of the thread that asks, at most a millisecond old; ``now`` is by ``time.time_ns``."""
    own = _own
    found = own.clocks
    if found is None or not 0 <= now - own.read < RECENT:
        found = own.clocks = clocks()
        own.read = now
    return found
