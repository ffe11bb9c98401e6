"""Programs in other languages that send OTLP, for the tests: made once, and kept in ``~/.cache/otel-perf/strangers``.

    python tools/strangers.py js     # prints the folder of a program for node
    python tools/strangers.py go     # prints the path of a binary

Their sources and exact versions are in tests/e2e/strangers.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from environments import ROOT, cache, locked
from golang import QUICK, digest, go

if TYPE_CHECKING:
    from pathlib import Path

SOURCES = ROOT / "tests" / "e2e" / "strangers"


def ensure(language: str) -> Path:
    """What can be run, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without tools."""
    make, tool, name = {"js": (_js, "npm", "stranger.mjs"), "go": (_go, "go", "stranger")}[language]
    source = SOURCES / language
    files = sorted(path for path in source.iterdir() if path.is_file())
    folder = cache() / "strangers" / f"{language}-{digest(files)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        if not (folder / "complete").exists():
            if shutil.which(tool) is None:
                raise RuntimeError(f"there is no {tool} on the PATH")
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(source, folder)
            make(folder)
            (folder / "complete").touch()
    return folder / name


def _js(folder: Path) -> None:
    command = ("npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}{done.stdout[-1000:]}"
        )


def _go(folder: Path) -> None:
    go(folder, "go", "build", *QUICK, "-mod=readonly", "-o", "stranger", ".")


if __name__ == "__main__":
    try:
        print(ensure(sys.argv[1]))
    except RuntimeError as error:
        sys.exit(str(error))
