"""The stores of an index: whether each is still the one that was read, how far, and what could not be taken of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import identity_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from otel_perf.store.database import Batch, StoreReader

GONE: Final = 2_000_000  # items of which most are no longer in the store: then the index is made anew;
KEPT: Final = 7 * 86_400  # as well after these seconds, if anything that is in it has left the store
EARLIER: Final = 86_400 * 10**9  # ns before a store's first batch, from which its telemetry may be
LATER: Final = 3_600 * 10**9  # ns after a batch was stored: clocks differ
TRIES: Final = 2  # indexers that may end while they are at one batch
LARGEST: Final = 1_000_000  # items of one batch


class Known(NamedTuple):
    """What is known of a store."""

    own: int  # its random number, 0 of one that had none
    inode: str
    mark: str  # of its batch ``last``
    since: int  # s, when the first of it was taken
    trying: int  # the batch up to which a piece was begun
    tries: int  # how often, by itself; 0 for a piece of several
    last: int
    items: int


class Stores:
    """The table ``store``. For one thread."""

    def __init__(self, connection: sqlite3.Connection, homes: Sequence[Path]) -> None:
        self._execute = connection.execute
        # In one order, whoever says them: rows name a store by its number.
        for home in sorted(set(homes)):
            self._execute("INSERT OR IGNORE INTO store(home) VALUES (?)", (str(home),))
        rows = self._execute("SELECT home, id FROM store ORDER BY id").fetchall()
        self.numbers = {Path(home): int(number) for home, number in rows if Path(home) in homes}
        others = [number for home, number in rows if Path(home) not in homes]
        self.has_others = any(self.known(number).last for number in others)  # the folder was moved, with its index
        self._problems: dict[int, str] = {}

    def known(self, store: int) -> Known:
        """What is known of one."""
        row = self._execute(
            "SELECT own, inode, mark, since, trying, tries FROM store WHERE id = ?", (store,)
        ).fetchone()
        progress = self._execute(
            "SELECT coalesce(max(last), 0), coalesce(sum(items), 0) FROM progress WHERE store = ?", (store,)
        ).fetchone()
        return Known(*row, *progress)

    def identify(self, store: int, known: Known, reader: StoreReader) -> None:
        """Keep by what the store is told from another one."""
        found = reader.own_id(), _inode(reader)
        if found != known[:2]:
            self._execute("UPDATE store SET own = ?, inode = ? WHERE id = ?", (*found, store))

    def took(self, store: int, batch: Batch, now: float, *, skipped: bool) -> None:
        """A piece was taken, up to ``batch``."""
        self._execute(
            "UPDATE store SET mark = ?, since = iif(since, since, ?), skipped = skipped + ? WHERE id = ?",
            (mark_of(batch), int(now), skipped, store),
        )

    def first(self, store: int, batch: Batch) -> int:
        """When the store's first batch of all was stored (ns); that is ``batch`` if there was none."""
        self._execute("UPDATE store SET first = iif(first, first, ?) WHERE id = ?", (batch.created, store))
        return int(self._execute("SELECT first FROM store WHERE id = ?", (store,)).fetchone()[0])

    def tries(self, store: int, batch: Batch, *, alone: bool) -> None:
        """Say which batches are tried now, in case that this is the end of the process."""
        self._execute(
            "UPDATE store SET tries = iif(?, iif(trying = ? AND tries > 0, tries + 1, 1), 0), trying = ? WHERE id = ?",
            (alone, batch.id, batch.id, store),
        )

    def gave_up(self, store: int) -> None:
        """The process ends for another reason."""
        self._execute("UPDATE store SET trying = 0, tries = 0 WHERE id = ?", (store,))

    def say(self, store: int, problem: str) -> None:
        """Why a store cannot be read now; nothing if it can."""
        if self._problems.get(store) != problem:
            self._execute("UPDATE store SET problem = ? WHERE id = ?", (problem, store))
            self._problems[store] = problem


def is_other(known: Known, reader: StoreReader) -> bool:
    """Whether this is another store than the one that is in the index."""
    own = reader.own_id()
    if known.own and known.own != own:
        return True
    if not known.last:
        return False
    if known.last > max(reader.last_id(), reader.newest_given()):
        return True  # an older copy of it, or another one
    batch = reader.batch(known.last)
    if batch is not None:
        return mark_of(batch) != known.mark
    return not known.own and known.inode != _inode(reader)


def has_left(known: Known, reader: StoreReader, now: float) -> bool:
    """Whether too much of what is in the index has left the store, or some of it long ago."""
    new = reader.items(after=known.last)
    here = reader.items() - new
    gone = known.items - here
    return bool(gone > 0 and now - known.since > KEPT) or bool(known.items > GONE and new and gone > here)


def is_gone(home: Path) -> bool:
    """Whether there is no store, as far as anybody can tell."""
    path = home / STORE_FILE
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def mark_of(batch: Batch) -> str:
    """What tells a batch from another one with its number."""
    return f"{batch.created} {hashlib.blake2b(batch.body, digest_size=16).hexdigest()}"


def _inode(reader: StoreReader) -> str:
    return repr(identity_of(reader.path))
