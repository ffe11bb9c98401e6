"""Builds ``index.db`` beside one or several stores, piece by piece, while they are written and the index is read.

    python -m otel_perf.analysis.index INDEX HOME…      # what ``otel-perf view`` runs beside its server

It goes on where it stopped, may be ended at any time, and loses no more than the piece it was at. One process builds an
index at a time; a second one waits, and takes over when the first has ended. About 15 µs a span, 30 µs a log record.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from otel_perf.analysis import index_cache
from otel_perf.analysis.index_logs import Lines
from otel_perf.analysis.index_metrics import Points
from otel_perf.analysis.index_names import Names
from otel_perf.analysis.index_spans import Spans
from otel_perf.analysis.index_stores import EARLIER, LARGEST, LATER, TRIES, Stores, has_left, is_gone, is_other
from otel_perf.analysis.index_tables import connect, place_of, remove
from otel_perf.core.errors import StoreError
from otel_perf.store.database import SIGNALS, StoreReader, is_corrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from otel_perf.analysis.index_stores import Known
    from otel_perf.store.database import Batch

PIECE: Final = 8_000  # items that are written at once: about 0.2 s of work
PIECE_BYTES: Final = 16 * 2**20  # or what has as many bytes
POLL: Final = 0.5  # seconds between two looks at a store in which nothing is new
LOOK_BACK: Final = 600  # seconds between two looks at what has left a store
# Of a batch that is no OTLP, or whose values no column takes: a stranger's program may have sent it.
POISON: Final = (
    ArithmeticError, AttributeError, DecodeError, LookupError, MemoryError, RecursionError, TypeError, ValueError,
    sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError,
)  # fmt: skip
_NICE: Final = 10


class Builder:
    """Of one index. For one thread."""

    def __init__(self, path: Path, homes: Sequence[Path], *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._homes = homes
        self._clock = clock
        self._open()

    def _open(self) -> None:
        self._connection = connect(self._path)
        self._stores = Stores(self._connection, self._homes)
        if self._stores.has_others:
            self._connection.close()
            remove(self._path)
            self._connection = connect(self._path)
            self._stores = Stores(self._connection, self._homes)
        # An indexer ended while it was at a piece up to here: one of these batches may be why.
        self._suspects = {store: self._stores.known(store).trying for store in self._stores.numbers.values()}
        self._looked: dict[int, float] = {}
        self._begin()

    def _begin(self) -> None:
        """Take nothing along from what was not written."""
        self._names = Names(self._connection)
        self._takers: dict[str, Spans | Points | Lines] = {
            "traces": Spans(self._connection, self._names),
            "metrics": Points(self._connection, self._names),
            "logs": Lines(self._connection, self._names),
        }

    def close(self) -> None:
        """Close the index."""
        self._connection.close()

    def anew(self) -> None:
        """Begin with an empty index."""
        self._connection.close()
        remove(self._path)
        self._open()

    def update(self) -> Iterator[int]:
        """Take in what is new in the stores: after each piece, how many items it had.

        What is of a store that was deleted leaves the index. A store that cannot be read is said to be so, and keeps
        no other one waiting.
        """
        for home, store in self._stores.numbers.items():
            problem = ""
            try:
                is_done = yield from self._look(home, store)
            except (StoreError, OSError) as error:
                is_done, problem = True, str(error)
            if not is_done:
                self.anew()
                yield from self.update()
                return
            self._stores.say(store, problem)

    def _look(self, home: Path, store: int) -> Generator[int, None, bool]:
        """Of one store; ``False``: the index has to be made anew."""
        known = self._stores.known(store)
        if is_gone(home):  # not there yet, or deleted
            return not known.last
        reader = StoreReader(home)
        try:
            with _readable(reader):
                if is_other(known, reader) or self._has_left(store, known, reader):
                    return False
                self._stores.identify(store, known, reader)
            for piece in _pieces(reader, known.last):
                yield self._take(store, piece)
        finally:
            reader.close()
        return True

    def _has_left(self, store: int, known: Known, reader: StoreReader) -> bool:
        now = self._clock()
        if not known.last or abs(now - self._looked.get(store, 0.0)) < LOOK_BACK:
            return False
        self._looked[store] = now
        return has_left(known, reader, now)

    def _take(self, store: int, piece: list[Batch]) -> int:
        """A piece; if it cannot be taken, its batches one by one, and without those that are the reason."""
        is_small = all(batch.items <= LARGEST for batch in piece)
        if len(piece) > 1 and piece[0].id > self._suspects[store] and is_small:
            self._stores.tries(store, piece[-1], alone=False)
            try:
                return self._write(store, piece)
            except POISON:
                self._begin()
        return sum(self._take_alone(store, batch) for batch in piece)

    def _take_alone(self, store: int, batch: Batch) -> int:
        known = self._stores.known(store)
        if batch.items <= LARGEST and not (known.trying == batch.id and known.tries >= TRIES):
            self._stores.tries(store, batch, alone=True)
            try:
                return self._write(store, [batch])
            except POISON:
                self._begin()
        self._write(store, [batch], skipped=True)
        return 0

    def _write(self, store: int, piece: list[Batch], *, skipped: bool = False) -> int:
        """One piece, and how far that is, in one transaction."""
        execute, items = self._connection.execute, 0
        done: dict[str, list[int]] = {}
        execute("BEGIN IMMEDIATE")
        try:
            first = self._stores.first(store, piece[0])
            for batch in piece:
                self._names.store = store if len(self._stores.numbers) > 1 else 0
                self._names.twice = 0
                if not skipped:
                    self._names.bounds = first - EARLIER, batch.created + LATER
                    items += self._takers[batch.signal].add(place_of(store, batch.id), batch.body)
                entry = done.setdefault(batch.signal, [0, 0, 0])
                entry[:] = batch.id, entry[1] + batch.items, entry[2] + self._names.twice
            for taker in self._takers.values():
                taker.flush()
            self._names.flush()
            for name, found in done.items():
                execute(
                    "INSERT INTO progress VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET last = excluded.last,"
                    " items = items + excluded.items, twice = twice + excluded.twice",
                    (store, SIGNALS.index(name), *found),
                )
            self._stores.took(store, piece[-1], self._clock(), skipped=skipped)
            execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            if not isinstance(error, POISON):  # it is not of the batches
                with contextlib.suppress(sqlite3.Error):
                    self._stores.gave_up(store)
            raise
        return items


@contextlib.contextmanager
def _readable(reader: StoreReader) -> Iterator[None]:
    """What is wrong with a store is not mixed up with what is wrong with the index."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"the store {reader.path} cannot be read: {error}") from error


