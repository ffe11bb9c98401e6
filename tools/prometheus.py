"""Builds Prometheus and promtool, once, and prints the folder that they are in.

    python tools/prometheus.py

They are built from their modules, without service discovery for the clouds and without the web page: the bundle's own
Prometheus is the image that docker-compose.yml names, this one is for the tests. Debian's is too old to take OTLP.
Kept in ``~/.cache/otel-perf/prometheus``, by version. Cold it takes about 240 CPU seconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import cache, locked

VERSION = "v0.316.0"  # of the module; the programs say 3.16.0
MODULE = "github.com/prometheus/prometheus/cmd"
PROGRAMS = ("prometheus", "promtool")
BUILD = ("go", "install", "-trimpath", "-ldflags=-s -w", "-tags=remove_all_sd")


def ensure() -> Path:
    """The folder, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without Go."""
    folder = cache() / "prometheus" / VERSION
    if folder.exists():
        return folder
    if shutil.which("go") is None:
        raise RuntimeError("Prometheus is built with Go, and there is no go on the PATH: https://go.dev/dl")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            print(f"making {folder} (a few minutes)", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="prometheus-", dir=folder.parent) as work:
                made = Path(work) / "bin"
                environ = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(made)}
                command = (*BUILD, *(f"{MODULE}/{name}@{VERSION}" for name in PROGRAMS))
                done = subprocess.run(command, cwd=work, env=environ, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
                made.replace(folder)  # on the same file system: nobody finds half of it under its name
    return folder


if __name__ == "__main__":
    print(ensure())
