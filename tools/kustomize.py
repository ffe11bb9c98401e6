"""Builds kustomize from its Go module, once, and prints where it is: what ``kubectl apply -k`` would send.

python tools/kustomize.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import golang
from golang import QUICK, go

VERSION = "v5.8.1"
MODULE = f"sigs.k8s.io/kustomize/kustomize/v5@{VERSION}"


def ensure() -> Path:
    """The binary, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without Go."""
    return golang.ensure("kustomize", "kustomize", f"kustomize-{VERSION}", _make)


def _make(binary: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kustomize-", dir=binary.parent) as made:
        go(Path(made), "go", "install", *QUICK, MODULE, GOBIN=made)
        (Path(made) / "kustomize").replace(binary)


if __name__ == "__main__":
    print(ensure())
