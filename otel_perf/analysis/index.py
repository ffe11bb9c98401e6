"""Builds ``index.db`` beside one or several stores, piece by piece, while they are written and the index is read.

    python -m otel_perf.analysis.index INDEX HOME…      # what ``otel-perf view`` runs beside its server

It goes on where it stopped, may be ended at any time, and loses no more than the piece it was at. One process builds an
index at a time; a second one waits, and takes over when the first has ended. About 15 µs a span, 30 µs a log record.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from otel_perf.analysis.index_logs import Lines
from otel_perf.analysis.index_metrics import Points
from otel_perf.analysis.index_names import Names
from otel_perf.analysis.index_spans import Spans
from otel_perf.analysis.index_tables import connect, place_of, remove
from otel_perf.core.errors import StoreError
from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import SIGNALS, StoreReader, identity_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_perf.store.database import Batch

PIECE: Final = 8_000  # items that are written at once: about 0.2 s of work
POLL: Final = 0.5  # seconds between two looks at a store in which nothing is new
GONE: Final = 2_000_000  # items of which most are no longer in the store: then the index is made anew
# Of a batch that is no OTLP, or whose values no column takes: a stranger's program may have sent it.
POISON: Final = (ArithmeticError, AttributeError, DecodeError, LookupError, RecursionError, TypeError, ValueError)
_NICE: Final = 10


class Builder:
    """Of one index. For one thread."""

    def __init__(self, path: Path, homes: Sequence[Path]) -> None:
        self._path = path
        self._homes = homes
        self._open()

    def _open(self) -> None:
        self._connection = connect(self._path)
        self._stores = self._numbered()
        self._begin()

    def _begin(self) -> None:
        """Take nothing along from what was not written."""
        self._names = Names(self._connection)
        self._takers: dict[str, Spans | Points | Lines] = {
            "traces": Spans(self._connection, self._names),
            "metrics": Points(self._connection, self._names),
            "logs": Lines(self._connection, self._names),
        }

    def _numbered(self) -> dict[Path, int]:
        for home in self._homes:
            self._connection.execute("INSERT OR IGNORE INTO store(home, identity) VALUES (?, '')", (str(home),))
        rows = self._connection.execute("SELECT home, id FROM store").fetchall()
        return {Path(home): number for home, number in rows if Path(home) in self._homes}

    def close(self) -> None:
        """Close the index."""
        self._connection.close()

    def update(self) -> Iterator[int]:
        """Take in what is new in the stores: after each piece, how many items it had."""
        for home, number in self._stores.items():
            try:
                reader = StoreReader(home)
            except StoreError:
                continue  # not there yet, or not readable now
            try:
                yield from self._update(reader, home, number)
            finally:
                reader.close()

    def _update(self, reader: StoreReader, home: Path, store: int) -> Iterator[int]:
        self._check(reader, home, store)
        last = self._connection.execute(
            "SELECT coalesce(max(last), 0) FROM progress WHERE store = ?", (store,)
        ).fetchone()[0]
        piece: list[Batch] = []
        size = 0
        for batch in reader.batches(SIGNALS, after=last):
            piece.append(batch)
            size += batch.items
            if size >= PIECE:
                yield self._take(store, piece)
                piece, size = [], 0
        if piece:
            yield self._take(store, piece)

    def _take(self, store: int, piece: list[Batch]) -> int:
        """A piece; if it cannot be taken, its batches one by one, and without those that are the reason."""
        try:
            return self._write(store, piece)
        except POISON:
            self._begin()
        items = 0
        for batch in piece:
            try:
                items += self._write(store, [batch])
            except POISON:
                self._begin()
                self._write(store, [batch._replace(body=b"")])
        return items

    def _write(self, store: int, piece: list[Batch]) -> int:
        """One piece, and how far that is, in one transaction."""
        execute, items = self._connection.execute, 0
        done: dict[str, list[int]] = {}
        execute("BEGIN IMMEDIATE")
        try:
            for batch in piece:
                items += self._takers[batch.signal].add(place_of(store, batch.id), batch.body)
                entry = done.setdefault(batch.signal, [0, 0])
                entry[0], entry[1] = batch.id, entry[1] + batch.items
            for taker in self._takers.values():
                taker.flush()
            self._names.flush()
            for signal, (last, count) in done.items():
                execute(
                    "INSERT INTO progress VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET last = excluded.last,"
                    " items = items + excluded.items",
                    (store, SIGNALS.index(signal), last, count),
                )
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
        return items

    def _check(self, reader: StoreReader, home: Path, store: int) -> None:
        """Begin anew where the store is another file, or most of what is here has left it."""
        identity = repr(identity_of(home / STORE_FILE))
        known = self._connection.execute("SELECT identity FROM store WHERE id = ?", (store,)).fetchone()[0]
        taken, last = self._connection.execute(
            "SELECT coalesce(sum(items), 0), coalesce(max(last), 0) FROM progress WHERE store = ?", (store,)
        ).fetchone()
        is_other = (known and known != identity) or last > max(reader.last_id(), reader.newest_given())
        if is_other or (taken > GONE and reader.last_id() > last and reader.items() * 2 < taken):
            self._anew()
        if known != identity:
            self._connection.execute("UPDATE store SET identity = ? WHERE home = ?", (identity, str(home)))

    def _anew(self) -> None:
        self._connection.close()
        remove(self._path)
        self._open()


def run(path: Path, homes: Sequence[Path], *, parent: int) -> None:
    """Keep the index up to date until the process ``parent`` is no longer ours."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICE)
    with _alone(path.with_name(f"{path.name}.lock"), parent) as is_alone:
        if not is_alone:
            return
        builder = Builder(path, homes)
        try:
            while os.getppid() == parent:
                for _ in builder.update():
                    if os.getppid() != parent:
                        return
                time.sleep(POLL)
        finally:
            builder.close()


@contextlib.contextmanager
def _alone(path: Path, parent: int) -> Iterator[bool]:
    """Hold the lock of the index; ``False`` if the parent ended while another process held it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield True
        return
    with path.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if os.getppid() != parent:
                    yield False
                    return
                time.sleep(POLL)
        yield True


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        run(Path(sys.argv[1]), [Path(home) for home in sys.argv[2:]], parent=os.getppid())