def _pieces(reader: StoreReader, last: int) -> Iterator[list[Batch]]:
    """What comes after ``last``, in pieces; of a store that is damaged, what is before the damage."""
    piece: list[Batch] = []
    items = size = 0
    batches = reader.batches(SIGNALS, after=last)
    while True:
        problem, batch = None, None
        try:
            with _readable(reader):
                batch = next(batches, None)
        except StoreError as error:
            problem = error
        if batch is not None:
            piece.append(batch)
            items, size = items + batch.items, size + len(batch.body)
        if piece and (batch is None or items >= PIECE or size >= PIECE_BYTES):
            yield piece
            piece, items, size = [], 0, 0
        if problem is not None:
            raise problem
        if batch is None:
            return


def run(path: Path, homes: Sequence[Path], *, parent: int) -> None:
    """Keep the index up to date until the process ``parent`` is no longer ours."""
    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICE)
    with index_cache.lock(path, waits=lambda: os.getppid() == parent) as is_alone:
        if not is_alone:
            return
        index_cache.clean(path)
        builder = Builder(path, homes)
        try:
            while os.getppid() == parent:
                try:
                    for _ in builder.update():
                        if os.getppid() != parent:
                            return
                except sqlite3.DatabaseError as error:
                    if not is_corrupt(error):
                        raise
                    builder.anew()
                time.sleep(POLL)
        finally:
            builder.close()


def _end(number: int, _: object) -> None:
    """As an exception: what was begun is undone, and nobody thinks that a batch was the reason."""
    sys.exit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    with contextlib.suppress(KeyboardInterrupt):
        run(Path(sys.argv[1]), [Path(home) for home in sys.argv[2:]], parent=os.getppid())
