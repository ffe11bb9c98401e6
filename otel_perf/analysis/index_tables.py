"""The file ``index.db``: what the page asks for, in tables, beside a store whose batches are opaque.

It can be deleted at any time and is made again. What is long (attributes, events, whole lines) stays in the store: rows
name the batch (``place``) and the position in it. One index may be of several stores: ``place`` has the store's number
in its upper bits. What two of them have (a program's own home, and that of ``otel-perf view --receive``, to which it
sends) is one row, of the copy that came last: the first is deleted when it is delivered. Names are numbers of ``text``.
Times are ns since the epoch, but ms in ``point``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

INDEX_FILE: Final = "index.db"
VERSION: Final = 4
ALL: Final = 10**10  # seconds, 317 years: one slot of all time
WIDTHS: Final = (60, 3600, ALL)  # seconds of the slots in which operations are counted
POINT_WIDTHS: Final = (300, 3600)  # and of those of which charts of many hours draw the highest point
PER_DOUBLING: Final = 4  # buckets of durations between 1 s and 2 s, 2 s and 4 s, …: each is 19 % wide
_STORE_SHIFT: Final = 40
ERROR, SIGNAL, WAIT = 1, 2, 8  # flags of a span; WAIT: for a signal, and no work encloses it, so it is nobody's time
RAISED, LOGGED, FAILED = 1, 2, 3  # origins of an error: an exception of a span, a line, a span that says no more

_SCHEMA: Final = """
CREATE TABLE store (id INTEGER PRIMARY KEY, home TEXT UNIQUE, own INTEGER DEFAULT 0, inode TEXT DEFAULT '',
    mark TEXT DEFAULT '', first INTEGER DEFAULT 0, since INTEGER DEFAULT 0, trying INTEGER DEFAULT 0,
    tries INTEGER DEFAULT 0, skipped INTEGER DEFAULT 0, problem TEXT DEFAULT '');
CREATE TABLE progress (store INTEGER, signal INTEGER, last INTEGER, items INTEGER, twice INTEGER,
    PRIMARY KEY (store, signal))
    WITHOUT ROWID;
CREATE TABLE text (id INTEGER PRIMARY KEY, value TEXT NOT NULL UNIQUE);
CREATE TABLE process (service INTEGER, instance TEXT, version TEXT, first INTEGER, last INTEGER, resource TEXT,
    PRIMARY KEY (service, instance)) WITHOUT ROWID;
CREATE TABLE mark (id INTEGER PRIMARY KEY, time INTEGER, kind TEXT, service INTEGER, text TEXT);
CREATE INDEX mark_time ON mark (time);

CREATE TABLE operation (id INTEGER PRIMARY KEY, service INTEGER, name INTEGER, kind INTEGER,
    UNIQUE (service, name, kind));
CREATE TABLE trace (id INTEGER PRIMARY KEY, tid BLOB NOT NULL UNIQUE, start INTEGER, finish INTEGER, root INTEGER,
    rooted INTEGER, spans INTEGER, errors INTEGER, logs INTEGER, findings INTEGER, cost REAL);
CREATE INDEX trace_start ON trace (start);
CREATE INDEX trace_took ON trace (finish - start);
CREATE INDEX trace_root ON trace (root, finish - start);
CREATE INDEX trace_failed ON trace (start) WHERE errors > 0;
CREATE TABLE span (id INTEGER PRIMARY KEY, trace INTEGER, sid INTEGER, parent INTEGER, op INTEGER, start INTEGER,
    took INTEGER, flags INTEGER, place INTEGER, pos INTEGER);
CREATE INDEX span_trace ON span (trace, sid);
CREATE INDEX span_child ON span (trace, parent) WHERE parent <> 0;
CREATE INDEX span_op ON span (op, took);
CREATE INDEX span_signal ON span (start) WHERE flags & 2;
CREATE TABLE op_slot (width INTEGER, slot INTEGER, op INTEGER, count INTEGER, errors INTEGER, total INTEGER,
    self INTEGER, longest INTEGER, longest_trace INTEGER, PRIMARY KEY (width, slot, op)) WITHOUT ROWID;
CREATE TABLE op_hist (width INTEGER, slot INTEGER, op INTEGER, bucket INTEGER, count INTEGER,
    PRIMARY KEY (width, slot, op, bucket)) WITHOUT ROWID;

CREATE TABLE finding (id INTEGER PRIMARY KEY, time INTEGER, service INTEGER, kind TEXT, spot TEXT, culprit TEXT,
    function TEXT, path TEXT, line INTEGER, cost REAL, count INTEGER, evidence TEXT, trace INTEGER, sid INTEGER);
