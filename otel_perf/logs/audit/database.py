"""The SQLite file of the trail: appended to by many processes, read by anybody.

The hash of the record before is read in the transaction that adds the next one (``BEGIN IMMEDIATE``), so that there is
one chain over all processes. Nothing waits in here: a file that another process is writing to is ``SQLITE_BUSY`` at
once, and whoever calls tries again (see :func:`retrying`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import stat
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from otel_perf.core.chance import chance
from otel_perf.core.errors import AuditError
from otel_perf.logs.audit import chain
from otel_perf.logs.audit.chain import Checkpoint
from otel_perf.logs.audit.encoding import canonical
from otel_perf.logs.audit.keys import INSTALL, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from otel_perf.logs.audit.heads import Heads
    from otel_perf.logs.audit.keys import KeyRing, Signer

T = TypeVar("T")

AUDIT_FILE: Final = "audit.db"
PATIENCE: Final = 30.0  # seconds for which a file that is busy is tried again
CUT_SLICE: Final = 20_000  # records removed in one transaction: the others wait for it
SCHEMA: Final = {
    "record": """CREATE TABLE record (seq INTEGER PRIMARY KEY, time INTEGER NOT NULL, kind TEXT NOT NULL,
    body BLOB NOT NULL, hash BLOB NOT NULL, seal BLOB)""",
    # What the first record is chained to: the start of the trail (cut = 0), or the last record that was removed.
    "trail": "CREATE TABLE trail (id TEXT NOT NULL, cut INTEGER NOT NULL, hash BLOB NOT NULL, seal BLOB)",
    # Each key from the record on that announces it; consent: the old key's signature. Kept when that record is cut.
    "signer": "CREATE TABLE signer (seq INTEGER PRIMARY KEY, public BLOB NOT NULL, consent BLOB)",
}


class New(NamedTuple):
    """A record to be stored."""

    kind: str
    body: bytes
    time: int


class Stored(NamedTuple):
    """Where a record has found its place."""

    seq: int
    hash: str


class _End:
    """The end of the chain within a transaction, and the rows that were added to it."""

    def __init__(self, trail: str, seq: int, digest: bytes, seal: bytes | None) -> None:
        self.trail = trail
        self.seq = seq
        self.hash = digest
        self.seal = seal
        self.new: list[New] = []

    def close(self, signer: Signer | None) -> list[chain.Row]:
        """The rows of what was added, the last with its seal."""
        rows = []
        for place, record in enumerate(self.new, 1):
            sealed = signer is not None and place == len(self.new)
            seq = self.seq + 1
            digest = chain.link(self.hash, self.seal, seq, record.time, record.kind, sealed, record.body)
            seal = None
            if sealed and signer is not None:
                seal = signer.sign(chain.seal_message(self.trail, seq, digest.hex()))
            rows.append(chain.Row(seq, record.time, record.kind, record.body, digest, seal))
            self.seq, self.hash, self.seal = seq, digest, seal
        return rows


class Database:
    """A connection for writing. Not thread-safe: its owner holds a lock. Never used after a fork.

    Every method raises ``sqlite3.Error`` with nothing changed, or ``AuditError``.
    """

    def __init__(self, folder: Path, keys: KeyRing, heads: Heads) -> None:
        self.path = folder / AUDIT_FILE
        self._keys = keys
        self._heads = heads
        self.trouble = ""  # why the head could not be written; the records are safe all the same
        try:
            self._connection = _open(self.path, heads)
        except BaseException:
            heads.close()
            raise
        self._identity = _identity(self.path)

    def append(self, records: Sequence[New]) -> tuple[list[Stored], Checkpoint]:
        """Commit ``records`` in order: where each is, and the new end. They are on the disk when this returns."""
        with self._transaction() as end:
            gap = self._gap(end)
            signer = self._signer(end)
            first = len(end.new)
            end.new += records
            rows = self._insert(end, signer)
        head = self._publish(end, signer, force=gap)
        return [Stored(row.seq, row.hash.hex()) for row in rows[first:]], head

    def rotate(self) -> Checkpoint:
        """Begin to sign with a new key; the old one signs that, and is gone. Returns the new end."""
        with self._transaction() as end:
            gap = self._gap(end)
            old = self._signer(end)
            if old is None:
                raise AuditError(f"the trail is not signed, there is no key to rotate: {INSTALL}")
            if end.new:  # the trail begins here: its first key is announced under its own seal
                self._insert(end, old)
                end.new = []
            successor = self._keys.make_successor()
            seq, public = end.seq + 1, successor.public.hex()
            consent = old.sign(chain.key_message(end.trail, seq, public))
            body = canonical({"by": old.public.hex(), "consent": consent.hex(), "public": public})
            end.new.append(New(chain.KEY, body, time.time_ns()))
            self._connection.execute("INSERT INTO signer VALUES (?, ?, ?)", (seq, successor.public, consent))
            self._insert(end, successor)
        head = self._publish(end, successor, force=gap)
        retrying(self._settle)
        return head

    def _settle(self) -> None:
        """Let the new key take the place of the old one, under the lock of the file, as every use of the keys is.

        If this process is killed before, the next that signs does it.
        """
        with self._transaction() as end:
            self._signer(end)

    def cut(self, before_ns: int, reason: str) -> int:
        """Remove the oldest records, up to the first that is not older than ``before_ns``; how many.

        A record says so, with the number, the times and the last hash of what was removed; it is signed as any other,
        and what is left is chained to that hash. At most ``CUT_SLICE`` at once: call it until it returns 0.
        """
        with self._transaction() as end:
            gap = self._gap(end)
            signer = self._signer(end)
            old, first_time, worth = 0, 0, False
            last: list[Any] | None = None
            rows = self._connection.execute("SELECT kind, seq, time, hash, seal FROM record ORDER BY seq")
            for kind, *row in rows:
                if row[1] >= before_ns or old == CUT_SLICE:
                    break
                first_time = first_time or row[1]
                old, last, worth = old + 1, row, worth or kind != chain.CUT
            rows.close()
            if last is None or not worth:  # a cut that removes cuts would go on for ever
                return 0
            seq, made, digest, seal = last
            found: dict[str, Any] = {"count": old, "first": first_time, "last": made, "reason": reason, "through": seq}
            found |= {"hash": digest.hex(), "seal": seal and seal.hex()}
            end.new.append(New(chain.CUT, canonical(found), time.time_ns()))
            self._insert(end, signer)
            self._connection.execute("DELETE FROM record WHERE seq <= ?", (seq,))
            self._connection.execute("UPDATE trail SET cut = ?, hash = ?, seal = ?", (seq, digest, seal))
        self._publish(end, signer, force=gap)
        with contextlib.suppress(sqlite3.Error):  # the room is given back at the next cut
            self._connection.execute("PRAGMA incremental_vacuum").fetchall()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return old

    def note(self, checkpoint: Checkpoint, *, every: float) -> bool:
        """Append to the checkpoints, see :meth:`Heads.note`."""
        try:
            return self._heads.note(checkpoint, every=every)
        except OSError as error:
            self.trouble = self.trouble or f"a checkpoint of the audit trail cannot be written: {error}"
            return False

    def is_current(self) -> bool:
        """Whether the path still names the file that is open. 2 µs."""
        return _identity(self.path) == self._identity

    def close(self) -> None:
        """Close the connection; the last one to close folds the WAL into the file."""
        self._heads.close()
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[_End]:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            yield self._end()
            execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):  # the error that led here is the one to tell
                    execute("ROLLBACK")

    def _end(self) -> _End:
        trail, cut, digest, seal = self._connection.execute("SELECT id, cut, hash, seal FROM trail").fetchone()
        row = self._connection.execute("SELECT seq, hash, seal FROM record ORDER BY seq DESC LIMIT 1").fetchone()
        return _End(trail, cut, digest, seal) if row is None else _End(trail, *row)

    def _gap(self, end: _End) -> bool:
        """Add a record to ``end`` if the file does not hold what the head says it did; whether it did."""
        head = self._heads.read()
        if head is None:
            found: dict[str, Any] = {"why": "audit.head is missing or damaged"}
        elif head.trail != end.trail:
            found = {"why": "audit.head is of another trail", "head": head._asdict()}
        elif head.seq > end.seq:
            found = {"why": "records are missing at the end", "head": head._asdict()}
        elif head.seq == end.seq and head.hash != end.hash.hex():
            found = {"why": "the last record is another one", "head": head._asdict()}
        else:
            return False
        end.new.append(New(chain.GAP, canonical(found | {"found": end.seq}), time.time_ns()))
        return True

    def _signer(self, end: _End) -> Signer | None:
        """Who signs; the first time, with the record that announces the key."""
        row = self._connection.execute("SELECT public FROM signer ORDER BY seq DESC LIMIT 1").fetchone()
        signer = self._keys.signer(None if row is None else row[0])
        if row is None and signer is not None:
            seq = end.seq + len(end.new) + 1
            end.new.append(New(chain.KEY, canonical({"public": signer.public.hex()}), time.time_ns()))
            self._connection.execute("INSERT INTO signer VALUES (?, ?, NULL)", (seq, signer.public))
        return signer

    def _insert(self, end: _End, signer: Signer | None) -> list[chain.Row]:
        rows = end.close(signer)
        self._connection.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)", rows)
        return rows

    def _publish(self, end: _End, signer: Signer | None, *, force: bool) -> Checkpoint:
        """Write the head. What is committed is safe: a failure is told, and leaves only the head behind."""
        public, seal = ("", "") if signer is None or end.seal is None else (signer.public.hex(), end.seal.hex())
        head = Checkpoint(end.trail, end.seq, end.hash.hex(), public, seal)
        if signer is not None:
            self._keys.publish(signer.public)
        try:
            self._heads.write(head, force=force)
        except OSError as error:
            self.trouble = self.trouble or f"the head of the audit trail cannot be written: {error}"
        return head


def retrying(action: Callable[[], T], *, patience: float = PATIENCE) -> T:
    """Call ``action`` until the file is free. Raises ``AuditError`` when it is not for ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return action()
        except sqlite3.Error as error:
            if not is_busy(error):
                raise
            if time.monotonic() > deadline:
                raise AuditError(f"other processes kept the audit trail busy for {patience:g} s") from error
            pause()


