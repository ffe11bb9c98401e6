"""Whether the disk of the home folder has room."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

LEAST: Final = 4  # a quarter of what is degraded is unhealthy


def room(path: Path, wanted: int) -> tuple[str, str]:
    """Degraded with less than ``wanted`` bytes, unhealthy with a quarter of that. Some microseconds."""
    for folder in (path, *path.parents):  # it may not be there yet
        with suppress(FileNotFoundError, NotADirectoryError):
            free = shutil.disk_usage(folder).free
            if free >= wanted:
                return "healthy", ""
            reason = f"{free / 1e6:,.0f} MB are free on the disk of {path}"
            return ("unhealthy" if free < wanted / LEAST else "degraded"), reason
    return "healthy", ""
