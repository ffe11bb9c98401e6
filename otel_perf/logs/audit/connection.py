"""The trail's files as one process has them open, and what is raised when they cannot be used."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_perf.core.errors import AuditError
from otel_perf.logs.audit.database import PATIENCE, Database, is_busy, retrying
from otel_perf.logs.audit.heads import CHECKPOINTS_FILE, Heads
from otel_perf.logs.audit.keys import KEY_FILE, KeyRing

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.core.home import Home
    from otel_perf.logs.settings import LogsSettings

# Connections that are never used and never closed: of a parent that forked in the middle of a write, and of a file that
# was replaced (closing one deletes the WAL by its name, which is the new file's by now).
_abandoned: Final[list[Database]] = []


class Connection:
    """At most one open :class:`Database`. Not thread-safe: its owner holds a lock."""

    def __init__(self, home: Home, settings: LogsSettings, say: Callable[[str], None]) -> None:
        self._home = home
        self._say = say
        self._key, self._checkpoints = files_of(home.path, settings)
        self._keys: KeyRing | None = None
        self.database: Database | None = None

    def connected(self) -> Database:
        """The open file; opened if it is not, or not the one that the path names now.

        Raises ``OSError``, ``sqlite3.Error``, also of a file that is busy, and ``AuditError``.
        """
        if self.database is not None and not self.database.is_current():
            _abandoned.append(self.database)  # deleted or replaced under us: what is written there is lost
            self.database = None
        if self.database is None:
            folder = self._home.make()
            if self._keys is None:
                self._keys = KeyRing(folder, self._key, self._say)
            self.database = Database(folder, self._keys, Heads(folder, self._checkpoints))
        return self.database

    def disconnect(self) -> None:
        """Close the file."""
        database, self.database = self.database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error, OSError):
                database.close()

    def leave_to_parent(self) -> None:
        """In a forked child: forget what the parent has open, and the keys that it read."""
        if self.database is not None:
            _abandoned.append(self.database)
        self.database = self._keys = None


def files_of(folder: Path, settings: LogsSettings) -> tuple[Path, Path]:
    """The private key, and the file that checkpoints are appended to."""
    key, checkpoints = settings.audit_key, settings.audit_checkpoints
    return (
        Path(os.path.abspath(key)) if key else folder / KEY_FILE,
        Path(os.path.abspath(checkpoints)) if checkpoints else folder / CHECKPOINTS_FILE,
    )


def open_database(folder: Path, settings: LogsSettings, say: Callable[[str], None]) -> Database:
    """The trail for a command that changes it. Raises ``AuditError``."""
    key, checkpoints = files_of(folder, settings)
    try:
        return retrying(lambda: Database(folder, KeyRing(folder, key, say), Heads(folder, checkpoints)))
    except AuditError:
        raise
    except (OSError, sqlite3.Error) as error:
        raise AuditError(f"the trail cannot be opened: {reason(error, folder)}") from error


def not_stored(error: BaseException, folder: Path) -> AuditError:
    """What is raised to whoever made a record."""
    made = AuditError(f"the record is not stored: {reason(error, folder)}")
    made.__cause__ = error
    return made


def reason(error: BaseException, folder: Path) -> str:
    """What went wrong, and what helps."""
    if isinstance(error, AuditError):
        return str(error)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    remedy = "see the folder and its rights; OTEL_PERF_HOME names another"
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        remedy = "free space on its volume, or name another by OTEL_PERF_HOME, and call again"
    elif code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        remedy = "the file is damaged: see otel-perf audit verify, and move audit.db and audit.head away to begin anew"
    elif is_busy(error):
        remedy = f"other processes kept it busy for {PATIENCE:g} s"
    return f"{folder}: {error} ({remedy})"
