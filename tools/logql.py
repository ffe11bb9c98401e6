"""Builds a small program that parses LogQL with Loki's own parser, once, and prints where it is.

    python tools/logql.py          # the path of the program
    python tools/logql.py lock     # writes tools/logql/go.mod and go.sum anew, after a change of VERSION

The version is that of docker-compose.yml's Loki. Kept in ``~/.cache/otel-perf/logql``, named by a hash of its source.
There is no such thing for TraceQL: Tempo's module cannot be had, and tests/e2e/traceql.py is a grammar of our own.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import golang
from golang import QUICK, digest, go

FOLDER = Path(__file__).resolve().parent / "logql"
SOURCES = ("main.go", "go.mod", "go.sum")
LOKI = "github.com/grafana/loki/v3@v3.7.6"
# What Loki's own go.mod replaces, of what its parser needs: a module's replacements do not bind who uses it.
REPLACED = (
    "github.com/hashicorp/memberlist=github.com/grafana/memberlist@v0.3.1-0.20251126142931-6f9f62ab6f86",
    "github.com/grafana/regexp=github.com/grafana/regexp@v0.0.0-20240518133315-a468a5bfb3bc",
)
BUILD = ("go", "build", *QUICK)


def ensure() -> Path:
    """The program, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without Go."""
    return golang.ensure("Loki's parser", "logql", f"logql-{digest(FOLDER / name for name in SOURCES)}", _make)


def _make(program: Path) -> None:
    go(FOLDER, *BUILD, "-mod=readonly", "-o", str(program), ".")


def lock() -> None:
    """Resolve the parser's modules."""
    with tempfile.TemporaryDirectory(prefix="logql-") as work:
        shutil.copy(FOLDER / "main.go", work)
        go(Path(work), "go", "mod", "init", "otel-perf/logql")
        go(Path(work), "go", "mod", "edit", f"-require={LOKI}")
        for each in REPLACED:
            go(Path(work), "go", "mod", "edit", f"-replace={each}")
        go(Path(work), "go", "mod", "tidy")
        for name in ("go.mod", "go.sum"):
            shutil.copy(Path(work) / name, FOLDER)


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        lock()
    else:
        print(ensure())
