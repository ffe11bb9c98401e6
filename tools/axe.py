"""axe-core, which finds what a page lacks for people who cannot see it or use a mouse: prints the path of its script.

    python tools/axe.py

It comes from the npm registry, by npm, and is kept in ``~/.cache/otel-perf/axe``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from environments import cache, locked

PACKAGE = "axe-core"
VERSION = "4.14.1"


def ensure() -> Path:
    """The script, fetched if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without npm."""
    script = cache() / "axe" / f"axe-{VERSION}.min.js"
    script.parent.mkdir(parents=True, exist_ok=True)
    with locked(script.with_suffix(".lock")):
        if not script.exists():
            if shutil.which("npm") is None:
                raise RuntimeError("axe-core comes from npm, and there is no npm on the PATH")
            with tempfile.TemporaryDirectory(prefix="otel-perf-axe-") as work:
                done = subprocess.run(
                    ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"],
                    cwd=work, capture_output=True, text=True, check=False,
                )  # fmt: skip
                if done.returncode != 0:
                    raise RuntimeError(f"npm pack {PACKAGE} ended with {done.returncode}: {done.stderr[-500:]}")
                with tarfile.open(Path(work) / done.stdout.split()[-1]) as archive:
                    found = archive.extractfile("package/axe.min.js")
                    if found is None:
                        raise RuntimeError(f"{PACKAGE} {VERSION} has no axe.min.js")
                    part = script.with_suffix(".part")
                    part.write_bytes(found.read())
                part.replace(script)
    return script


if __name__ == "__main__":
    try:
        print(ensure())
    except RuntimeError as error:
        sys.exit(str(error))
