"""Builds a small program that parses LogQL with Loki's own parser, once, and prints where it is.

    python tools/logql.py          # the path of the program
    python tools/logql.py lock     # writes tools/logql/go.mod and go.sum anew, after a change of VERSION

The version is that of docker-compose.yml's Loki. Kept in ``~/.cache/otel-perf/logql``, named by a hash of its source.
There is no such thing for TraceQL: Tempo's module cannot be had, and tests/e2e/traceql.py is a grammar of our own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import cache, locked

FOLDER = Path(__file__).resolve().parent / "logql"
SOURCES = ("main.go", "go.mod", "go.sum")
LOKI = "github.com/grafana/loki/v3@v3.7.6"
# What Loki's own go.mod replaces, of what its parser needs: a module's replacements do not bind who uses it.
REPLACED = (
    "github.com/hashicorp/memberlist=github.com/grafana/memberlist@v0.3.1-0.20251126142931-6f9f62ab6f86",
    "github.com/grafana/regexp=github.com/grafana/regexp@v0.0.0-20240518133315-a468a5bfb3bc",
)
BUILD = ("go", "build", "-trimpath", "-ldflags=-s -w", "-buildvcs=false")


def ensure() -> Path:
    """The program, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without Go."""
    digest = hashlib.sha256(b"\0".join((FOLDER / name).read_bytes() for name in SOURCES)).hexdigest()[:12]
    program = cache() / "logql" / f"logql-{digest}"
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise RuntimeError("Loki's parser is built with Go, and there is no go on the PATH: https://go.dev/dl")
    program.parent.mkdir(parents=True, exist_ok=True)
    with locked(program.with_name(f"{program.name}.lock")):
        if not program.exists():
            print(f"making {program} (a few minutes)", file=sys.stderr)
            part = program.with_suffix(".part")
            _go(FOLDER, *BUILD, "-mod=readonly", "-o", str(part), ".")
            part.replace(program)
    return program


def lock() -> None:
    """Resolve the parser's modules."""
    with tempfile.TemporaryDirectory(prefix="logql-") as work:
        shutil.copy(FOLDER / "main.go", work)
        _go(Path(work), "go", "mod", "init", "otel-perf/logql")
        _go(Path(work), "go", "mod", "edit", f"-require={LOKI}")
        for each in REPLACED:
            _go(Path(work), "go", "mod", "edit", f"-replace={each}")
        _go(Path(work), "go", "mod", "tidy")
        for name in ("go.mod", "go.sum"):
            shutil.copy(Path(work) / name, FOLDER)


def _go(folder: Path, *command: str) -> None:
    environ = {**os.environ, "CGO_ENABLED": "0"}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        lock()
    else:
        print(ensure())
