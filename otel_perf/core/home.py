"""The home folder: where the store, the signal board and the audit trail are kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

HOME_VARIABLE: Final = "OTEL_PERF_HOME"
DEFAULT_HOME: Final = ".otel-perf"


class Home:
    """``OTEL_PERF_HOME``, made on first use with mode 0700 and a ``.gitignore`` of ``*``.

    The path is made absolute at start, so that a later ``chdir`` (daemons, gunicorn) does not split it.
    """

    __slots__ = ("path",)

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.path = Path(os.path.abspath(environ.get(HOME_VARIABLE, "").strip() or DEFAULT_HOME))

    def make(self) -> Path:
        """Make the folder if it is missing. Raises ``OSError`` if it cannot be made or written."""
        make_private(self.path)
        return self.path

    def fallback(self) -> Path:
        """A private folder under the system's temporary one, for a home that cannot be written."""
        import tempfile

        user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
        path = Path(tempfile.gettempdir()) / f"otel-perf-{user}"
        make_private(path)
        # /tmp is shared: somebody else may have made this folder first, to read what we write.
        if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
            raise PermissionError(f"{path} belongs to another user")
        return path


def make_private(path: Path) -> None:
    """Make ``path`` with mode 0700 and keep it out of version control."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    ignore = path / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n")
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written")
