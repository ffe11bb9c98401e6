"""Virtual environments for the tests, the demo and the benchmarks, made once and cached.

    python tools/environments.py dev          # prints the folder of the environment "dev"

An environment is a requirements file in tools/environments/; a first line ``# project`` installs the
checkout into it as well. They are kept in ``$XDG_CACHE_HOME/otel-perf`` (``~/.cache/otel-perf``), named by a
hash of what they are made of (and of the checkout, if they hold it), so that a second run finds them again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = Path(__file__).resolve().parent / "environments"
CONSTRAINTS = ROOT / "constraints.txt"


def cache() -> Path:
    """The folder for everything that a command can make again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "otel-perf"


def ensure(name: str, python: str = sys.executable, *, constraints: Path | None = CONSTRAINTS) -> Path:
    """The environment ``name`` for ``python``, made if it is missing. Safe to call from many processes."""
    requirements = REQUIREMENTS / f"{name}.txt"
    if not requirements.exists():
        names = ", ".join(sorted(file.stem for file in REQUIREMENTS.glob("*.txt")))
        raise SystemExit(f"environments: there is no environment {name!r}; there are {names}")
    text = requirements.read_text()
    pinned = constraints.read_text() if constraints is not None else ""
    version = _version(python)
    # Each checkout has its own where the project is installed: one that is switched under a running suite breaks it.
    place = str(ROOT) if text.startswith("# project") else ""
    digest = hashlib.sha256(f"{text}\0{pinned}\0{version}\0{place}".encode()).hexdigest()[:12]
    folder = cache() / "envs" / f"{name}-{version}-{digest}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder, python, requirements, constraints)
            (folder / "complete").touch()
        if text.startswith("# project") and not _is_installed(folder):
            _install(folder, "--no-deps", "-e", str(ROOT))
    return folder


def _version(python: str) -> str:
    code = "import sys; print('%d.%d.%d' % sys.version_info[:3])"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _make(folder: Path, python: str, requirements: Path, constraints: Path | None) -> None:
    print(f"making {folder}", file=sys.stderr)
    subprocess.run([str(uv()), "venv", "-q", "--seed", "--no-project", "--python", python, str(folder)], check=True)
    limit = [] if constraints is None else ["-c", str(constraints)]
    _install(folder, "-r", str(requirements), *limit)


def uv() -> Path:
    """The program that makes all others, in an environment of its own."""
    folder = cache() / "envs" / f"uv-{_version(sys.executable)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "complete").exists():
            venv.create(folder, with_pip=True, clear=True)
            subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "uv"], check=True)
            (folder / "complete").touch()
    return folder / "bin" / "uv"


def _install(folder: Path, *arguments: str) -> None:
    python = folder / "bin" / "python"
    subprocess.run([str(uv()), "pip", "install", "-q", "--python", str(python), *arguments], check=True)


def _is_installed(folder: Path) -> bool:
    for record in folder.glob("lib/python*/site-packages/otel_perf-*.dist-info/direct_url.json"):
        # Entry points and dependencies are read from the metadata of the last install, and it compiled.
        made_of = (ROOT / "pyproject.toml", ROOT / "hatch_build.py", *ROOT.glob("otel_perf/*/_*.c"))
        return record.stat().st_mtime >= max(file.stat().st_mtime for file in made_of)
    return False


@contextlib.contextmanager
def locked(path: Path):
    """Hold a lock file: processes that make the same thing take turns."""
    import fcntl

    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    print(ensure(sys.argv[1], *sys.argv[2:3]))
