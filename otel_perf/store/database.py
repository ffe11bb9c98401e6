"""The embedded SQLite file: batches of encoded telemetry, appended by writers, read by anybody.

Every process has one connection, used by one thread under a lock that is held across forks (see
:mod:`otel_perf.store.writer`). A batch is a serialized OTLP export request, ready to be posted.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_perf.core.chance import chance
from otel_perf.core.errors import StoreError
from otel_perf.core.home import STORE_FILE
from otel_perf.store import schema, vacuum

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

BUSY_TIMEOUT: Final = 5.0  # seconds that SQLite waits for another process's commit
OPEN_TIMEOUT: Final = 10.0  # seconds of retries while many processes open one file at once
SIGNALS: Final = ("traces", "metrics", "logs")

_SLICE: Final = 16  # batches deleted at a time when the file is full
_TOGETHER: Final = 64  # batches that are read in one transaction,
_TOGETHER_BYTES: Final = 8 * 2**20  # or as many as have these bytes
_SLICES: Final = 64  # at most in one commit: a file far above its limit gets there over several, and delays none


class Batch(NamedTuple):
    """One stored batch: ``body`` is a serialized ``Export*ServiceRequest`` with ``items`` items."""

    id: int
    signal: str
    created: int  # nanoseconds since the epoch
    items: int
    body: bytes


class NewBatch(NamedTuple):
    """A batch to be stored."""

    signal: str
    items: int
    body: bytes


class Delivery(NamedTuple):
    """The last change in how sending to one place goes."""

    place: str
    at: int  # nanoseconds since the epoch
    error: str  # empty: it is taking what we send


class Database:
    """A connection for writing. Not thread-safe: its owner holds a lock. Never used after a fork."""

    def __init__(
        self,
        path: Path,
        *,
        limit: int,
        fsync: bool = False,
        service: str = "",
        destination: str = "",
        delivered: bool = False,
    ) -> None:
        self.path = path
        self._limit = limit
        self._owner = (delivered, service, destination)  # written beside each batch
        self._connection = open_file(path, fsync=fsync)
        self.identity = identity_of(path)
        self.size = 0  # bytes in use after the last commit
        self._page_size = int(self._connection.execute("PRAGMA page_size").fetchone()[0])

    def append(self, batches: Sequence[NewBatch], now_ns: int) -> list[tuple[str, int]]:
        """Commit ``batches`` in order; returns what was dropped to stay under the limit, as (signal, items).

        Raises ``sqlite3.Error`` with nothing committed.
        """
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            for batch in batches:
                execute(
                    "INSERT INTO batch(signal, created, items, delivered, service, destination, body)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (SIGNALS.index(batch.signal), now_ns, batch.items, *self._owner, batch.body),
                )
            dropped = self._shrink()
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        return dropped

    def used(self) -> int:
        """Bytes in use in the file, free pages not counted."""
        pages = self._connection.execute("PRAGMA page_count").fetchone()[0]
        free = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        return int(pages - free) * self._page_size

    def give_back(self) -> int:
        """Give free pages back to the file system; how many bytes. 0 if there are few, or the file is not ours now."""
        return vacuum.step(self._connection, self._page_size) if self.is_current() else 0

    def is_current(self) -> bool:
        """Whether the path still names the file that is open (nobody deleted or replaced it). 2 µs."""
        return identity_of(self.path) == self.identity

    def close(self) -> None:
        """Close the connection; the last one to close folds the WAL into the file."""
        self._connection.close()

    def _shrink(self) -> list[tuple[str, int]]:
        """Make room: first what was delivered, then what was refused, then the oldest, which is a loss."""
        dropped: list[tuple[str, int]] = []
        execute = self._connection.execute
        for _ in range(_SLICES):
            self.size = self.used()
            if self.size <= self._limit:
                break
            if _delete_some(self._connection):
                continue
            rows = execute("SELECT id, signal, items FROM batch ORDER BY id LIMIT ?", (_SLICE,)).fetchall()
            if len(rows) <= 1:
                break  # one batch over the limit by itself: keep it
            for identifier, signal, items in rows:
                execute("DELETE FROM batch WHERE id = ?", (identifier,))
                dropped.append((SIGNALS[signal], items))
                execute(
                    "INSERT INTO dropped VALUES (?, 1, ?) ON CONFLICT (signal)"
                    " DO UPDATE SET batches = batches + 1, items = items + excluded.items",
                    (signal, items),
                )
        else:
            self.size = self.used()
        return dropped


def _delete_some(connection: sqlite3.Connection) -> bool:
    """Delete a few batches that nobody waits for; ``False`` if there are none."""
    for table, condition in (("batch", "WHERE delivered"), ("refused", "")):
        deleted = connection.execute(
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} {condition} ORDER BY id LIMIT ?)", (_SLICE,)
        )
        if deleted.rowcount:
            return True
    return False


def open_file(path: Path, *, fsync: bool) -> sqlite3.Connection:
    """Open or create the file. Retries: first opens at the same moment see "locked" despite the timeout."""
    deadline = time.monotonic() + OPEN_TIMEOUT
    while True:
        connection = None
        try:
            # Readable by its owner alone, whatever the folder's mode; SQLite gives the WAL the same.
            # A link is not followed: in a folder that others may write to it leads wherever they like.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
            # The class itself: instrumentation-sqlite3 wraps the connect functions, and would trace us.
            connection = sqlite3.Connection(
                str(path), timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            schema.prepare(connection, fsync=fsync)
            return connection
        except sqlite3.OperationalError as error:
            if connection is not None:
                connection.close()
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(chance.uniform(0.005, 0.05))
        except BaseException:
            if connection is not None:
                connection.close()
            raise


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds the file, so that trying again helps."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the file is not, or no longer, a database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def identity_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file that ``path`` names now; ``None`` if there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def set_aside(path: Path, identity: tuple[int, int] | None) -> Path | None:
    """Rename a corrupt file (and its WAL) out of the way; nothing is deleted. Returns the new name.

    ``None`` if ``path`` no longer names the file with ``identity``: another process was quicker. Processes that
    see the corruption at the same moment take turns.
    """
    with _turn(path.with_name("lock")):
        if identity is None or identity_of(path) != identity:
            return None
        target = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
        for suffix in ("", "-wal", "-shm"):
            source = path.with_name(path.name + suffix)
            if source.exists():
                source.rename(target.with_name(target.name + suffix))
        return target


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold a lock file, where the platform has such locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class StoreReader:
    """Reads a store while others write to it. Short transactions, so that the WAL can be reset."""

    def __init__(self, home: Path) -> None:
        path = home / STORE_FILE
        if not path.exists():
            raise StoreError(f"no store at {path}: run the program under opentelemetry-instrument first")
        try:
            self._connection = sqlite3.Connection(
                f"file:{_quote(path)}?mode=ro", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None
            )
            if self._connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                self._connection = _empty(self._connection)
            self._connection.execute("SELECT id FROM batch LIMIT 1").fetchone()
        except sqlite3.Error as error:
            with contextlib.suppress(AttributeError):  # it may have failed before there was one
                self._connection.close()
            raise StoreError(f"the store {path} cannot be read: {error}") from error
        self.path = path

    def batches(self, signals: Iterable[str] = SIGNALS, *, after: int = 0, since_ns: int = 0) -> Iterator[Batch]:
        """The batches of ``signals``, oldest first, with an id above ``after``."""
        wanted = [SIGNALS.index(signal) for signal in signals]
        marks = ",".join("?" * len(wanted))
        query = (
            f"SELECT id, signal, created, items, body FROM batch WHERE id > ? AND created >= ? AND signal IN ({marks})"
            f" ORDER BY id LIMIT {_TOGETHER}"
        )
        while True:
            rows = self._some(query, (after, since_ns, *wanted))
            if not rows:
                return
            for identifier, signal, created, items, body in rows:
                yield Batch(identifier, SIGNALS[signal], created, items, body)
            after = rows[-1][0]

    def _some(self, query: str, parameters: tuple[int, ...]) -> list[tuple[int, int, int, int, bytes]]:
        """The first rows, and no more bytes than are read at a time: a batch that was received may have megabytes."""
        rows, size = [], 0
        cursor = self._connection.execute(query, parameters)
        for row in cursor:
            rows.append(row)
            size += len(row[4])
            if size >= _TOGETHER_BYTES:
                break
        cursor.close()  # the transaction ends here
        return rows

    def own_id(self) -> int:
        """The random number of this store; 0 in one of an older release that no newer one has opened to write."""
        return schema.own_id(self._connection)

    def batch(self, identifier: int) -> Batch | None:
        """One batch; ``None`` if it is no longer here."""
        row = self._connection.execute(
            "SELECT id, signal, created, items, body FROM batch WHERE id = ?", (identifier,)
        ).fetchone()
        return None if row is None else Batch(row[0], SIGNALS[row[1]], *row[2:])

    def last_id(self) -> int:
        """The newest batch's id, 0 in an empty store."""
        return int(self._connection.execute("SELECT coalesce(max(id), 0) FROM batch").fetchone()[0])

    def newest_given(self) -> int:
        """The highest id that was ever given, also of a batch that is no longer here."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'batch'").fetchone()
        return int(row[0]) if row else 0

    def items(self, *, after: int = 0) -> int:
        """How many items are here, in batches with an id above ``after``."""
        row = self._connection.execute("SELECT coalesce(sum(items), 0) FROM batch WHERE id > ?", (after,)).fetchone()
        return int(row[0])

    def body(self, identifier: int) -> bytes | None:
        """One batch as it is; ``None`` if it is no longer here."""
        row = self._connection.execute("SELECT body FROM batch WHERE id = ?", (identifier,)).fetchone()
        return None if row is None else bytes(row[0])

    def newest(self) -> int:
        """When the newest batch was stored, in ns since the epoch; 0 in an empty store."""
        return int(self._connection.execute("SELECT coalesce(max(created), 0) FROM batch").fetchone()[0])

    def pending(self) -> dict[str, tuple[int, int]]:
        """Batches and items by signal that have not been delivered."""
        rows = self._connection.execute(
            "SELECT signal, count(*), coalesce(sum(items), 0) FROM batch WHERE NOT delivered GROUP BY signal"
        )
        return {SIGNALS[signal]: (batches, items) for signal, batches, items in rows}

    def waiting_for_others(self, destination: str) -> dict[str, int]:
        """Items that wait for another named destination, by its place as far as it is known."""
        rows = self._connection.execute(
            "SELECT destination, sum(items) FROM batch WHERE NOT delivered AND destination NOT IN ('', ?)"
            " GROUP BY destination",
            (destination,),
        ).fetchall()
        found: dict[str, int] = {}
        for other, items in rows:
            query = "SELECT place FROM delivery WHERE destination LIKE ? ORDER BY at DESC LIMIT 1"
            place = self._connection.execute(query, (f"{other}/%",)).fetchone()
            name = "" if place is None else str(place[0])
            found[name] = found.get(name, 0) + items
        return found

    def dropped(self) -> dict[str, tuple[int, int]]:
        """Batches and items by signal that were dropped because the store was full."""
        rows = self._connection.execute("SELECT signal, batches, items FROM dropped")
        return {SIGNALS[signal]: (batches, items) for signal, batches, items in rows}

    def refused(self) -> list[tuple[str, int, int, str]]:
        """What a receiver refused, as (signal, batches, items, the latest reason)."""
        rows = self._connection.execute(
            "SELECT signal, count(*), sum(items), reason, max(id) FROM refused GROUP BY signal ORDER BY signal"
        )
        return [(SIGNALS[signal], batches, items, reason) for signal, batches, items, reason, _ in rows]

    def refused_batches(self, signals: Iterable[str] = SIGNALS) -> Iterator[Batch]:
        """The batches that a receiver refused, oldest first."""
        wanted = [SIGNALS.index(signal) for signal in signals]
        rows = self._connection.execute("SELECT id, signal, created, items, body FROM refused ORDER BY id")
        for identifier, signal, created, items, body in rows:
            if signal in wanted:
                yield Batch(identifier, SIGNALS[signal], created, items, body)

    def deliveries(self) -> list[Delivery]:
        """How sending went last, by destination."""
        rows = self._connection.execute("SELECT place, at, error FROM delivery ORDER BY at")
        return [Delivery(*row) for row in rows]

    def size(self) -> int:
        """Bytes of the file and its WAL on disk."""
        names = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(name.stat().st_size for name in names if name.exists())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _empty(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Stands in for a store that its first writer is just making."""
    connection.close()
    memory = sqlite3.Connection(":memory:")
    for statement in schema.TABLES:
        memory.execute(statement)
    return memory


def _quote(path: Path) -> str:
    from urllib.parse import quote

    return quote(str(path))
