"""Builds Prometheus and promtool, once, and prints the folder that they are in.

    python tools/prometheus.py

They are built from their modules, without service discovery for the clouds and without the web page: the bundle's own
Prometheus is the image that docker-compose.yml names, this one is for the tests. Debian's is too old to take OTLP.
Kept in ``~/.cache/otel-perf/prometheus``, by version. Cold it takes about 280 CPU seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import golang
from golang import QUICK, go

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "v0.316.0"  # of the module; the programs say 3.16.0
MODULE = "github.com/prometheus/prometheus/cmd"
PROGRAMS = ("prometheus", "promtool")


def ensure() -> Path:
    """The folder, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without Go."""
    return golang.ensure("Prometheus", "prometheus", VERSION, _make)


def _make(folder: Path) -> None:
    programs = (f"{MODULE}/{name}@{VERSION}" for name in PROGRAMS)
    go(folder.parent, "go", "install", *QUICK, "-tags=remove_all_sd", *programs, GOBIN=str(folder))


if __name__ == "__main__":
    print(ensure())
