"""Builds Loki, once, and prints where it is.

    python tools/loki.py          # the path of the program
    python tools/loki.py lock     # writes tools/loki/go.mod and go.sum anew, after a change of VERSION

From its module, of the version that docker-compose.yml names: the bundle's own is that image, this one is for the tests
that collector/loki.yaml is read by Loki itself and does what it says. Kept in ``~/.cache/otel-perf/loki``, named by a
hash of the module files. Cold it takes minutes, and most of it is clients of clouds.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import golang
from golang import QUICK, digest, go

FOLDER = Path(__file__).resolve().parent / "loki"
SOURCES = ("go.mod", "go.sum")
MODULE, VERSION = "github.com/grafana/loki/v3", "v3.7.6"
# What Loki's own go.mod replaces, and a module's replacements do not bind who uses it.
REPLACED = (
    "github.com/Azure/azure-storage-blob-go=github.com/MasslessParticle/azure-storage-blob-go@v0.14.1-0.20240322194317-344980fda573",
    "github.com/hashicorp/memberlist=github.com/grafana/memberlist@v0.3.1-0.20251126142931-6f9f62ab6f86",
    "github.com/grafana/regexp=github.com/grafana/regexp@v0.0.0-20240518133315-a468a5bfb3bc",
    "github.com/influxdata/go-syslog/v3=github.com/leodido/go-syslog/v4@v4.3.0",
    "github.com/thanos-io/objstore=github.com/grafana/objstore@v0.0.0-20250728171719-b5d3b766d1b0",
)
BUILD = ("go", "build", *QUICK)


def ensure() -> Path:
    """The program, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without Go."""
    return golang.ensure("Loki", "loki", f"loki-{digest(FOLDER / name for name in SOURCES)}", _make)


def _make(program: Path) -> None:
    go(FOLDER, *BUILD, "-mod=readonly", "-o", str(program), f"{MODULE}/cmd/loki")


def lock() -> None:
    """Resolve its modules: those that the program needs, and no others."""
    with tempfile.TemporaryDirectory(prefix="loki-") as work:
        folder = Path(work)
        go(folder, "go", "mod", "init", "otel-perf/loki")
        go(folder, "go", "mod", "edit", f"-require={MODULE}@{VERSION}", *(f"-replace={each}" for each in REPLACED))
        go(folder, *BUILD, "-mod=mod", "-o", str(folder / "loki"), f"{MODULE}/cmd/loki")
        for name in SOURCES:
            shutil.copy(folder / name, FOLDER)


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        lock()
    else:
        print(ensure())
