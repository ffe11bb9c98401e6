"""The sending side of the store's file: which batches wait for a destination, and what became of them.

Not thread-safe: :class:`~otel_perf.store.drain.Drain` holds its lock. Never used after a fork.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from otel_perf.store.database import SIGNALS, Batch, identity_of, open_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Waiting(NamedTuple):
    """What waits for a destination, by signal: batches and items."""

    batches: int
    items: int


class Outbox:
    """A connection of the drain's own, so that sending and storing do not wait for each other's work."""

    def __init__(self, path: Path, *, fsync: bool) -> None:
        self._connection = open_file(path, fsync=fsync)
        self._path = path
        self.identity = identity_of(path)

    def is_current(self) -> bool:
        """Whether the path still names the file that is open."""
        return identity_of(self._path) == self.identity

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def next(self, destination: str, signal: str, *, after: int, batches: int, size: int) -> list[Batch]:
        """The oldest waiting batches after ``after``, at least one if there is one, up to ``size`` bytes together."""
        rows = self._connection.execute(
            "SELECT id FROM batch WHERE destination = ? AND signal = ? AND id > ? AND NOT delivered"
            " ORDER BY id LIMIT ?",
            (destination, SIGNALS.index(signal), after, batches),
        ).fetchall()
        found: list[Batch] = []
        total = 0
        for (identifier,) in rows:
            row = self._connection.execute(
                "SELECT created, items, body FROM batch WHERE id = ?", (identifier,)
            ).fetchone()
            if row is None:
                continue  # the file was full, and it gave way to newer ones just now
            created, items, body = row
            total += len(body)
            if found and total > size:
                break
            found.append(Batch(identifier, signal, created, items, body))
        return found

    def settle(self, batches: Iterable[Batch], *, keep: bool) -> None:
        """Take delivered batches out, or mark them if a copy is kept."""
        statement = "UPDATE batch SET delivered = 1 WHERE id = ?" if keep else "DELETE FROM batch WHERE id = ?"
        self._in_transaction([(statement, (batch.id,)) for batch in batches])

    def refuse(self, batches: Iterable[Batch], reason: str) -> None:
        """Set batches aside that the receiver will never take."""
        copy = (
            "INSERT OR IGNORE INTO refused(id, signal, created, items, reason, body)"
            " SELECT id, signal, created, items, ?, body FROM batch WHERE id = ?"
        )
        self._in_transaction(
            [
                statement
                for batch in batches
                for statement in ((copy, (reason, batch.id)), ("DELETE FROM batch WHERE id = ?", (batch.id,)))
            ]
        )

    def waiting(self, destination: str) -> dict[str, Waiting]:
        """What waits for ``destination``, by signal."""
        rows = self._connection.execute(
            "SELECT signal, count(*), sum(items) FROM batch WHERE destination = ? AND NOT delivered GROUP BY signal",
            (destination,),
        )
        return {SIGNALS[signal]: Waiting(batches, items) for signal, batches, items in rows}

    def other_destinations(self, service: str, destination: str) -> list[str]:
        """Destinations other than this one that batches of ``service`` still wait for."""
        rows = self._connection.execute(
            "SELECT DISTINCT destination FROM batch WHERE service = ? AND destination <> ? AND NOT delivered",
            (service, destination),
        )
        return [row[0] for row in rows]

    def adopt(self, service: str, old: str, new: str) -> None:
        """Send to ``new`` what ``service`` stored for ``old``."""
        change = "UPDATE batch SET destination = ? WHERE service = ? AND destination = ? AND NOT delivered"
        self._in_transaction([(change, (new, service, old))])

    def note(self, destination: str, place: str, error: str) -> None:
        """Keep for ``doctor`` how sending goes now."""
        statement = "INSERT OR REPLACE INTO delivery(destination, place, at, error) VALUES (?, ?, ?, ?)"
        self._in_transaction([(statement, (destination, place, time.time_ns(), error))])

    def _in_transaction(self, statements: Iterable[tuple[str, tuple[object, ...]]]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            for statement, values in statements:
                execute(statement, values)
            execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            raise
