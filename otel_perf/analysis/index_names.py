"""Numbers for names, operations and traces while an index is built, and what is summed up before it is written."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final

from otel_perf.analysis.otlp import attributes_of, instance_of, service_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

KNOWN_TEXTS: Final = 100_000
LONGEST: Final = 500  # characters of a name
VALUE: Final = 200  # characters of an attribute's value where all of them together are too long
CUT: Final = "(cut)"  # an attribute that only such a set has
MOST: Final = (1 << 63) - 1  # that SQLite takes: OTLP's times and counts may be higher


def as_json(attributes: dict[str, Any], longest: int) -> str:
    """As JSON of about ``longest`` characters. What is too long is cut in its values: cut JSON is none any more."""
    text = json.dumps(attributes, sort_keys=True, default=repr)
    if len(text) <= longest:
        return text
    kept: dict[str, Any] = {CUT: hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}  # two stay two
    left = longest
    for key, value in sorted(attributes.items()):
        short = value if isinstance(value, bool | int | float) else str(value)[:VALUE]
        name = key[:VALUE]
        left -= len(json.dumps({name: short}))
        if left >= 0:
            kept[name] = short
    return json.dumps(kept, sort_keys=True)


class Resource:
    """Whose items these are: its service as a number, and the process."""

    __slots__ = ("attributes", "instance", "service", "version")

    def __init__(self, attributes: dict[str, Any], service: int) -> None:
        self.attributes = attributes
        self.service = service
        self.instance = instance_of(attributes)[:LONGEST]
        self.version = str(attributes.get("service.version", ""))[:LONGEST]


class Trace:
    """What is known of a trace that this piece of work touched."""

    __slots__ = ("cost", "errors", "findings", "finish", "logs", "new", "number", "root", "rooted", "spans", "start")

    def __init__(self, number: int, row: tuple[Any, ...] | None) -> None:
        self.number = number
        self.new = row is None
        self.start, self.finish, self.root, self.rooted = row or (None, None, 0, 0)
        self.spans = self.errors = self.logs = self.findings = 0  # to be added
        self.cost = 0.0


class Names:
    """Of one index. For one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._texts: dict[str, int] = {}
        self._operations: dict[tuple[int, str, int], int] = {}
        self._resources: dict[bytes, Resource] = {}
        self._touched: dict[bytes, Trace] = {}
        self._seen: dict[tuple[int, str], list[int]] = {}  # first and last of each process
        self.store = 0  # whose batch is at hand, where the index is of several; else nothing can be in another one
        self.twice = 0  # items of it that another store has as well
        self.bounds = 0, MOST  # times (ns) that the batch at hand can be of; see ``saw``
        self.next_trace = self._next("trace")
        self.next_span = self._next("span")
        self.next_log = self._next("log")

    def _next(self, table: str) -> int:
        return int(self._connection.execute(f"SELECT coalesce(max(id), 0) + 1 FROM {table}").fetchone()[0])

    def text(self, value: str) -> int:
        """The number of a name."""
        number = self._texts.get(value)
        if number is None:
            if len(self._texts) >= KNOWN_TEXTS:
                self._texts.clear()
            short = value[:LONGEST]
            execute = self._connection.execute
            row = execute("SELECT id FROM text WHERE value = ?", (short,)).fetchone()
            if row is None:
                row = (execute("INSERT INTO text(value) VALUES (?)", (short,)).lastrowid,)
            number = self._texts[value] = int(row[0])
        return number

    def operation(self, service: int, name: str, kind: int) -> int:
        """The number of an operation."""
        key = service, name, kind
        number = self._operations.get(key)
        if number is None:
            if len(self._operations) >= KNOWN_TEXTS:
                self._operations.clear()
            row = service, self.text(name), kind
            execute = self._connection.execute
            execute("INSERT OR IGNORE INTO operation(service, name, kind) VALUES (?, ?, ?)", row)
            found = execute("SELECT id FROM operation WHERE service = ? AND name = ? AND kind = ?", row).fetchone()
            number = self._operations[key] = int(found[0])
        return number

    def resource(self, given: Any) -> Resource:
        """Of an OTLP resource."""
        key = given.SerializeToString()
        found = self._resources.get(key)
        if found is None:
            if len(self._resources) >= KNOWN_TEXTS:
                self._resources.clear()
            attributes = attributes_of(given.attributes)
            found = self._resources[key] = Resource(attributes, self.text(service_of(attributes)))
            self._connection.execute(
                "INSERT OR IGNORE INTO process(service, instance, version, first, last, resource)"
                " VALUES (?, ?, ?, NULL, NULL, ?)",
                (found.service, found.instance, found.version, as_json(attributes, 4000)),
            )
        return found

    def saw(self, resource: Resource, first: int, last: int) -> None:
        """Something of a process is of these times.

        Not for what is outside ``bounds``: one clock that was never set would stretch every range of time to 1970.
        """
        seen = self._seen.setdefault((resource.service, resource.instance), [min(first, MOST), min(last, MOST)])
        seen[0], seen[1] = min(seen[0], first), max(seen[1], min(last, MOST))

    def know(self, tids: Iterable[bytes]) -> None:
        """Look up the traces that come, together."""
        unknown = [tid for tid in set(tids) if tid not in self._touched]
        for at in range(0, len(unknown), 400):
            some = unknown[at : at + 400]
            marks = ",".join("?" * len(some))
            rows = self._connection.execute(
                f"SELECT tid, id, start, finish, root, rooted FROM trace WHERE tid IN ({marks})", some
            )
            for tid, number, *row in rows:
                self._touched[tid] = Trace(number, tuple(row))

    def trace(self, tid: bytes) -> Trace:
        """One that was looked up, or a new one."""
        found = self._touched.get(tid)
        if found is None:
            found = self._touched[tid] = Trace(self.next_trace, None)
            self.next_trace += 1
        return found

    def flush(self) -> None:
        """Write what was gathered of traces and processes."""
        self._connection.executemany(
            "INSERT INTO trace VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (t.number, tid, t.start, t.finish, t.root, t.rooted, t.spans, t.errors, t.logs, t.findings, t.cost)
                for tid, t in self._touched.items() if t.new
            ],
        )  # fmt: skip
        self._connection.executemany(
            "UPDATE trace SET start = ?, finish = ?, root = ?, rooted = ?, spans = spans + ?, errors = errors + ?,"
            " logs = logs + ?, findings = findings + ?, cost = cost + ? WHERE id = ?",
            [
                (t.start, t.finish, t.root, t.rooted, t.spans, t.errors, t.logs, t.findings, t.cost, t.number)
                for t in self._touched.values() if not t.new
            ],
        )  # fmt: skip
        self._touched.clear()
        self._connection.executemany(
            "UPDATE process SET first = min(coalesce(first, ?), ?), last = max(coalesce(last, ?), ?)"
            " WHERE service = ? AND instance = ?",
            [(first, first, last, last, *process) for process, (first, last) in self._seen.items()],
        )
        self._seen.clear()
