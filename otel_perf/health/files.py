"""How a process is, in a file of the home folder, for those who cannot ask it: its siblings and the command line.

It is written when something has changed, else every few seconds, so that a process which hangs is known by its age.
Ages are by the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.health import WORDS

if TYPE_CHECKING:
    from otel_perf.core.home import Home
    from otel_perf.health.runner import Report

PREFIX: Final = "health-"
LONGEST: Final = 2**20  # bytes of a report
_FIELDS: Final = {
    "pid": int, "made": int | float, "service": str, "status": str, "live": bool, "ready": bool, "started": bool,
    "checks": list,
}  # fmt: skip
_CHECK: Final = {"name": str, "status": str, "reason": str, "critical": bool, "live": bool, "time": str}


@cache
def host() -> str:
    """Of the machine or container: process ids of another one say nothing here."""
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "localhost")
    with suppress(OSError):  # containers may share the machine's name, and then not its process ids
        name += str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:")
    return re.sub(r"[^A-Za-z0-9.-]", "", name)


def write(home: Home, report: Report) -> Path:
    """Put the report of this process there, in one step; into the fallback if the home is full. Raises ``OSError``."""
    try:
        return _written(home.make(), report)
    except OSError:
        return _written(home.fallback(), report)


def _written(folder: Path, report: Report) -> Path:
    path = folder / f"{PREFIX}{host()}-{report['pid']}.json"
    part = path.with_suffix(".part")
    body = json.dumps({**report, "born": born(report["pid"])}).encode("utf-8", "replace")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        try:
            if os.write(handle, body) != len(body):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise
    return path


def read(home: Home) -> list[Report]:
    """The reports of the processes of this machine that are still there; the files of those that ended are removed."""
    found: dict[int, Report] = {}
    for folder in (home.path, home.fallback_with(".gitignore"), *home.fallbacks_of_others()):
        for path in () if folder is None else _files(folder):
            # RecursionError: another user's may be anything.
            with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                report: Report = json.loads(_content(path))
                if not _is_there(report["pid"], report["born"]):
                    path.unlink()
                elif _is_whole(report) and report["made"] >= found.get(report["pid"], report)["made"]:
                    found[report["pid"]] = report  # of one that is in two places the newer
    return list(found.values())


def _content(path: Path) -> bytes:
    """What a file says; nothing of what is none: to open a pipe would wait."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    try:
        return os.read(handle, LONGEST) if stat.S_ISREG(os.fstat(handle).st_mode) else b""
    finally:
        os.close(handle)


def _is_whole(report: Report) -> bool:
    """Whether everything is there that an answer is made of: another version may have written it."""
    return (
        _has(report, _FIELDS)
        and report["status"] in WORDS
        and all(_has(check, _CHECK) and check["status"] in {*WORDS, "unknown"} for check in report["checks"])
    )


def _has(found: Any, fields: dict[str, Any]) -> bool:
    return isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in fields.items())


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