CREATE INDEX finding_time ON finding (time);
CREATE INDEX finding_group ON finding (service, kind, spot, time);
CREATE INDEX finding_trace ON finding (trace);
CREATE TABLE error (id INTEGER PRIMARY KEY, time INTEGER, service INTEGER, type TEXT, spot TEXT, message TEXT,
    trace INTEGER, origin INTEGER, raised TEXT);
CREATE INDEX error_time ON error (time);
CREATE INDEX error_group ON error (service, type, spot, time);
CREATE UNIQUE INDEX error_once ON error (trace, raised) WHERE origin = 1;
CREATE INDEX error_trace ON error (trace) WHERE trace > 0;

CREATE TABLE template (id INTEGER PRIMARY KEY, service INTEGER, scope INTEGER, severity TEXT, words TEXT,
    count INTEGER, first INTEGER, last INTEGER);
CREATE TABLE log (id INTEGER PRIMARY KEY, time INTEGER, own INTEGER, severity INTEGER, service INTEGER, scope INTEGER,
    event INTEGER, trace INTEGER, sid INTEGER, template INTEGER, place INTEGER, pos INTEGER, body TEXT);
CREATE INDEX log_time ON log (own, time);
CREATE INDEX log_service ON log (own, service, time);
CREATE INDEX log_severe ON log (own, time, severity) WHERE severity >= 13;
CREATE INDEX log_template ON log (template, time);
CREATE INDEX log_trace ON log (trace) WHERE trace > 0;

CREATE TABLE series (id INTEGER PRIMARY KEY, name INTEGER, service INTEGER, instance TEXT, scope INTEGER,
    attributes TEXT, unit TEXT,
    kind TEXT, monotonic INTEGER, total REAL, count INTEGER, buckets TEXT,
    teller INTEGER DEFAULT 0, newest INTEGER DEFAULT 0, UNIQUE (name, service, instance, scope, attributes));
CREATE TABLE point (series INTEGER, time INTEGER, value REAL, high REAL, count INTEGER, PRIMARY KEY (series, time))
    WITHOUT ROWID;
CREATE TABLE point_slot (width INTEGER, series INTEGER, slot INTEGER, value REAL, time INTEGER, high REAL,
    PRIMARY KEY (width, series, slot)) WITHOUT ROWID;
"""
_SEARCH: Final = "CREATE VIRTUAL TABLE log_words USING fts5 (body, content='log', content_rowid='id')"


def connect(path: Path) -> sqlite3.Connection:
    """Open the index for writing; one of another version, or a damaged one, is made anew. One process at a time."""
    for attempt in range(2):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600))
        connection = sqlite3.Connection(str(path), timeout=10, isolation_level=None, check_same_thread=False)
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == VERSION:
                connection.execute("SELECT count(*) FROM progress").fetchone()
                _tune(connection)
                return connection
            if version == 0 and not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                _make(connection)
                return connection
        except sqlite3.DatabaseError:
            if attempt:
                connection.close()
                raise
        connection.close()
        remove(path)
    raise sqlite3.DatabaseError(f"{path} cannot be made anew")


def _tune(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")  # what a power loss breaks is made again
    connection.execute("PRAGMA journal_size_limit = 33554432")
    connection.execute("PRAGMA cache_size = -32768")
    connection.execute("PRAGMA temp_store = MEMORY")


def _make(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA page_size = 8192")
    _tune(connection)
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA.split(";\n"):
        if statement.strip():
            connection.execute(statement)
    with contextlib.suppress(sqlite3.OperationalError):  # an SQLite without FTS5 looks at each line
        connection.execute(_SEARCH)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def has_words(connection: sqlite3.Connection) -> bool:
    """Whether lines can be searched by words."""
    found = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'log_words'").fetchone()
    return bool(found[0])


def remove(path: Path) -> None:
    """Delete the index."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def place_of(store: int, batch: int) -> int:
    """A batch of a store as one number."""
    return store << _STORE_SHIFT | batch


def elsewhere(place: int) -> tuple[int, int]:
    """The numbers that places of the same store lie between."""
    store = place >> _STORE_SHIFT
    return place_of(store, 0), place_of(store + 1, 0) - 1


def store_and_batch(place: int) -> tuple[int, int]:
    """The reverse."""
    return place >> _STORE_SHIFT, place & ((1 << _STORE_SHIFT) - 1)


def signed(identifier: bytes) -> int:
    """A span id as SQLite's integer; 0 for none."""
    return int.from_bytes(identifier[:8], "big", signed=True) if identifier else 0


def hexadecimal(identifier: int) -> str:
    """The reverse, in hex."""
    return identifier.to_bytes(8, "big", signed=True).hex() if identifier else ""
