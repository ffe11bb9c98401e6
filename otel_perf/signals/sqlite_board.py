"""A board in a file: for all processes of one machine that share a home folder."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from otel_perf.core.chance import chance
from otel_perf.core.errors import SignalError
from otel_perf.core.home import make_private
from otel_perf.signals.board import KEPT
from otel_perf.signals.lives import forget_parent, lives_of
from otel_perf.signals.tables import LEFT, SCHEMA, Tables

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from otel_perf.signals.board import Heard, Wait
    from otel_perf.signals.signal import Producer, Signal

T = TypeVar("T")

FILE: Final = "signals.db"
FORMAT: Final = 1
PATIENCE: Final = 5.0  # seconds that an operation waits for a file that others keep busy
LEAVING: Final = 1.0  # the same at the end of a program
FIRST, SLOWEST = 0.005, 0.08  # seconds between two looks for news: at first, and when nothing came for a while
_WHOLE: Final = ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")
_NESTED: Final = ("SAVEPOINT inner", "RELEASE inner", "ROLLBACK TO inner")
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")

# Connections of a parent that forked: never used, and never closed, since that would drop the parent's locks.
_abandoned: Final[list[Any]] = []


class SqliteBoard:
    """See :class:`otel_perf.signals.board.Board`. About 100 µs to put, 20 to look whether there is something new.

    A file that was deleted or that is damaged is made anew (``renewed`` counts), for its users to put there again what
    they have said; a damaged one is moved aside. Raises ``SignalError`` for a file that others may write to.
    """

    def __init__(self, path: Path, *, kept: int = KEPT, say: Callable[[str], None] = lambda _line: None) -> None:
        self.path = path
        self.place = str(path)
        self.renewed = 0
        self._opened = 0
        self._kept = kept
        self._say = say
        self._lock = threading.RLock()
        self._held = False  # by a thread that forks
        self._connection: sqlite3.Connection | None = None
        self._tables: Tables | None = None
        self._lives = lives_of(path.with_suffix(".lock"))
        self._identity: tuple[int, int] | None = None
        self._boot = _boot()
        self._rest = FIRST
        self._bell = _bell()
        self._do(lambda tables: tables.since(0, 0))  # what is wrong with the place is told now

    # --- the contract ------------------------------------------------------------------------------

    def join(self, producer: Producer) -> Producer:
        """See the contract."""
        return self._write(lambda tables: tables.join(producer, self._lives.hold, self._lives.is_held))

    def leave(self, producer: Producer) -> None:
        """See the contract. Tried for 1 s: a program that ends does not wait long for others."""
        self._write(lambda tables: tables.end(producer, LEFT), LEAVING)

    def put(self, signal: Signal) -> Signal:
        """See the contract."""
        return self._write(lambda tables: tables.put(signal, self._lives.hold, self._lives.is_held))

    def current(
        self, scope: str, names: Collection[str], judge: Callable[[Signal], bool] | None = None
    ) -> Sequence[Signal]:
        """See the contract."""
        return self._do(lambda tables: tables.current(scope, names, judge))

    def said(self, scope: str, names: Collection[str]) -> Sequence[Signal]:
        """See the contract."""
        return self._do(lambda tables: tables.said(scope, names))

    def since(self, seq: int, limit: int = 1000) -> Sequence[Signal]:
        """See the contract."""
        return self._do(lambda tables: tables.since(seq, limit))

    def producers(self) -> Sequence[Heard]:
        """See the contract."""
        return self._do(lambda tables: tables.producers())

    def note(self, wait: Wait) -> None:
        """See the contract."""
        self._write(lambda tables: tables.note(wait))

    def forget(self, wait: Wait) -> None:
        """See the contract."""
        self._write(lambda tables: tables.forget(wait))

    def waits(self) -> Sequence[Wait]:
        """See the contract."""
        return self._do(lambda tables: tables.waits(self._lives.is_held))

    def changed(self, mark: object, timeout: float) -> object:
        """See the contract. Looks every 5 ms while something comes, and up to every 80 ms after that."""
        deadline = time.monotonic() + timeout
        while True:
            found = self._do(lambda tables: (self._opened, self._version(tables)))
            if found != mark:
                self._rest = FIRST
                return found
            left = deadline - time.monotonic()
            if left <= 0 or self._bell.acquire(timeout=min(self._rest, left)):
                return found
            self._rest = min(self._rest * 1.2, SLOWEST)

    def interrupt(self) -> None:
        """See the contract."""
        self._rest = FIRST
        self._ring()

    def close(self) -> None:
        """See the contract."""
        with self._lock:
            self._disconnect()

    def _ring(self) -> None:
        with contextlib.suppress(RuntimeError, ValueError):  # it rings already; the second is gevent's
            self._bell.release()

    # --- forks -------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Let nobody be in the midst of something, and close the connection; both open one when they next need it.

        SQLite keeps the locks of a file per process: the child inherits what it thinks of them. With the parent's
        connection left open, the parent's end took the log away under the child, and what that said was lost.
        """
        self._held = self._lock.acquire(timeout=PATIENCE)
        connection = self._connection
        if (
            self._held and connection is not None and not connection.in_transaction
        ):  # of this thread, whose handler forks
            self._disconnect()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        if self._held:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Leave all to the parent, and begin anew at the next use."""
        _abandoned.append((self._connection, self._tables))
        self._bell = _bell()
        self._connection = self._tables = None
        forget_parent()
        if self._held:  # ours; threads that hooks before this one have started may wait for it
            self._lock.release()
        else:
            self._lock = threading.RLock()

    # --- the file ----------------------------------------------------------------------------------

    def _version(self, _tables: Tables) -> int:
        assert self._connection is not None
        own = self._connection.total_changes  # data_version tells only what others have changed
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0]) * 2**32 + own

    def _write(self, action: Callable[[Tables], T], patience: float = PATIENCE) -> T:
        def in_transaction(tables: Tables) -> T:
            connection = self._connection
            assert connection is not None
            # A signal's handler, or a finalizer, may come here in the midst of a transaction of this thread.
            begin, end, back = _NESTED if connection.in_transaction else _WHOLE
            connection.execute(begin)
            try:
                made = action(tables)
                connection.execute(end)
            except BaseException:
                if connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute(back)
                raise
            return made

        made = self._do(in_transaction, patience)
        self._ring()
        return made

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """One transaction around several puts in this thread: processes that start at once wait for each other."""

        def begin(_tables: Tables) -> sqlite3.Connection:
            assert self._connection is not None
            self._connection.execute("BEGIN IMMEDIATE")
            return self._connection

        with self._lock:
            connection = self._do(begin)
            try:
                yield
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            self._do(lambda _tables: connection.execute("COMMIT"))
            self._ring()

    def _do(self, action: Callable[[Tables], T], patience: float = PATIENCE) -> T:
        """Call ``action`` with the tables, again while the file is busy or where it has to be made anew."""
        deadline = time.monotonic() + patience
        with self._lock:
            while True:
                try:
                    return action(self._connected())
                except sqlite3.Error as error:
                    self._recover(error, deadline)
                except OSError as error:
                    raise SignalError(f"the signal board {self.place} cannot be used: {error}") from error

    def _recover(self, error: sqlite3.Error, deadline: float) -> None:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} and time.monotonic() < deadline:
            time.sleep(chance.uniform(0.001, 0.01))
        elif code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB} and self._move_aside():
            pass
        else:
            why = "others keep it locked" if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED} else str(error)
            raise SignalError(f"the signal board {self.place} cannot be used: {why}") from error

    def _connected(self) -> Tables:
        if self._tables is not None and self._identity != _identity(self.path):
            _abandoned.append(self._connection)  # closing it would delete the new file's log, by its name
            self._connection = self._tables = None
            self.renewed += 1
        if self._tables is None:
            self._connect()
        assert self._tables is not None
        return self._tables

    def _connect(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        try:
            handle = os.open(self.path, flags, 0o600)
        except FileNotFoundError:  # somebody has taken the folder away
            make_private(self.path.parent)
            handle = os.open(self.path, flags, 0o600)
        try:
            found = os.fstat(handle)
            others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            if hasattr(os, "getuid") and (others or found.st_uid != os.getuid()):
                raise SignalError(
                    f"the signal board {self.place} can be written by others (mode {stat.filemode(found.st_mode)},"
                    f" owner {found.st_uid}): what stands there is not trusted; chmod 600, or delete it"
                )
        finally:
            os.close(handle)
        # The class itself: instrumentation-sqlite3 wraps the connect functions, and would trace us.
        connection = sqlite3.Connection(self.place, timeout=0.1, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._identity = connection, _identity(self.path)
        self._lives.serve(self._identity)
        self._opened += 1
        self._tables = Tables(connection, lambda: (self._boot, _boot_time()), self._kept)

    @staticmethod
    def _prepare(connection: sqlite3.Connection) -> None:
        execute = connection.execute
        version = execute("PRAGMA user_version").fetchone()[0]
        if version not in {0, FORMAT}:
            raise SignalError(
                f"the signal board has format {version}, this otel-perf knows {FORMAT}: upgrade otel-perf"
            )
        execute("PRAGMA journal_mode = WAL")
        execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            execute("BEGIN IMMEDIATE")
            for statement in SCHEMA:
                execute(statement)
            execute(f"PRAGMA user_version = {FORMAT}")
            execute("COMMIT")

    def _move_aside(self) -> bool:
        """Put a damaged file out of the way; whether that could be done."""
        self._disconnect()
        broken = self.path.with_name(f"{self.path.name}.broken-{time.time_ns()}")
        try:
            self.path.replace(broken)
            for ending in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    Path(self.place + ending).unlink()
        except OSError:
            return False
        self.renewed += 1
        self._say(f"otel-perf: the signal board {self.place} was damaged; it is made anew, and kept as {broken.name}")
        return True

    def _disconnect(self) -> None:
        connection, self._connection, self._tables = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _bell() -> Any:
    """A lock that is released to wake who waits: that may be done in a signal's handler, unlike setting an event."""
    bell = threading.Lock()
    bell.acquire()
    return bell


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""


def _boot_time() -> int:
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic_ns() if clock is None else time.clock_gettime_ns(clock)
