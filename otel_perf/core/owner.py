"""Whose code a file is: the app's own, a library's, or that of Python and of what stands between."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

FILES: Final = 10_000  # file names whose owner is remembered

_PACKAGES: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_OURS: Final = str(Path(__file__).resolve().parent.parent) + os.sep
_STDLIB: Final = str(Path(os.__file__).parent) + os.sep  # sysconfig says the same, and reads a large file for it
# What a bare frame of these files says is nothing: they stand between every call and its work.
_MACHINERY: Final = ("opentelemetry", "wrapt", "_pytest", "pluggy")


APP, LIBRARY, MACHINE = 2, 1, 0  # whose a file is; MACHINE: Python's own, OpenTelemetry's, ours
_owners: dict[str, int] = {}


def owner(filename: str) -> int:
    """Whose code a file is. About 0.1 µs for a known one."""
    known = _owners.get(filename)
    if known is None:
        known = _owner(filename)
        if len(_owners) < FILES:
            _owners[filename] = known
    return known


def _owner(filename: str) -> int:
    if filename.startswith(("<frozen", "<string>", "<template>", "<attrs", _OURS)):
        return MACHINE
    for mark in _PACKAGES:
        _, found, rest = filename.rpartition(mark)
        if found:
            return MACHINE if rest.startswith(_MACHINERY) else LIBRARY
    return MACHINE if filename.startswith(_STDLIB) else APP
