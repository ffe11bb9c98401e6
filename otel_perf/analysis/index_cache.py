"""Indexes that are in no home: of several stores together, or of one that cannot be written.

They hold lines of logs, so one of a store that was deleted is deleted as well, whoever looks next at any store.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from otel_perf.analysis.index_stores import is_gone
from otel_perf.analysis.index_tables import INDEX_FILE, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL: Final = 0.5  # seconds between two tries to get a lock


def folder() -> Path:
    """Where they are, each in a folder of its own."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "otel-perf" / "view"


def clean(mine: Path) -> None:
    """Delete those of which a store is gone, but for ``mine`` and any that another process keeps up to date."""
    try:
        found = sorted(folder().glob(f"*/{INDEX_FILE}"))
    except (OSError, RuntimeError):  # no home folder
        return
    for path in found:
        if path == mine:
            continue
        with contextlib.suppress(OSError), lock(path, waits=lambda: False) as is_alone:
            if is_alone and _is_of_a_gone_store(path):
                remove(path)
                _lock_of(path).unlink()
                path.with_name(".gitignore").unlink(missing_ok=True)  # as each private folder has one
                path.parent.rmdir()


def _is_of_a_gone_store(path: Path) -> bool:
    """Whether the index has anything of a store that is no longer there; of a damaged one nobody can tell."""
    try:
        connection = sqlite3.Connection(f"file:{quote(str(path))}?mode=ro", uri=True)
        try:
            rows = connection.execute(
                "SELECT home FROM store WHERE id IN (SELECT store FROM progress WHERE last > 0)"
            ).fetchall()
        finally:
            connection.close()
    except sqlite3.Error:
        return True
    return any(is_gone(Path(home)) for (home,) in rows)


@contextlib.contextmanager
def lock(path: Path, *, waits: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lock of an index; ``False`` if another process has it and ``waits`` says not to wait any more."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # somebody may have cleaned up
    with _lock_of(path).open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if not waits():
                    yield False
                    return
                time.sleep(POLL)
        yield True


def _lock_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