def pause() -> None:
    """A moment before the next try: about as long as a commit, and never the same for two processes."""
    time.sleep(chance.uniform(0.0005, 0.005))


def is_busy(error: BaseException) -> bool:
    """Whether another process holds the file, so that trying again helps."""
    busy = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in busy


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open(path: Path, heads: Heads) -> sqlite3.Connection:
    _make_private(path)
    # The class itself: instrumentation-sqlite3 wraps the connect functions, and would trace us.
    connection = sqlite3.Connection(str(path), timeout=0, isolation_level=None, check_same_thread=False)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in {0, chain.FORMAT}:
            raise AuditError(f"{path} has format {version}, this otel-perf knows {chain.FORMAT}: upgrade otel-perf")
        if version == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 8388608")
        connection.execute("PRAGMA secure_delete = ON")  # what retention removes is gone
        connection.execute("PRAGMA trusted_schema = OFF")
        if version == 0:
            _begin_trail(connection, path, heads)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_private(path: Path) -> None:
    """Make the file, readable by its owner alone, whatever the folder's mode; SQLite gives the WAL the same.

    One that is there is not opened: closing it again would take away the locks that another connection of this process
    holds, and another process would take the WAL away under it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise AuditError(f"{path} is no regular file; a link is not followed") from None


def _begin_trail(connection: sqlite3.Connection, path: Path, heads: Heads) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:  # nobody was quicker
            trail = secrets.token_hex(16)
            for statement in SCHEMA.values():
                connection.execute(statement)
            connection.execute("INSERT INTO trail VALUES (?, 0, ?, NULL)", (trail, chain.start(trail)))
            connection.execute(f"PRAGMA user_version = {chain.FORMAT}")
            heads.begin(Checkpoint(trail, 0, chain.start(trail).hex(), "", ""))
            sync_folder(path.parent)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
