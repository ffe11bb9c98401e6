"""Builds kustomize from its Go module, once, and prints where it is: what ``kubectl apply -k`` would send.

python tools/kustomize.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import cache, locked

VERSION = "v5.8.1"
MODULE = f"sigs.k8s.io/kustomize/kustomize/v5@{VERSION}"


def ensure() -> Path:
    """The binary, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without Go."""
    binary = cache() / "kustomize" / f"kustomize-{VERSION}"
    if binary.exists():
        return binary
    if shutil.which("go") is None:
        raise RuntimeError("kustomize is built with Go, and there is no go on the PATH: https://go.dev/dl")
    binary.parent.mkdir(parents=True, exist_ok=True)
    with locked(binary.with_name(f"{binary.name}.lock")):
        if not binary.exists():
            print(f"making {binary} (a minute)", file=sys.stderr)
            with tempfile.TemporaryDirectory(prefix="kustomize-") as made:
                environ = {**os.environ, "CGO_ENABLED": "0", "GOBIN": made}
                command = ["go", "install", "-trimpath", "-ldflags=-s -w", MODULE]
                done = subprocess.run(command, env=environ, cwd=made, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
                part = binary.with_suffix(".part")
                shutil.copy2(Path(made) / "kustomize", part)  # nobody may find half of it under its name
                part.replace(binary)
    return binary


if __name__ == "__main__":
    print(ensure())
