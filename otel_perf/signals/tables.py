"""The tables of a board in SQL, and what is asked of them. Used in a transaction each; not thread-safe."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from otel_perf.signals.board import Heard, Wait
from otel_perf.signals.signal import Producer, Signal

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterator

HERE, LEFT, LOST = "here", "left", "lost"
PRODUCERS: Final = 10_000  # lives that are remembered
_CHUNK: Final = 500  # names in one question

# A life is lost when it did not say that it left and nobody holds its lock any more; that is looked at when the same
# identity begins another life. AUTOINCREMENT: a number never comes back, whatever was deleted.
SCHEMA: Final = (
    """CREATE TABLE IF NOT EXISTS producer (id INTEGER PRIMARY KEY AUTOINCREMENT, identity TEXT NOT NULL,
    uid TEXT NOT NULL UNIQUE, service TEXT NOT NULL, agent TEXT NOT NULL, agent_id TEXT NOT NULL, host TEXT NOT NULL,
    pid INTEGER NOT NULL, generation INTEGER NOT NULL, state TEXT NOT NULL, at INTEGER NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS producer_identity ON producer(identity)",
    """CREATE TABLE IF NOT EXISTS signal (seq INTEGER PRIMARY KEY AUTOINCREMENT, scope TEXT NOT NULL,
    name TEXT NOT NULL, key TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL, payload TEXT NOT NULL,
    uid TEXT NOT NULL UNIQUE, made INTEGER NOT NULL, ttl REAL NOT NULL, traceparent TEXT NOT NULL, mark TEXT NOT NULL,
    producer INTEGER NOT NULL REFERENCES producer(id), boot TEXT NOT NULL, came INTEGER NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS signal_latch ON signal(scope, name, key, seq)",
    "CREATE INDEX IF NOT EXISTS signal_producer ON signal(producer)",
    """CREATE TABLE IF NOT EXISTS wait (uid TEXT PRIMARY KEY, producer INTEGER NOT NULL REFERENCES producer(id),
    scope TEXT NOT NULL, names TEXT NOT NULL, promised TEXT NOT NULL, since INTEGER NOT NULL) WITHOUT ROWID""",
)

_SIGNAL: Final = """SELECT s.name, s.key, s.scope, s.state, s.reason, s.payload, s.uid, s.made, s.ttl, s.traceparent,
    s.mark, s.seq, p.identity, p.uid, p.service, p.agent, p.agent_id, p.host, p.pid, p.generation, s.boot, s.came
    FROM signal s JOIN producer p ON p.id = s.producer"""
_PRODUCER: Final = "SELECT identity, uid, service, agent, agent_id, host, pid, generation, state, at FROM producer"
# Trusted: its life was not lost, or no other has begun since.
_TRUSTED: Final = """NOT (p.state = 'lost' AND EXISTS (SELECT 1 FROM producer q WHERE q.identity = p.identity
    AND q.id > p.id))"""

Now = tuple[str, int]  # which boot, and nanoseconds since then


class Tables:
    """One connection's view of a board."""

    def __init__(self, connection: sqlite3.Connection, now: Callable[[], Now], kept: int) -> None:
        self._execute = connection.execute
        self._now = now
        self._kept = kept

    def join(self, producer: Producer, claim: Callable[[int], None], is_alive: Callable[[int], bool]) -> Producer:
        """A new life. ``claim`` takes its lock by number; ``is_alive`` tells whether somebody holds one's."""
        execute, who = self._execute, producer
        lives = execute("SELECT max(generation) FROM producer WHERE identity = ?", (who.identity,)).fetchone()[0] or 0
        row = (who.identity, who.uid, who.service, who.agent, who.agent_id, who.host, who.pid, lives + 1, HERE)
        number = execute(
            "INSERT INTO producer VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, time.time_ns())
        ).lastrowid
        assert number is not None
        claim(number)
        earlier = execute(
            "SELECT id FROM producer WHERE identity = ? AND state = 'here' AND id < ?", (who.identity, number)
        ).fetchall()
        for (other,) in earlier:
            if not is_alive(other):
                execute("UPDATE producer SET state = 'lost' WHERE id = ?", (other,))
                execute("DELETE FROM wait WHERE producer = ?", (other,))
        execute(
            "DELETE FROM producer WHERE id <= ? AND state != 'here' AND NOT EXISTS"
            " (SELECT 1 FROM signal WHERE producer = producer.id)", (number - PRODUCERS,),
        )  # fmt: skip
        return replace(producer, generation=lives + 1)

    def end(self, producer: Producer, state: str) -> None:
        """A life is over."""
        self._execute(
            "UPDATE producer SET state = ?, at = ? WHERE uid = ? AND state = 'here'",
            (state, time.time_ns(), producer.uid),
        )
        self._execute("DELETE FROM wait WHERE producer = (SELECT id FROM producer WHERE uid = ?)", (producer.uid,))

    def put(self, signal: Signal, claim: Callable[[int], None], is_alive: Callable[[int], bool]) -> Signal:
        """Add it, unless it is there; what is not current gives way to it when there is no room.

        A producer that the board does not know (its file was made anew) joins.
        """
        execute = self._execute
        known = execute(
            f"SELECT s.seq, {_TRUSTED} FROM signal s JOIN producer p ON p.id = s.producer WHERE s.uid = ?",
            (signal.uid,),
        ).fetchone()
        if known is not None and known[1]:
            return replace(signal, seq=known[0])
        if known is not None:  # of a life that was lost: said again, it is new
            execute("DELETE FROM signal WHERE seq = ?", (known[0],))
        number = self._number(signal.producer)
        if number is None:
            self.join(signal.producer, claim, is_alive)
            number = self._number(signal.producer)
        assert number is not None
        claim(number)  # who emits is here, whatever others took it for
        s = signal
        row = (s.scope, s.name, s.key, s.state, s.reason, s.payload, s.uid, s.made_ns, s.ttl, s.traceparent, s.mark)
        seq = execute(
            "INSERT INTO signal VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, number, *self._now())
        ).lastrowid
        assert seq is not None
        execute("UPDATE producer SET at = ?, state = 'here' WHERE id = ?", (time.time_ns(), number))
        if seq % 256 == 0:
            self._shrink()
        return replace(signal, seq=seq)

    def _number(self, producer: Producer) -> int | None:
        found = self._execute("SELECT id FROM producer WHERE uid = ?", (producer.uid,)).fetchone()
        return None if found is None else int(found[0])

    def _shrink(self) -> None:
        too_many = self._execute("SELECT count(*) FROM signal").fetchone()[0] - self._kept
        if too_many > 0:
            self._execute(
                "DELETE FROM signal WHERE seq IN (SELECT s.seq FROM signal s WHERE EXISTS (SELECT 1 FROM signal n WHERE"
                " n.scope = s.scope AND n.name = s.name AND n.key = s.key AND n.producer = s.producer"
                " AND n.seq > s.seq) ORDER BY s.seq LIMIT ?)", (too_many,),
            )  # fmt: skip
            left = self._execute("SELECT count(*) FROM signal").fetchone()[0] - self._kept
            if left > 0:  # names without end
                self._execute("DELETE FROM signal WHERE seq IN (SELECT seq FROM signal ORDER BY seq LIMIT ?)", (left,))

    def current(
        self, scope: str, names: Collection[str], judge: Callable[[Signal], bool] | None = None
    ) -> list[Signal]:
        """The newest that are trusted and by ``judge``, if they have not expired."""
        found = []
        for row in self._newest(scope, names, _TRUSTED):
            genuine = row if judge is None or judge(_signal(row)) else self._before(row, judge)
            if genuine is not None and not self._is_over(genuine):
                found.append(_signal(genuine))
        return sorted(found, key=lambda signal: signal.seq)

    def said(self, scope: str, names: Collection[str]) -> list[Signal]:
        """The newest, whatever has become of it."""
        return [_signal(row) for row in self._newest(scope, names, "1")]

    def _newest(self, scope: str, names: Collection[str], condition: str) -> Iterator[Any]:
        wanted = sorted(set(names))
        for start in range(0, len(wanted), _CHUNK):
            some = wanted[start : start + _CHUNK]
            marks = ", ".join("?" * len(some))
            yield from self._execute(
                f"{_SIGNAL} WHERE s.seq IN (SELECT max(s.seq) FROM signal s JOIN producer p ON p.id = s.producer"
                f" WHERE s.scope = ? AND s.name IN ({marks}) AND {condition} GROUP BY s.name, s.key) ORDER BY s.seq",
                (scope, *some),
            ).fetchall()

    def _before(self, row: Any, judge: Callable[[Signal], bool]) -> Any:
        """The newest of the same place that is by ``judge``; ``None`` if none is."""
        name, key, scope, seq = row[0], row[1], row[2], row[11]
        older = self._execute(
            f"{_SIGNAL} WHERE s.scope = ? AND s.name = ? AND s.key = ? AND s.seq < ? AND {_TRUSTED}"
            " ORDER BY s.seq DESC", (scope, name, key, seq),
        )  # fmt: skip
        return next((found for found in older if judge(_signal(found))), None)

    def since(self, seq: int, limit: int) -> list[Signal]:
        """All that came later, in order."""
        return [
            _signal(row) for row in self._execute(f"{_SIGNAL} WHERE s.seq > ? ORDER BY s.seq LIMIT ?", (seq, limit))
        ]

    def producers(self) -> list[Heard]:
        """The last that was heard of first."""
        return [
            Heard(Producer(*row[:8]), row[8], row[9])
            for row in self._execute(f"{_PRODUCER} ORDER BY at DESC, id DESC LIMIT {PRODUCERS}")
        ]

    def note(self, wait: Wait) -> None:
        """Remember it."""
        self._execute(
            "INSERT OR REPLACE INTO wait SELECT ?, id, ?, ?, ?, ? FROM producer WHERE uid = ?",
            (wait.uid, wait.scope, json.dumps(wait.names), json.dumps(wait.then), wait.since_ns, wait.producer.uid),
        )

    def forget(self, wait: Wait) -> None:
        """It is over."""
        self._execute("DELETE FROM wait WHERE uid = ?", (wait.uid,))

    def waits(self, is_alive: Callable[[int], bool]) -> list[Wait]:
        """Those of who is alive."""
        rows = self._execute(
            "SELECT w.uid, p.identity, p.uid, p.service, p.agent, p.agent_id, p.host, p.pid, p.generation, w.scope,"
            " w.names, w.promised, w.since, p.id FROM wait w JOIN producer p ON p.id = w.producer ORDER BY w.since"
        ).fetchall()
        return list(self._living(rows, is_alive))

    @staticmethod
    def _living(rows: list[Any], is_alive: Callable[[int], bool]) -> Iterator[Wait]:
        alive: dict[int, bool] = {}
        for uid, *who, scope, names, promised, since, number in rows:
            if number not in alive:
                alive[number] = is_alive(number)
            if alive[number]:
                yield Wait(uid, Producer(*who), scope, tuple(json.loads(names)), tuple(json.loads(promised)), since)

    def _is_over(self, row: Any) -> bool:
        ttl, made, boot, came = row[8], row[7], row[-2], row[-1]
        if not ttl:
            return False
        now_boot, now = self._now()
        # Of another boot only the time of day is known, which may have been stepped.
        age = now - came if boot == now_boot else time.time_ns() - made
        return bool(age > ttl * 1e9)


def _signal(row: Any) -> Signal:
    values: tuple[Any, ...] = (*row[:6], Producer(*row[12:20]), *row[6:12])
    return Signal(*values)
