"""Builds the OpenTelemetry Collector of collector/manifest.yaml, once, and prints where it is.

    python tools/collector.py          # the path of the binary
    python tools/collector.py lock     # writes collector/go.mod and go.sum anew, after a change of the manifest

The Collector's builder writes the source; its own ``go mod tidy`` fails on this set of modules, so that the module
files are kept beside the manifest and the build reads them only. The binary is static, 45 MB, and is kept in
``~/.cache/otel-perf/collector``, named by a hash of the three files. Cold it takes about 170 CPU seconds.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import golang
from environments import ROOT
from golang import SMALL, digest, go

FOLDER = ROOT / "collector"
SOURCES = ("manifest.yaml", "go.mod", "go.sum")
VERSION = "v0.155.0"
BUILDER = f"go.opentelemetry.io/collector/cmd/builder@{VERSION}"
# hostmetricsreceiver asks for a version of this internal module that was never tagged.
REPLACE = "github.com/open-telemetry/opentelemetry-collector-contrib/internal/gopsutilenv"
REPLACED_BY = "v0.149.0"
BUILD = ("go", "build", *SMALL)  # optimised: benchmarks/pipeline.py measures it


def ensure() -> Path:
    """The binary, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without Go."""
    return golang.ensure("the Collector", "collector", f"otelcol-{digest(FOLDER / name for name in SOURCES)}", _make)


def _make(binary: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="otelcol-") as work:
        source = _generate(Path(work))
        for name in ("go.mod", "go.sum"):
            shutil.copy(FOLDER / name, source)
        go(source, *BUILD, "-mod=readonly", "-o", str(binary), ".")


def lock() -> None:
    """Resolve the manifest's modules into collector/go.mod and go.sum."""
    with tempfile.TemporaryDirectory(prefix="otelcol-") as work:
        source = _generate(Path(work))
        go(source, "go", "mod", "init", "otel-perf/otelcol")
        modules = re.findall(r"gomod: (\S+) (\S+)", (FOLDER / "manifest.yaml").read_text())
        for name, version in [*modules, ("go.opentelemetry.io/collector/otelcol", VERSION)]:
            go(source, "go", "mod", "edit", f"-require={name}@{version}")
        go(source, "go", "mod", "edit", f"-replace={REPLACE}={REPLACE}@{REPLACED_BY}")
        go(source, *BUILD, "-mod=mod", "-o", str(Path(work) / "otelcol"), ".")
        for name in ("go.mod", "go.sum"):
            shutil.copy(source / name, FOLDER)


def _generate(work: Path) -> Path:
    """The Collector's source, written by its builder."""
    go(work, "go", "install", BUILDER, GOBIN=str(work / "bin"))
    shutil.copy(FOLDER / "manifest.yaml", work)
    (work / "build").mkdir()
    go(work, str(work / "bin" / "builder"), "--config=manifest.yaml", "--skip-compilation", "--skip-get-modules")
    return work / "build" / "src"


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        lock()
    else:
        print(ensure())
