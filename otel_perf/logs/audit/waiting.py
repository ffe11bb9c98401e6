"""What waits to be committed."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from otel_perf.core.errors import AuditError

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.logs.audit.database import New, Stored

BATCH: Final = 2_000  # records in one transaction
BATCH_BYTES: Final = 4_000_000
WAITING: Final = 10_000  # records that may wait: more come only from tasks that gave up waiting for a dead disk
WAITING_BYTES: Final = 64_000_000  # of them


class Entry:
    """A record that somebody waits for."""

    __slots__ = ("_done", "error", "record", "stored")

    def __init__(self, record: New, done: Callable[[Entry], None]) -> None:
        self.record = record
        self._done = done
        self.stored: Stored | None = None
        self.error: AuditError | None = None

    def finish(self) -> None:
        """Tell who waits."""
        self._done(self)


class Waiting:
    """Records in the order in which they came. Thread-safe: each step is one of a built-in type's."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def check(self, entry: Entry, place: object) -> None:
        """Raise ``AuditError`` if there is no more room."""
        number = len(self._entries)
        if number and (number >= WAITING or self._bytes + len(entry.record.body) > WAITING_BYTES):
            what = f"{number:,} records wait for the disk of {place} ({self._bytes:,} bytes)"
            raise AuditError(f"{what}: it does not keep up")

    def put(self, entry: Entry) -> None:
        """Behind the others."""
        self._bytes += len(entry.record.body)
        self._entries.append(entry)

    def take(self) -> list[Entry]:
        """The next batch."""
        batch: list[Entry] = []
        size = 0
        while self._entries and len(batch) < BATCH and size < BATCH_BYTES:
            batch.append(self._entries.popleft())
            size += len(batch[-1].record.body)
        self._bytes -= size
        return batch

    def put_back(self, batch: list[Entry]) -> None:
        """Before the others: what :meth:`take` gave."""
        self._bytes += sum(len(entry.record.body) for entry in batch)
        self._entries.extendleft(reversed(batch))
