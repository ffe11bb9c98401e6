"""Which of the processes that share a home sends: whoever holds a lock on a file, for as long as it lives.

The kernel gives the lock back however its holder ends, so that there is no term to renew and no clock to trust.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_PREFIX: Final = "drain"


class Lease:
    """The right to send what waits for one destination."""

    __slots__ = ("_handle", "_path")

    def __init__(self, folder: Path, destination: str) -> None:
        self._path = folder / f"{_PREFIX}-{destination or 'local'}.lock"
        self._handle: int | None = None

    @property
    def held(self) -> bool:
        """Whether it is ours, as far as we know; :meth:`take` makes sure."""
        return self._handle is not None

    def take(self) -> bool:
        """Take the lease if nobody has it. About 2 µs when it is ours already."""
        if self._handle is not None:
            if self._is_current():
                return True
            self.release()  # the file was deleted under us: somebody else may hold its successor
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        self._handle = handle
        if _lock(handle) and self._is_current():
            return True
        self.release()
        return False

    def release(self) -> None:
        """Let somebody else have it. In a forked child it closes the copy, and the lock stays the parent's."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with contextlib.suppress(OSError):
                os.close(handle)

    def _is_current(self) -> bool:
        assert self._handle is not None
        try:
            here, there = os.fstat(self._handle), os.stat(self._path)
        except OSError:
            return False
        return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:
        return _lock_on_windows(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock_on_windows(handle: int) -> bool:
    import msvcrt

    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True
