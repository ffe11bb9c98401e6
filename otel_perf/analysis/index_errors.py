"""Puts errors into the index by the report's rule (:mod:`otel_perf.analysis.errors`), in whatever order they come.

An exception passes through several spans, and is logged as well: of a trace it counts once for each type, and lines
with it do not count. A span that failed without one counts where no span of its trace has any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from otel_perf.analysis.errors import short
from otel_perf.analysis.index_tables import FAILED, LOGGED, RAISED

if TYPE_CHECKING:
    import sqlite3

TEXT: Final = 500  # characters of each
_COLUMNS: Final = "time, service, type, spot, message, trace, origin, raised"


class _Row(NamedTuple):
    time: int
    service: int
    type: str
    spot: str
    message: str
    trace: int
    origin: int
    raised: str  # the exception's type; empty where none is said


class Errors:
    """Gathers rows; :meth:`flush` writes them. For one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._rows: dict[int, list[_Row]] = {RAISED: [], LOGGED: [], FAILED: []}

    def add(
        self, origin: int, time: int, service: int, kind: Any, spot: str, message: Any, trace: int, *, raised: Any = ""
    ) -> None:  # fmt: skip
        """One; ``kind`` is what is shown, ``raised`` the exception's type if there is one."""
        self._rows[origin].append(
            _Row(time, service, short(kind)[:TEXT] or "error", spot[:TEXT], str(message or "")[:TEXT], trace, origin,
                 short(raised)[:TEXT])
        )  # fmt: skip

    def flush(self) -> None:
        """Write the rows."""
        many = self._connection.executemany
        raised = self._rows[RAISED]
        if raised:
            many(f"INSERT OR IGNORE INTO error({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", raised)
            many(
                f"DELETE FROM error WHERE trace = ? AND trace > 0 AND"
                f" (origin = {FAILED} OR (origin = {LOGGED} AND raised = ?))",
                {(row.trace, row.raised) for row in raised},
            )
        for origin, alike in ((LOGGED, " AND raised = ?"), (FAILED, "")):
            many(
                f"INSERT INTO error({_COLUMNS}) SELECT ?, ?, ?, ?, ?, ?, ?, ? WHERE NOT EXISTS"
                f" (SELECT 1 FROM error WHERE trace = ? AND ? > 0 AND origin = {RAISED}{alike})",
                [(*row, row.trace, row.trace, *([row.raised] if alike else [])) for row in self._rows[origin]],
            )
        self._rows = {RAISED: [], LOGGED: [], FAILED: []}
