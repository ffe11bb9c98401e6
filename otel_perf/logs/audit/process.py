"""A process: its name, and what it says of itself in its first record."""

from __future__ import annotations

import os
import platform
import secrets
import sys
from typing import Any


def new_process() -> str:
    """A name for a process that no other has, on any machine."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def opening(process: str) -> dict[str, Any]:
    """Who begins to write. Arguments of the command line are left out: they hold secrets."""
    return {
        "process": process,
        "pid": os.getpid(),
        "host": platform.node(),
        "service": os.environ.get("OTEL_SERVICE_NAME", ""),
        "program": os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else "",  # noqa: PTH119
        "user": os.getuid() if hasattr(os, "getuid") else -1,
        "python": platform.python_version(),
        # Imported, it would bring all of the package into the import rules.
        "version": sys.modules["otel_perf"].__version__,
    }
