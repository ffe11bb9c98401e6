"""A real Redis server for the tests: prints the path of its command.

    python tools/redis_server.py

One that is on the PATH is taken. Else, where there is apt-get, Debian's package and what it needs are unpacked into
``~/.cache/otel-perf/redis``: nothing is installed, no service is started, and root is needed only where apt has no
lists of packages yet.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from environments import cache, locked

PACKAGE = "redis-server"


def ensure() -> Path:
    """The command, made if it is missing. Safe to call from many processes. Raises ``RuntimeError`` without apt-get."""
    found = shutil.which("redis-server")
    if found is not None:
        return Path(found)
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError("redis-server is not on the PATH, and there is no apt-get to get Debian's with")
    folder = cache() / "redis"
    command = folder / "redis-server"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name("redis.lock")):
        if not command.exists():
            _make(folder, command)
    return command


def _make(folder: Path, command: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "root"
    root.mkdir(parents=True)
    try:
        packages = _missing()
    except RuntimeError:
        _run("apt-get", "update", "-qq")
        packages = _missing()
    with tempfile.TemporaryDirectory(prefix="otel-perf-redis-") as work:
        _run("apt-get", "download", "-qq", *packages, cwd=work)
        for archive in Path(work).glob("*.deb"):
            _run("dpkg-deb", "--extract", str(archive), str(root))
    libraries = ":".join(sorted({str(file.parent) for file in root.glob("usr/lib/**/*.so*")}))
    part = command.with_suffix(".part")
    part.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec "{root}/usr/bin/redis-server" "$@"\n')
    part.chmod(0o755)
    _run(str(part), "--version")
    part.replace(command)


def _missing() -> list[str]:
    """The package and what it needs that is not installed."""
    plan = _run("apt-get", "install", "--simulate", "--no-install-recommends", PACKAGE)
    packages = re.findall(r"^Inst (\S+)", plan, re.MULTILINE)
    if PACKAGE not in packages:
        raise RuntimeError(f"apt-get does not know {PACKAGE}")
    return packages


def _run(*command: str, cwd: str | None = None) -> str:
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    done = subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(ensure())
    except RuntimeError as error:
        sys.exit(str(error))
