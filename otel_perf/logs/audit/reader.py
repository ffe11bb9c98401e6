"""Reads a trail while others write to it: one snapshot, row by row, in constant memory."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from otel_perf.core.errors import AuditError
from otel_perf.logs.audit import chain
from otel_perf.logs.audit.chain import Checkpoint
from otel_perf.logs.audit.database import AUDIT_FILE, SCHEMA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGEST: Final = 2_000_000  # bytes of a value: ours are smaller, and a forged one must not fill the memory
KEYS: Final = 10_000  # keys of one trail
BUSY_TIMEOUT: Final = 10.0


class SignerRow(NamedTuple):
    """A key, from the record on that announces it."""

    seq: int
    public: bytes
    consent: bytes | None


class Reader:
    """A snapshot of the file. Raises ``AuditError`` when there is none or it cannot be read at all.

    Rows may be anything: whoever can write the file may have put it there. Texts come as bytes.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / AUDIT_FILE
        if not self.path.exists():
            raise AuditError(f"there is no audit trail at {self.path}; --home names another folder")
        if not self.path.is_file():
            raise AuditError(f"{self.path} is no file: it was replaced")
        connection = None
        try:
            connection = self._open()
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > chain.FORMAT:
                raise AuditError(f"{self.path} has format {version}, this otel-perf knows {chain.FORMAT}: upgrade it")
            connection.execute("BEGIN")
            self.schema = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchmany(100)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise AuditError(f"{self.path} cannot be read: {error}") from error
        self._connection = connection

    def _open(self) -> sqlite3.Connection:
        wal = self.path.with_name(self.path.name + "-wal")
        # Where nothing can be written, SQLite does not read a file in WAL mode; without a WAL it is whole as it is.
        mode = "ro" if wal.exists() or os.access(self.path.parent, os.W_OK) else "ro&immutable=1"
        connection = sqlite3.Connection(
            f"file:{quote(str(self.path))}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT, isolation_level=None
        )
        connection.text_factory = bytes
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST)
        return connection

    def has_our_schema(self) -> bool:
        """Whether the tables are ours, and there is nothing besides, such as a trigger."""
        ours = sorted((name.encode(), statement.encode()) for name, statement in SCHEMA.items())
        return self.schema == ours

    def trail(self) -> tuple[Any, Any, Any, Any]:
        """The trail's name, and what its first record is chained to: the last that was removed, its hash and seal."""
        rows = self._connection.execute("SELECT id, cut, hash, seal FROM trail LIMIT 2").fetchall()
        return rows[0] if len(rows) == 1 else (None, None, None, None)

    def signers(self) -> list[SignerRow]:
        """The keys, in the order in which they were in force."""
        rows = self._connection.execute("SELECT seq, public, consent FROM signer ORDER BY seq LIMIT ?", (KEYS,))
        return [SignerRow(*row) for row in rows]

    def rows(self, after: int = 0) -> Iterator[tuple[Any, ...]]:
        """``seq, time, kind, body, hash, seal`` as they stand in the file, in order, up to one that cannot be read."""
        query = "SELECT seq, time, kind, body, hash, seal FROM record WHERE seq > ? ORDER BY seq"
        while True:
            try:
                for row in self._connection.execute(query, (after,)):
                    yield row
                    after = row[0]
            except sqlite3.Error:
                # Python reads a row ahead, so that the error may be the one of the row after this: one at a time.
                single = self._connection.execute(f"{query} LIMIT 1", (after,)).fetchone()
                if single is None:
                    raise
                yield single
                after = single[0]
            else:
                return

    def size(self) -> int:
        """How many records there are, if none is missing; 0 where that cannot be read."""
        try:
            first, last = self._connection.execute("SELECT min(seq), max(seq) FROM record").fetchone()
        except sqlite3.Error:
            return 0
        return 0 if last is None else last - first + 1

    def stray(self, cut: int) -> int | None:
        """A row with a number that no record has: up to ``cut`` they were removed."""
        row = self._connection.execute("SELECT min(seq) FROM record WHERE seq <= ?", (cut,)).fetchone()
        return None if row is None else row[0]

    def hash_of(self, seq: int) -> bytes | None:
        """The hash of one record."""
        row = self._connection.execute("SELECT hash FROM record WHERE seq = ?", (seq,)).fetchone()
        return None if row is None else row[0]

    def newest(self) -> Iterator[tuple[Any, ...]]:
        """As :meth:`rows`, the newest first."""
        return self._connection.execute("SELECT seq, time, kind, body, hash, seal FROM record ORDER BY seq DESC")

    def checkpoint(self) -> Checkpoint:
        """The end of the trail: its newest record, or the newest that is signed."""
        trail, *end = self.trail()
        signers = self.signers()
        condition = "WHERE seal IS NOT NULL" if signers else ""
        row = self._connection.execute(
            f"SELECT seq, hash, seal FROM record {condition} ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        seq, digest, seal = end if row is None else row
        public = next((key.public.hex() for key in reversed(signers) if key.seq <= seq and seal is not None), "")
        return Checkpoint(str(trail, "ascii"), seq, digest.hex(), public, seal.hex() if seal else "")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
