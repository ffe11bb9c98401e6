"""A real browser for the tests of the page: prints the path of Chromium's command.

    python tools/browser.py

One that is on the PATH is taken. Else Debian's package is installed, where this is root and there is apt-get.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from environments import cache, locked

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "fonts-dejavu-core")


def ensure() -> Path:
    """The command. Safe to call from many processes. Raises ``RuntimeError`` where none can be had."""
    cache().mkdir(parents=True, exist_ok=True)
    with locked(cache() / "browser.lock"):
        found = _found()
        if found is None:
            if shutil.which("apt-get") is None or os.geteuid() != 0:
                raise RuntimeError(
                    "there is no Chromium on the PATH, and it can be installed with apt-get by root alone"
                )
            print("installing chromium (a minute)", file=sys.stderr)
            try:
                _apt("install", "-y", "--no-install-recommends", *PACKAGES)
            except RuntimeError:
                _apt("update")
                _apt("install", "-y", "--no-install-recommends", *PACKAGES)
            found = _found()
    if found is None:
        raise RuntimeError("apt-get installed chromium, and there is none on the PATH")
    return found


def _found() -> Path | None:
    return next((Path(path) for name in NAMES if (path := shutil.which(name))), None)


def _apt(*arguments: str) -> None:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "-qq", *arguments], env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"apt-get {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-500:]}")


if __name__ == "__main__":
    try:
        print(ensure())
    except RuntimeError as error:
        sys.exit(str(error))
