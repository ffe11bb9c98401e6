"""How much memory the process may use, who says so, and how much of that is used.

The limit is the least of what applies: ``OTEL_PERF_MEMORY_LIMIT``; ``memory.max`` and ``memory.high`` of the cgroup
(v2) and of those above it; the v1 limit, which on some machines is the one that counts although v2 is mounted; the
machine's memory. What is used is counted where the limit is: the process's resident memory for a limit of its own, the
group's for a group's, since the kernel kills by that, and the machine's for the machine's.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from otel_perf.core.records import record
from otel_perf.memory.gauges import memory

if TYPE_CHECKING:
    from collections.abc import Iterator

UNLIMITED: Final = 2**60  # bytes: what v1 has for no limit is about 2**63
_LINUX: Final = sys.platform.startswith("linux")


@record
class Limit:
    """Bytes, and who says so."""

    size: int
    source: str
    usage: Path | None = None  # where the group's memory in use is read, of a group's limit
    of_machine: bool = False


def find(setting: int | None, root: Path = Path("/")) -> Limit | None:
    """The least limit; ``None`` where there is none to be found. ``root`` is the folder of ``proc`` and ``sys``."""
    limits = [Limit(setting, "OTEL_PERF_MEMORY_LIMIT")] if setting else []
    if _LINUX:
        with suppress(OSError, ValueError):
            limits += _of_groups(root)
        with suppress(OSError, ValueError, IndexError):
            limits.append(Limit(_meminfo(root)["MemTotal"], "the machine's memory", of_machine=True))
    else:
        import psutil

        limits.append(Limit(int(psutil.virtual_memory().total), "the machine's memory", of_machine=True))
    return min(limits, key=lambda limit: limit.size, default=None)


def used(limit: Limit, root: Path = Path("/")) -> int:
    """Bytes in use that count towards ``limit``; 20–60 µs. Pages that the kernel can drop at once do not count."""
    own = memory()[0]
    with suppress(OSError, ValueError, KeyError):
        if limit.usage is not None:
            return max(own, int(limit.usage.read_text()) - _inactive_file(limit.usage.parent))
        if limit.of_machine and _LINUX:
            machine = _meminfo(root)
            return max(own, machine["MemTotal"] - machine["MemAvailable"])
    return own


def pressure_file(root: Path = Path("/")) -> Path | None:
    """Where the kernel says how long tasks waited for memory (PSI): of the group, else of the machine."""
    files = [root / "proc/pressure/memory"]
    with suppress(OSError, ValueError):
        files = [folder / "memory.pressure" for folder in _folders(root, "cgroup2", "")] + files
    for file in files:
        with suppress(OSError):
            file.read_bytes()
            return file
    return None


def stalled(file: Path) -> float:
    """The share of the last 10 s in which some task waited for memory, 0 to 1."""
    for line in file.read_text().splitlines():
        kind, average, *_ = line.split()
        if kind == "some":
            return float(average.partition("=")[2]) / 100
    return 0.0


def _of_groups(root: Path) -> Iterator[Limit]:
    for folder in _folders(root, "cgroup2", ""):
        for name in ("memory.max", "memory.high"):
            with suppress(OSError, ValueError):  # "max" is no number, and no limit
                yield Limit(int((folder / name).read_text()), f"cgroup {name}", folder / "memory.current")
    for folder in _folders(root, "cgroup", "memory"):
        with suppress(OSError, ValueError):
            size = int((folder / "memory.limit_in_bytes").read_text())
            if size < UNLIMITED:
                yield Limit(size, "cgroup v1 memory.limit_in_bytes", folder / "memory.usage_in_bytes")


def _folders(root: Path, kind: str, controller: str) -> Iterator[Path]:
    """The process's group and those above it, in the hierarchy that has ``controller``."""
    path = ""
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if (controller in names.split(",")) if controller else not names:
            break
    else:
        return
    for line in (root / "proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mounted, point = before.split()[3:5]
        if after.split()[0] != kind or (controller and controller not in after.split()[2].split(",")):
            continue
        top = root / point.lstrip("/")
        inside = path.removeprefix(mounted) if mounted != "/" else path
        folder = top / inside.lstrip("/")
        # In a container the path may be the host's, of which only the group's own folder is mounted.
        folder = folder if folder.is_dir() else top
        while True:
            yield folder
            if folder == top or top not in folder.parents:
                return
            folder = folder.parent


def _inactive_file(folder: Path) -> int:
    for line in (folder / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name in {"inactive_file", "total_inactive_file"}:
            found = int(value)
            if name.startswith("total") or not (folder / "memory.usage_in_bytes").exists():
                return found
    return 0


def _meminfo(root: Path) -> dict[str, int]:
    found = {}
    for line in (root / "proc/meminfo").read_text().splitlines()[:5]:
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) * 1024
    return found
