"""Answers come from here: connections to the index, and the batches that its rows name."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from otel_perf.analysis.index_tables import VERSION, store_and_batch
from otel_perf.core.errors import OtelPerfError, StoreError
from otel_perf.store.database import StoreReader, identity_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

PATIENCE: Final = 10.0  # seconds that one question may take
MS: Final = 1_000_000
_STEPS: Final = 20_000  # of SQLite's machine between two looks at the clock
FOREVER: Final = (1 << 63) - 1


class BadQuestionError(OtelPerfError):
    """A question has a parameter that cannot be."""


class Question:
    """The parameters of a question, as they are needed."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given

    def text(self, name: str, *, longest: int = 500) -> str:
        """As it is, cut."""
        return self._given.get(name, "")[:longest]

    def with_(self, **given: str) -> Question:
        """The same with other parameters."""
        return Question({**self._given, **given})

    def number(self, name: str, default: int, *, most: int = FOREVER) -> int:
        """A whole number from 0 to ``most``."""
        given = self._given.get(name, "")
        if not given:
            return default
        if not (given.isascii() and given.isdigit() and len(given) < 20):
            raise BadQuestionError(f"{name} is {given[:40]!r}; it must be a whole number")
        return min(int(given), most)

    def nanoseconds(self, name: str) -> int:
        """A number of ms, in ns; 0 where nothing is said."""
        return min(FOREVER, self.number(name, 0) * MS)

    def one_of(self, name: str, choices: Iterable[str]) -> str:
        """One of ``choices``, by default the first."""
        allowed = list(choices)
        given = self._given.get(name) or allowed[0]
        if given not in allowed:
            raise BadQuestionError(f"{name} is {given[:40]!r}; it must be one of {', '.join(allowed)}")
        return given

    def identifier(self, name: str) -> bytes:
        """A trace id in hex."""
        given = self._given.get(name, "")
        try:
            found = bytes.fromhex(given)
        except ValueError:
            found = b""
        if len(found) != 16:
            raise BadQuestionError(f"{name} is {given[:40]!r}; it must be 32 hex digits")
        return found

    @property
    def times(self) -> tuple[int, int]:
        """From and to (ns); everything, where nothing is said. The parameters are in ms."""
        return self.nanoseconds("from"), self.nanoseconds("to") or FOREVER

    @property
    def is_bounded(self) -> bool:
        """Whether a time is asked for."""
        return bool(self._given.get("from") or self._given.get("to"))


