"""A file of the kernel's that is read again and again, without being opened each time."""

from __future__ import annotations

import os
from contextlib import suppress


class OwnFile:
    """A file of the kernel's that stays open.

    Its number may come to be somebody else's, when the app closes every descriptor to become a daemon: so it is
    closed only while it is still this file. Raises ``OSError``.
    """

    number = 0  # of them that are open, about

    def __init__(self, name: str) -> None:
        OwnFile.number += 1
        self._number = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        self._identity = self._stat()

    def _stat(self) -> tuple[int, int]:
        found = os.fstat(self._number)
        return found.st_dev, found.st_ino

    def read(self) -> bytes:
        """Its content now, up to 128 bytes; 0.7 µs."""
        return os.pread(self._number, 128, 0)

    def __del__(self) -> None:
        OwnFile.number -= 1
        with suppress(OSError, AttributeError):  # closed already, or never opened
            if self._stat() == self._identity:
                os.close(self._number)
