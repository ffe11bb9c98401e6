"""Builds programs from Go modules, once, for the tests. What they share is here; each has a module of its own beside it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from environments import cache, locked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

SMALL: Final = ("-trimpath", "-ldflags=-s -w", "-buildvcs=false")
# Not optimised, which takes a quarter less of CPU to build: for what is no part of a benchmark.
QUICK: Final = (*SMALL, "-gcflags=all=-N -l")


def ensure(program: str, folder: str, version: str, make: Callable[[Path], None]) -> Path:
    """``~/.cache/otel-perf/FOLDER/VERSION``: what ``make`` makes at the path it is given, made if it is missing.

    Safe to call from many processes: nobody finds half of it under its name. Raises ``RuntimeError`` without Go.
    """
    made = cache() / folder / version
    if made.exists():
        return made
    if shutil.which("go") is None:
        raise RuntimeError(f"{program} is built with Go, and there is no go on the PATH: https://go.dev/dl")
    made.parent.mkdir(parents=True, exist_ok=True)
    with locked(made.with_name(f"{made.name}.lock")):
        if not made.exists():
            print(f"making {made} (minutes)", file=sys.stderr)
            part = made.with_name(f"{made.name}.part")
            make(part)
            part.replace(made)
    return made


def digest(files: Iterable[Path]) -> str:
    """A short name of what is in these files."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:12]


def go(folder: Path, *command: str, **variables: str) -> None:
    """Run a command of Go's in ``folder``. Raises ``RuntimeError`` with what it said."""
    # Memory for time: of what the compiler takes by default, its garbage collection is a good part.
    environ = {"GOGC": "800", **os.environ, "CGO_ENABLED": "0", **variables}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
