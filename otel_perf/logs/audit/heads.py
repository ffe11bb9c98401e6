"""``audit.head`` and ``audit.checkpoints``: what the trail's end was, told outside of the file that holds it.

The head is one line of a fixed length that is overwritten in place after each commit, so that it takes no room on a
full disk. It never runs ahead of the database: a commit is on the disk before its head is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING, Final

from otel_perf.logs.audit.chain import Checkpoint
from otel_perf.logs.audit.keys import sync_folder, write_safely

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HEAD_FILE: Final = "audit.head"
CHECKPOINTS_FILE: Final = "audit.checkpoints"
HEAD_BYTES: Final = 512  # one sector: written as a whole
CHECKPOINT_EVERY: Final = 60.0  # seconds
LONGEST_LINE: Final = 4096
PATIENCE: Final = 5.0  # seconds: a head is locked for 15 µs, but a process can be stopped in the midst
PAUSE: Final = 0.0005  # seconds between two tries
# What is in the place of the file is none. Other errors (no descriptor left, no rights) say nothing of it.
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMLINK, errno.ESPIPE})


def padded(checkpoint: Checkpoint) -> bytes:
    """The content of ``audit.head``."""
    return checkpoint.line().encode().ljust(HEAD_BYTES - 1) + b"\n"


class Heads:
    """The two files as a writer uses them. Not thread-safe; closed before a fork."""

    def __init__(self, folder: Path, checkpoints: Path) -> None:
        self.path = folder / HEAD_FILE
        self._checkpoints = checkpoints
        self._file: int | None = None

    def begin(self, checkpoint: Checkpoint) -> None:
        """Make the head of a new trail, unless there is one that says that there was a trail."""
        found = self.read()
        if found is None or found.seq == 0:
            self.close()
            write_safely(self.path, padded(checkpoint))

    def read(self) -> Checkpoint | None:
        """What the head says; ``None`` if it is missing or damaged. About 5 µs.

        Raises ``OSError`` where that cannot be told.
        """
        try:
            return locked_head(self._open())
        except OSError as error:
            self.close()
            if error.errno in _NO_FILE:
                return None
            raise

    def write(self, checkpoint: Checkpoint, *, force: bool = False) -> None:
        """Let the head say ``checkpoint``, unless it says a later one. About 15 µs. Raises ``OSError``."""
        try:
            handle = self._open()
        except FileNotFoundError:
            write_safely(self.path, padded(checkpoint))
            return
        with _locked(handle):
            found = None if force else Checkpoint.parse(_read(handle))
            if found is None or found.trail != checkpoint.trail or found.seq < checkpoint.seq:
                os.lseek(handle, 0, os.SEEK_SET)
                os.write(handle, padded(checkpoint))

    def note(self, checkpoint: Checkpoint, *, every: float = CHECKPOINT_EVERY) -> bool:
        """Append to the checkpoints if nobody did for ``every`` seconds; whether it did. Raises ``OSError``."""
        try:
            age = time.time() - os.stat(self._checkpoints).st_mtime
        except FileNotFoundError:
            age = every
        if 0 <= age < every:
            return False
        new = not self._checkpoints.exists()
        handle = os.open(
            self._checkpoints, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600
        )
        try:
            os.write(handle, checkpoint.line().encode() + b"\n")  # one call, one line: others append as well
        finally:
            os.close(handle)
        if new:
            sync_folder(self._checkpoints.parent)
        return True

    def close(self) -> None:
        """Close the head."""
        handle, self._file = self._file, None
        if handle is not None:
            os.close(handle)

    def _open(self) -> int:
        """A descriptor of the file that the path names now."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                now, then = os.stat(self.path), os.fstat(self._file)
                if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino):
                    return self._file
            self.close()
        flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags)
        return self._file


def locked_head(handle: int) -> Checkpoint | None:
    """What the open head says. Locked: while another process writes it, half of two heads can be read."""
    with _locked(handle):
        return Checkpoint.parse(_read(handle))


def _read(handle: int) -> bytes:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.read(handle, HEAD_BYTES)


@contextlib.contextmanager
def _locked(handle: int) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows: two processes may leave the older of two heads, until the next commit
        yield
        return
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"another process has locked it for {PATIENCE:g} s") from error
            time.sleep(PAUSE)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)


def checkpoints_in(path: Path, limit: int) -> Iterator[tuple[int, Checkpoint | None]]:
    """The lines of the first ``limit`` bytes of a file, by number; ``None`` for what is none. Raises ``OSError``."""
    with path.open("rb") as file:
        number = 0
        while file.tell() < limit:
            line = file.readline(LONGEST_LINE)
            if not line:
                return
            number += 1
            if line.strip():
                yield number, Checkpoint.parse(line)
