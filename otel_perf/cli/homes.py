"""Whether a program could keep its store where it is told to: a part of ``otel-perf doctor``."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, Final

from otel_perf.cli import text
from otel_perf.cli.diagnosis import Finding
from otel_perf.core.home import HOME_VARIABLE, STORE_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from otel_perf.core.home import Home

_ROOM: Final = 1_000_000  # bytes: below, a store can hardly be made
_REMEDY: Final = f"export {HOME_VARIABLE}=/a/folder"


def unusable(home: Home) -> Finding | None:
    """What a program that starts here as this user would meet. Nothing is made or written to see it."""
    parent, store = home.path, home.path / STORE_FILE
    while not _is_there(parent) and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        return _elsewhere(f"{home.path} cannot be written")
    if parent == home.path and home.is_a_trap():
        return _elsewhere(f"{home.path} belongs to another user, and {HOME_VARIABLE} does not choose it")
    if _is_there(store) and not os.access(store, os.R_OK | os.W_OK):
        return _elsewhere(f"{store} cannot be written")
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(parent).free
        if free < _ROOM:
            return Finding(
                problem=f"the disk of {home.path} is full: {text.size(free)} are free, and nothing can be stored there",
                remedy=f"make room, or {_REMEDY}",
            )
    return None


def _elsewhere(problem: str) -> Finding:
    return Finding(problem=f"{problem}: a temporary folder is used", remedy=_REMEDY)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # in a folder that may not be entered
        return False
