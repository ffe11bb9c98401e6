"""Builds the OpenTelemetry Collector of collector/manifest.yaml, once, and prints where it is.

    python tools/collector.py          # the path of the binary
    python tools/collector.py lock     # writes collector/go.mod and go.sum anew, after a change of the manifest

The Collector's builder writes the source; its own ``go mod tidy`` fails on this set of modules, so that the module
files are kept beside the manifest and the build reads them only. The binary is static, 45 MB, and is kept in
``~/.cache/otel-perf/collector``, named by a hash of the three files. Cold it takes about 170 CPU seconds.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import ROOT, cache, locked

FOLDER = ROOT / "collector"
SOURCES = ("manifest.yaml", "go.mod", "go.sum")
VERSION = "v0.155.0"
BUILDER = f"go.opentelemetry.io/collector/cmd/builder@{VERSION}"
# hostmetricsreceiver asks for a version of this internal module that was never tagged.
REPLACE = "github.com/open-telemetry/opentelemetry-collector-contrib/internal/gopsutilenv"
REPLACED_BY = "v0.149.0"
BUILD = ("go", "build", "-trimpath", "-ldflags=-s -w")


def ensure() -> Path:
    """The binary, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without Go."""
    digest = hashlib.sha256(b"\0".join((FOLDER / name).read_bytes() for name in SOURCES)).hexdigest()[:12]
    binary = cache() / "collector" / f"otelcol-{digest}"
    if binary.exists():
        return binary
    if shutil.which("go") is None:
        raise RuntimeError("the Collector is built with Go, and there is no go on the PATH: https://go.dev/dl")
    binary.parent.mkdir(parents=True, exist_ok=True)
    with locked(binary.with_name(f"{binary.name}.lock")):
        if not binary.exists():
            print(f"making {binary} (a few minutes)", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="otelcol-") as work:
                source = _generate(Path(work))
                for name in ("go.mod", "go.sum"):
                    shutil.copy(FOLDER / name, source)
                made = Path(work) / "otelcol"
                _go(source, *BUILD, "-mod=readonly", "-o", str(made), ".")
                part = binary.with_suffix(".part")
                shutil.copy2(made, part)  # across file systems; nobody may find half of it under its name
                part.replace(binary)
    return binary


def lock() -> None:
    """Resolve the manifest's modules into collector/go.mod and go.sum."""
    with tempfile.TemporaryDirectory(prefix="otelcol-") as work:
        source = _generate(Path(work))
        _go(source, "go", "mod", "init", "otel-perf/otelcol")
        modules = re.findall(r"gomod: (\S+) (\S+)", (FOLDER / "manifest.yaml").read_text())
        for name, version in [*modules, ("go.opentelemetry.io/collector/otelcol", VERSION)]:
            _go(source, "go", "mod", "edit", f"-require={name}@{version}")
        _go(source, "go", "mod", "edit", f"-replace={REPLACE}={REPLACE}@{REPLACED_BY}")
        _go(source, *BUILD, "-mod=mod", "-o", str(Path(work) / "otelcol"), ".")
        for name in ("go.mod", "go.sum"):
            shutil.copy(source / name, FOLDER)


def _generate(work: Path) -> Path:
    """The Collector's source, written by its builder."""
    _go(work, "go", "install", BUILDER, GOBIN=str(work / "bin"))
    shutil.copy(FOLDER / "manifest.yaml", work)
    (work / "build").mkdir()
    _go(work, str(work / "bin" / "builder"), "--config=manifest.yaml", "--skip-compilation", "--skip-get-modules")
    return work / "build" / "src"


def _go(folder: Path, *command: str, **variables: str) -> None:
    environ = {**os.environ, "CGO_ENABLED": "0", **variables}
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        lock()
    else:
        print(ensure())