class Reading:
    """Connections for one thread: the index, and the stores that are looked into."""

    def __init__(self, index: Path) -> None:
        self._path = index
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._stores: dict[int, tuple[StoreReader, tuple[int, int] | None]] = {}
        self._texts: dict[int, str] = {}
        self._ends = 0.0

    def begin(self) -> bool:
        """Get ready for one question; ``False`` while there is no index yet."""
        identity = identity_of(self._path)
        if self._connection is not None and identity != self._identity:  # it was made anew
            self.close()
        if self._connection is None:
            if identity is None:
                return False
            connection = sqlite3.Connection(
                f"file:{quote(str(self._path))}?mode=ro", uri=True, timeout=5, isolation_level=None
            )
            try:
                if connection.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    connection.close()
                    return False
            except sqlite3.Error:
                connection.close()
                return False
            connection.execute("PRAGMA cache_size = -12288")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.set_progress_handler(self._is_late, _STEPS)
            self._connection, self._identity = connection, identity
        self._ends = time.monotonic() + PATIENCE
        return True

    @contextlib.contextmanager
    def as_it_is(self) -> Iterator[None]:
        """Everything that is read in here is of one moment, whatever is written meanwhile."""
        connection = self._connection
        assert connection is not None
        connection.execute("BEGIN")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):  # nothing was written, and what went wrong is said by the query
                connection.execute("ROLLBACK")

    def _is_late(self) -> bool:
        return time.monotonic() > self._ends

    def rows(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows. Raises ``sqlite3.OperationalError`` ("interrupted") when it takes too long."""
        assert self._connection is not None
        return self._connection.execute(query, parameters).fetchall()

    def each(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows one after the other, for who does not want them all."""
        assert self._connection is not None
        return iter(self._connection.execute(query, parameters))

    def row(self, query: str, parameters: Sequence[Any] = ()) -> tuple[Any, ...]:
        """The first row; an empty one without any."""
        assert self._connection is not None
        found: tuple[Any, ...] | None = self._connection.execute(query, parameters).fetchone()
        return found or ()

    def text(self, number: int | None) -> str:
        """A name by its number."""
        if not number:
            return ""
        found = self._texts.get(number)
        if found is None:
            row = self.row("SELECT value FROM text WHERE id = ?", (number,))
            if len(self._texts) > 50_000:
                self._texts.clear()
            found = self._texts[number] = str(row[0]) if row else "?"
        return found

    def number(self, text: str) -> int:
        """The number of a name; -1 if nothing has it."""
        row = self.row("SELECT id FROM text WHERE value = ?", (text,))
        return int(row[0]) if row else -1

    def body(self, place: int) -> bytes | None:
        """A batch of a store; ``None`` if it was delivered, or dropped, since."""
        number, batch = store_and_batch(place)
        row = self.row("SELECT home FROM store WHERE id = ?", (number,))
        if not row:
            return None
        home = Path(row[0])
        known = self._stores.get(number)
        if known is not None and known[1] != identity_of(known[0].path):
            known[0].close()
            known = None
        if known is None:
            try:
                reader = StoreReader(home)
            except StoreError:
                self._stores.pop(number, None)
                return None
            known = self._stores[number] = reader, identity_of(reader.path)
        try:
            return known[0].body(batch)
        except sqlite3.Error:
            return None

    def extent(self) -> tuple[int, int]:
        """When what is here begins and ends (ns).

        What processes said near the time at which it was stored: one clock that was never set would stretch it to 1970.
        If nothing is, as of telemetry that was kept elsewhere for long, all of it counts.
        """
        first, last = self.row("SELECT min(first), max(last) FROM process WHERE first > 0")
        if first:
            return int(first), int(last)
        found = [
            *self.row("SELECT min(start), max(finish) FROM trace WHERE start > 0"),
            *self.row("SELECT min(time), max(time) FROM log WHERE own = 0 AND time > 0"),
        ]
        for end in ("min", "max"):
            of_points = f"SELECT {end}(time) FROM point WHERE series = series.id AND time > 0"
            row = self.row(f"SELECT {end}(time) * {MS} FROM (SELECT ({of_points}) AS time FROM series)")
            found.append(row[0])
        times = [time for time in found if time]
        return min(times, default=0), max(times, default=0)

    def close(self) -> None:
        """Close everything."""
        if self._connection is not None:
            self._connection.close()
        for reader, _ in self._stores.values():
            reader.close()
        self._connection, self._stores, self._texts = None, {}, {}


def attributes_of(text: str | None) -> dict[str, Any]:
    """Attributes as the index has them; none where they were cut off, as older ones did with what was too long."""
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Readings:
    """One :class:`Reading` for each thread that asks."""

    def __init__(self, index: Path) -> None:
        self._index = index
        self._local = threading.local()

    def mine(self) -> Reading:
        """The calling thread's."""
        found: Reading | None = getattr(self._local, "reading", None)
        if found is None:
            found = self._local.reading = Reading(self._index)
        return found


def index_path(homes: Sequence[Path]) -> Path:
    """Where their index is: in the home itself; of several, or of one that cannot be written, in a cache."""
    from otel_perf.analysis import index_cache
    from otel_perf.analysis.index_tables import INDEX_FILE
    from otel_perf.core.home import make_private

    if len(homes) == 1 and os.access(homes[0], os.W_OK | os.X_OK):
        return homes[0] / INDEX_FILE
    import hashlib

    mark = hashlib.sha256("\0".join(sorted(map(str, homes))).encode()).hexdigest()[:16]
    folder = index_cache.folder() / mark
    make_private(folder)
    return folder / INDEX_FILE
