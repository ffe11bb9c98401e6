"""Builds Loki, once, and prints where it is.

    python tools/loki.py          # the path of the program
    python tools/loki.py lock     # writes tools/loki/go.mod and go.sum anew, after a change of VERSION

From its module, of the version that docker-compose.yml names: the bundle's own is that image, this one is for the tests
that collector/loki.yaml is read by Loki itself and does what it says. Kept in ``~/.cache/otel-perf/loki``, named by a
hash of the module files. Cold it takes minutes, and most of it is clients of clouds.
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
BUILD = ("go", "build", "-trimpath", "-ldflags=-s -w", "-buildvcs=false")


def ensure() -> Path:
    """The program, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without Go."""
    digest = hashlib.sha256(b"\0".join((FOLDER / name).read_bytes() for name in SOURCES)).hexdigest()[:12]
    program = cache() / "loki" / f"loki-{digest}"
    if program.exists():
        return program
    if shutil.which("go") is None:
        raise RuntimeError("Loki is built with Go, and there is no go on the PATH: https://go.dev/dl")
    program.parent.mkdir(parents=True, exist_ok=True)
    with locked(program.with_name(f"{program.name}.lock")):
        if not program.exists():
            print(f"making {program} (many minutes)", file=sys.stderr)
            part = program.with_suffix(".part")
            _go(FOLDER, *BUILD, "-mod=readonly", "-o", str(part), f"{MODULE}/cmd/loki")
            part.replace(program)
    return program


def lock() -> None:
    """Resolve its modules: those that the program needs, and no others."""
    with tempfile.TemporaryDirectory(prefix="loki-") as work:
        folder = Path(work)
        _go(folder, "go", "mod", "init", "otel-perf/loki")
        _go(folder, "go", "mod", "edit", f"-require={MODULE}@{VERSION}", *(f"-replace={each}" for each in REPLACED))
        _go(folder, *BUILD, "-mod=mod", "-o", str(folder / "loki"), f"{MODULE}/cmd/loki")
        for name in SOURCES:
            shutil.copy(folder / name, FOLDER)


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
