"""How a process is, in a file of the home folder, for those who cannot ask it: its siblings and the command line.

It is written when something has changed, else every few seconds, so that a process which hangs is known by its age.
Ages are by the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from otel_perf.core.home import Home
    from otel_perf.health.runner import Report

PREFIX: Final = "health-"


@cache
def host() -> str:
    """Of the machine or container: process ids of another one say nothing here."""
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "localhost")
    with suppress(OSError):  # containers may share the machine's name, and then not its process ids
        name += str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:")
    return re.sub(r"[^A-Za-z0-9.-]", "", name)


def write(home: Home, report: Report) -> Path:
    """Put the report of this process there, in one step. Raises ``OSError``."""
    try:
        folder = home.make()
    except OSError:
        folder = home.fallback()
    path = folder / f"{PREFIX}{host()}-{report['pid']}.json"
    part = path.with_suffix(".part")
    body = json.dumps({**report, "born": born(report["pid"])}).encode("utf-8", "replace")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        os.write(handle, body)
    finally:
        os.close(handle)
    part.replace(path)
    return path


def read(home: Home) -> list[Report]:
    """The reports of the processes of this machine that are still there; the files of those that ended are removed."""
    found, paths = [], _files(home.path)
    if not paths and (fallback := home.fallback_with(".gitignore")) is not None:  # the home cannot be written
        paths = _files(fallback)
    for path in paths:
        with suppress(OSError, ValueError, KeyError, TypeError):
            report: Report = json.loads(path.read_bytes())
            if _is_there(report["pid"], report["born"]):
                report["made"] = float(report["made"])
                found.append(report)
            else:
                path.unlink()
    return found


def _files(folder: Path) -> list[Path]:
    start = f"{PREFIX}{host()}-"
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return [folder / name for name in sorted(names) if name.startswith(start) and name.endswith(".json")]


def born(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; ``None`` if it has ended, or that is not to be had."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in {b"Z", b"X"} else int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def _is_there(pid: Any, since: int | None) -> bool:
    """Whether that process lives; its number may be another one's by now."""
    if since is not None:
        return born(int(pid)) == since
    import psutil

    return bool(psutil.pid_exists(int(pid)))
