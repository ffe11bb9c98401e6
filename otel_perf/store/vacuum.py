"""Gives the free pages of the store's file back to the file system, when there are more of them than pages in use.

A file that had to hold a long backlog would keep that size for ever. Each step is a transaction of its own, of about
1 ms, for which the store's thread waits and nobody else does; another process that writes is not waited for. The file
gets shorter when SQLite next folds its WAL into it.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVERY: Final = 60.0  # seconds between looks
PAGES: Final = 64  # given back in one step: 0.5 MB, 0.3 ms
STEPS: Final = 1_000  # of one run, which is 500 MB in half a minute
SPARE: Final = 16_000_000  # bytes of free pages that are always kept for what comes next
SMALL: Final = 1_000_000  # bytes in use up to which a file is made anew in one go: 2 ms
_INCREMENTAL: Final = 2


def run(give_back: Callable[[], int]) -> Iterator[int]:
    """A cleanup task: the bytes that each step gave back."""
    for _ in range(STEPS):
        freed = give_back()
        if not freed:
            return
        yield freed


def step(connection: sqlite3.Connection, page_size: int) -> int:
    """Give some pages back; how many bytes they have. 0 if there are few, or another process writes just now.

    A file from before files were made for this is made anew, once there is nearly nothing in it. Raises
    ``sqlite3.Error``.
    """
    pages, free = _number(connection, "page_count"), _number(connection, "freelist_count")
    used = pages - free
    over = free - max(used, SPARE // page_size)
    if over <= 0:
        return 0
    waits = _number(connection, "busy_timeout")
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        if _number(connection, "auto_vacuum") == _INCREMENTAL:
            # Not execute(): it takes one step of the statement, which is one page.
            connection.executescript(f"PRAGMA incremental_vacuum({min(over, PAGES)})")
        elif used * page_size <= SMALL:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise
    finally:
        connection.execute(f"PRAGMA busy_timeout = {waits}")
    return max(0, pages - _number(connection, "page_count")) * page_size


def _number(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
