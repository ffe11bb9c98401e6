"""The suite on every supported Python that is on this machine, and on the newest OpenTelemetry set.

An interpreter is looked for on the PATH and among pyenv's versions; one that is missing is named, not passed over
in silence.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from environments import ROOT, ensure

VERSIONS = ("3.11", "3.12", "3.13")
# Instrumentors for sqlite3, threading and most frameworks stop one release behind the newest SDK and pin the older
# one, so that what needs them cannot be run with it.
NEEDS_INSTRUMENTORS = (
    "tests/e2e/test_start.py", "tests/e2e/test_third_party.py", "tests/e2e/test_upstream_variables.py",
    "tests/e2e/test_shop.py", "tests/test_documents.py",
)  # fmt: skip


def interpreter(version: str) -> str | None:
    """A Python of ``version``: on the PATH, or the newest of pyenv's."""
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "-c", "pass"], capture_output=True, check=False).returncode == 0:
        return found
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = sorted(root.glob(f"{version}.*/bin/python"))
    return str(candidates[-1]) if candidates else None


def run(folder: Path, *without: str) -> bool:
    """The suite in one environment."""
    command = [str(folder / "bin" / "python"), "-m", "pytest", "-q", *(f"--ignore={name}" for name in without)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def main() -> int:
    """Run them all; 1 if any failed."""
    results = {}
    for version in VERSIONS:
        python = interpreter(version)
        name = f"Python {version}"
        if python is None:
            results[name] = "not on this machine"
            continue
        print(f"\n=== {name}", flush=True)
        results[name] = "passed" if run(ensure("dev", python)) else "FAILED"
    print("\n=== newest OpenTelemetry", flush=True)
    results["newest OpenTelemetry"] = (
        "passed" if run(ensure("dev-newest", constraints=None), *NEEDS_INSTRUMENTORS) else "FAILED"
    )
    print()
    for name, result in results.items():
        print(f"{name}: {result}")
    return int("FAILED" in results.values())


if __name__ == "__main__":
    sys.exit(main())
