"""The tables of a store's file, and the random number by which it is told from another one in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_perf.core.chance import chance
from otel_perf.core.errors import StoreError

if TYPE_CHECKING:
    import sqlite3

SCHEMA_VERSION: Final = 2
_IDS: Final = 1 << 31  # that fit into SQLite's application_id

# Batches that were delivered and kept (OTEL_PERF_STORE_KEEP) go first when the file is full, then those that a receiver
# refused, hence the partial indexes. AUTOINCREMENT: an id never comes back, so that "newer than id" holds for readers.
# ``destination`` is a mark of the endpoint that a batch was made for (empty: none was named), see store/destination.py.
TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS batch (id INTEGER PRIMARY KEY AUTOINCREMENT, signal INTEGER NOT NULL,
    created INTEGER NOT NULL, items INTEGER NOT NULL, delivered INTEGER NOT NULL DEFAULT 0,
    service TEXT NOT NULL DEFAULT '', destination TEXT NOT NULL DEFAULT '', body BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS batch_delivered ON batch(id) WHERE delivered",
    "CREATE INDEX IF NOT EXISTS batch_pending ON batch(destination, signal, id, items, service) WHERE NOT delivered",
    """CREATE TABLE IF NOT EXISTS refused (id INTEGER PRIMARY KEY, signal INTEGER NOT NULL, created INTEGER NOT NULL,
    items INTEGER NOT NULL, reason TEXT NOT NULL, body BLOB NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS dropped (signal INTEGER PRIMARY KEY, batches INTEGER NOT NULL, items INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS delivery (destination TEXT PRIMARY KEY, place TEXT, at INTEGER, error TEXT)",
)


def prepare(connection: sqlite3.Connection, *, fsync: bool) -> None:
    """Set up a connection that is to write; make the tables that are missing."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in {0, SCHEMA_VERSION}:
        remedy = "upgrade otel-perf" if version > SCHEMA_VERSION else "move it away; format 1 was never released"
        raise StoreError(f"the store has format {version}, this otel-perf knows {SCHEMA_VERSION}: {remedy}")
    if version == 0:
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # see vacuum.py
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if fsync else 'NORMAL'}")
    connection.execute("PRAGMA journal_size_limit = 8388608")
    # Debian's SQLite overwrites what is deleted with zeros: every delivered batch would be written once more.
    connection.execute("PRAGMA secure_delete = OFF")
    if version == 0 or not own_id(connection):
        _make(connection)


def _make(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in TABLES:
        connection.execute(statement)
    if not own_id(connection):  # of two programs that open it at the same moment, the first gives it the id
        connection.execute(f"PRAGMA application_id = {chance.randrange(1, _IDS)}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def own_id(connection: sqlite3.Connection) -> int:
    """A random number that tells a store from another one in its place; 0 where there is none yet.

    A path, and even an inode, is given to another file as soon as the one that had it is deleted. It is in the file's
    first page, which is read anyway: a page that is damaged elsewhere keeps nobody from opening the store. A store that
    has none, of an older release, gets it from the next program that opens it to write.
    """
    return int(connection.execute("PRAGMA application_id").fetchone()[0])
