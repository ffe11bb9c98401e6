"""Deletes what earlier runs left and nobody needs: files that were set aside long ago, and empty stand-ins of homes.

Nothing that waits to be sent, or that a user may want to read, is touched: of the corrupt files the newest stays, and
a store in the temporary folder goes only when there is not a single batch in it. What is younger than a month stays.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING, Final

from otel_perf.core.home import STORE_FILE
from otel_perf.core.threads import allocate_lock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from otel_perf.core.home import Home

EVERY: Final = 3600.0  # seconds between looks
AGE: Final = 30 * 86_400.0  # seconds since something was changed last
_ENDINGS: Final = ("", "-wal", "-shm")


class StaleStores:
    """A cleanup task, for one home. SQLite is used under a lock that is held over a fork, as everywhere."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._lock = allocate_lock()
        self._held = False

    def run(self) -> Iterator[int]:
        """The bytes of each file that was deleted."""
        fallback = self._home.fallback_with(STORE_FILE)
        for folder in (self._home.path, *(() if fallback is None else (fallback,))):
            yield from _set_aside(folder)
        for folder in self._home.other_fallbacks():
            if _is_old(folder):
                with self._lock:
                    empty = _is_empty(folder / STORE_FILE)
                if empty:
                    yield from _delete(folder)

    def before_fork(self) -> None:
        """Hold the lock over the fork."""
        self._held = self._lock.acquire(timeout=1.0)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._held:
            self._held = False
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Begin anew."""
        self._lock, self._held = allocate_lock(), False


def _set_aside(folder: Path) -> Iterator[int]:
    found = sorted(folder.glob(f"{STORE_FILE}.corrupt-*"), reverse=True)
    names = [path for path in found if not path.name.endswith(_ENDINGS[1:])]
    for path in names[1:]:
        with contextlib.suppress(OSError):  # another process has deleted it
            if time.time() - path.stat().st_mtime <= AGE:
                continue
            yield sum(_unlink(path.with_name(path.name + ending)) for ending in _ENDINGS)


def _is_old(folder: Path) -> bool:
    try:
        return all(time.time() - path.stat().st_mtime > AGE for path in (folder, *folder.iterdir()))
    except OSError:
        return False


def _is_empty(path: Path) -> bool:
    """Whether it is a store of ours without a batch, as far as can be told without a change to it."""
    if not path.is_file() or path.is_symlink():
        return False
    wal = path.with_name(path.name + "-wal")
    # Without a WAL nobody has it open. Reading it as usual would make one, and the folder would look young again.
    how = "mode=ro" if wal.exists() and wal.stat().st_size else "immutable=1"
    try:
        with contextlib.closing(sqlite3.Connection(f"{path.as_uri()}?{how}", uri=True, timeout=0)) as connection:
            query = "SELECT EXISTS (SELECT 1 FROM batch) OR EXISTS (SELECT 1 FROM refused)"
            return not connection.execute(query).fetchone()[0]
    except sqlite3.Error:
        return False


def _delete(folder: Path) -> Iterator[int]:
    ours = [folder / (STORE_FILE + ending) for ending in _ENDINGS]
    ours += [folder / ".gitignore", folder / "lock", *folder.glob("drain-*.lock")]
    yield sum(_unlink(path) for path in ours)
    with contextlib.suppress(OSError):  # something of somebody else's is in it
        folder.rmdir()


def _unlink(path: Path) -> int:
    try:
        size = path.lstat().st_size
        path.unlink()
    except OSError:
        return 0
    return size
