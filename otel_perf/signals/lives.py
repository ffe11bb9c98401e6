"""Tells whether a process that said "I am here" still is: it holds a lock that ends with it."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: a life ends when it says so
    fcntl = None  # type: ignore[assignment]


_known: dict[str, Lives] = {}


def lives_of(path: Path) -> Lives:
    """The one of this process: its own locks are no obstacle to itself, and closing one descriptor drops all."""
    return _known.setdefault(os.path.abspath(path), Lives(path))


def forget_parent() -> None:
    """In a forked child: the parent's locks are not its own. Closing its descriptors leaves those to the parent."""
    for lives in _known.values():
        lives.close()


class Lives:
    """One byte of a file for each life, locked by its process. Not thread-safe: its board holds a lock.

    POSIX locks: a forked child does not have its parent's, and the kernel drops them with the process, however it ends,
    in whatever container it ran. They are dropped as well when the process closes any descriptor of the file, so it is
    opened once and stays open.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        self._own: set[int] = set()
        self._board: object = None

    def serve(self, board: object) -> None:
        """Whose lives these are: the numbers of a board that is no more are given up."""
        if self._board is not None and board != self._board:
            self.close()
        self._board = board

    def hold(self, number: int) -> None:
        """Hold the lock of this life until the process ends. Raises ``OSError``."""
        if fcntl is not None:
            fcntl.lockf(self._open(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        self._own.add(number)

    def is_held(self, number: int) -> bool:
        """Whether the process of this life still runs."""
        if fcntl is None or number in self._own:
            return True
        handle = self._open()
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return True
        fcntl.lockf(handle, fcntl.LOCK_UN, 1, number)
        return False

    def close(self) -> None:
        """Drop all locks of this process."""
        handle, self._handle = self._handle, None
        self._own.clear()
        if handle is not None:
            with contextlib.suppress(OSError):
                os.close(handle)

    def _open(self) -> int:
        if self._handle is not None and not self._is_there(self._handle):
            os.close(self._handle)  # somebody has taken the file away: others lock another one
            self._handle = None
        if self._handle is None:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
            self._handle = os.open(self._path, flags, 0o600)
            for number in self._own if fcntl is not None else ():
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        return self._handle

    def _is_there(self, handle: int) -> bool:
        try:
            found = os.stat(self._path)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(handle))
