"""Holds encoded batches until they are committed, through whatever goes wrong with the file.

Not thread-safe: the :class:`~otel_perf.store.writer.Writer` that owns it holds its lock.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_perf.core.errors import StoreError
from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import Database, NewBatch, identity_of, is_busy, is_corrupt, set_aside

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from otel_perf.core.home import Home

MEMORY_LIMIT: Final = 16 * 2**20  # bytes of encoded batches kept while the store cannot be written
RETRY: Final = 5.0  # seconds between attempts to write to a store that failed
CLOCK_STEP: Final = 60  # seconds that the clock may be set back without a word

_log = logging.getLogger("otel_perf")


class Owner(NamedTuple):
    """Whose batches these are, so that the right process sends them to the right place."""

    service: str = ""
    destination: str = ""
    delivered: bool = False  # somebody else sends them: these are copies


class Committer:
    """The connection of one process, made when there is something to store.

    A home that cannot be used is replaced by a temporary folder, a corrupt file is set aside, a deleted one made
    again; while nothing helps, the newest batches stay in memory. Each kind of trouble is one line, once.
    """

    def __init__(
        self,
        home: Home,
        *,
        limit: int,
        fsync: bool,
        owner: Owner,
        problem: Callable[[str], None],
        dropped: Callable[[str, int], None],
    ) -> None:
        self._home = home
        self._options: dict[str, Any] = {"limit": limit, "fsync": fsync, **owner._asdict()}
        self._problem = problem
        self._dropped = dropped  # called with a signal and how many of its items were lost
        self.stored = 0  # items committed by this process
        self.size: int | None = None  # bytes in use in the file after the last commit
        self.held: deque[NewBatch] = deque()  # encoded, not committed
        self.held_bytes = 0
        self.folder: Path | None = None  # where the store was opened last
        self._opening: tuple[int, int] | None = None  # identity of the file that was opened last
        self._failed_at: float | None = None
        self.error = ""  # why the last commit failed
        self._started_ns = time.time_ns() - time.monotonic_ns()  # what the clock said when the machine started
        self._told: set[str] = set()
        self._lines: deque[str] = deque()
        self._database: Database | None = None
        self._inherited: list[Database] = []  # connections of a parent: neither used nor closed, ever
        self._unusable = False  # SQLite cannot be used in this process

    def hold(self, signal: str, items: int, body: bytes) -> None:
        """Keep a batch for the next :meth:`commit`."""
        self.held.append(NewBatch(signal, items, body))
        self.held_bytes += len(body)

    def leave_to_parent(self, *, disconnected: bool) -> None:
        """In a forked child: what is held belongs to the parent, and so does a connection that is still open."""
        if not disconnected and self._database is not None:
            self._inherited.append(self._database)
            self._database = None
            self._unusable = True
        self.held = deque()
        self.held_bytes = 0
        self._failed_at = None
        self.error = ""
        self.stored = 0

    def disconnect(self) -> None:
        """Close the connection; the next commit makes another."""
        database, self._database = self._database, None
        try:
            if database is not None:
                database.close()
        except sqlite3.Error:
            _log.debug("otel-perf: closing the store failed", exc_info=True)

    def commit(self, *, force: bool) -> None:
        """Commit what is held; after a failure only every ``RETRY`` seconds, unless ``force``."""
        if not self.held:
            return
        if self._failed_at is not None and not force and time.monotonic() - self._failed_at < RETRY:
            self._trim()
            return
        try:
            self._store()
            self._failed_at = None
            self.error = ""
        except (sqlite3.Error, OSError) as error:
            self._failed_at = time.monotonic()
            self.error = str(error)
            if not (isinstance(error, sqlite3.Error) and is_busy(error)):
                self.tell(
                    "write",
                    f"otel-perf: the store in {self.folder or self._home.path} cannot be written ({error});"
                    f" keeping the newest {MEMORY_LIMIT // 2**20} MB in memory and trying again",
                )
            self._trim()

    def _store(self) -> None:
        for _attempt in range(2):
            try:
                database = self._connected()
                batches = list(self.held)
                dropped = database.append(batches, self._now_ns())
                self.size = database.size
                break
            except sqlite3.DatabaseError as error:
                if not is_corrupt(error):
                    raise
                self.set_aside(error)
        else:
            raise StoreError("the store is corrupt again just after it was set aside")
        self.held.clear()
        self.held_bytes = 0
        self.stored += sum(batch.items for batch in batches)
        for signal, items in dropped:
            self._dropped(signal, items)
        if dropped and self._options["destination"]:
            self.tell(
                "full",
                f"otel-perf: the store in {self.folder} is full: the oldest of what waits to be sent is dropped"
                f" and counted; raise OTEL_PERF_STORE_LIMIT (now {self._options['limit'] / 1e6:g}MB)",
            )

    def _now_ns(self) -> int:
        """The time, and a line when it went back: ids keep the order of what is stored, but spans look odd."""
        now = time.time_ns()
        started = now - time.monotonic_ns()
        back = (self._started_ns - started) // 1_000_000_000
        self._started_ns = started
        if back > CLOCK_STEP:
            self.tell(
                "clock",
                f"otel-perf: the clock was set back by {back} s: spans that were open then seem to end before they"
                " began; everything is stored and sent in its order",
            )
        return now

    def _connected(self) -> Database:
        if self._unusable:
            raise StoreError("the parent process was in the middle of a write when it forked")
        if self._database is not None and not self._database.is_current():
            self.disconnect()  # deleted or replaced under us: what we write there is lost
        if self._database is None:
            self._database = self._open()
        return self._database

    def _open(self) -> Database:
        try:
            folder = self._home.make()
            self._opening = identity_of(folder / STORE_FILE)
            database = Database(folder / STORE_FILE, **self._options)
        except (OSError, sqlite3.OperationalError) as error:
            if isinstance(error, sqlite3.Error) and is_busy(error):
                raise
            folder = self._home.fallback()
            database = Database(folder / STORE_FILE, **self._options)
            self.tell(
                "home", f"otel-perf: {self._home.path} cannot be used ({_why(error)}); storing in {folder} instead"
            )
        self.folder = folder
        return database

    def give_back(self) -> int:
        """Give free pages of the file back to the file system; how many bytes. 0 where no connection is open."""
        return 0 if self._database is None else self._database.give_back()

    def set_aside(self, error: sqlite3.Error, seen: tuple[int, int] | None = None) -> None:
        """Take a corrupt file out of the way; ``seen`` identifies it where somebody else met the corruption."""
        path, identity = (self.folder or self._home.path) / STORE_FILE, seen or self._opening
        if self._database is not None and seen in {None, self._database.identity}:
            path, identity = self._database.path, self._database.identity
            self.disconnect()
        target = set_aside(path, identity)
        if target is None:
            return  # another process was quicker: the path names its new file
        self.tell("corrupt", f"otel-perf: the store was corrupt ({error}); set aside as {target}, a new one was begun")

    def _trim(self) -> None:
        while self.held_bytes > MEMORY_LIMIT:
            batch = self.held.popleft()
            self.held_bytes -= len(batch.body)
            self._dropped(batch.signal, batch.items)

    def tell(self, kind: str, line: str) -> None:
        """Have one line said about each kind of trouble."""
        if kind not in self._told:
            self._told.add(kind)
            self._lines.append(line)

    def say_all(self) -> None:
        """Say the lines, outside of the lock: they run the app's log handlers."""
        while self._lines:
            try:
                self._problem(self._lines.popleft())
            except Exception:
                _log.debug("otel-perf: a line could not be said", exc_info=True)

    def give_up(self, timeout: float) -> None:
        """Say at the end that something could not be stored, unless the trouble is known already."""
        if self._told.isdisjoint({"home", "write", "corrupt"}):
            self.tell(
                "exit",
                f"otel-perf: the store in {self._home.path} did not answer in {timeout:g} s; the last items are lost",
            )


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{errno.errorcode.get(error.errno, '')}: {os.strerror(error.errno)}"
    return str(error)
