"""What is not in the index: readiness signals in full, health, the audit trail, and lines of source."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from otel_perf.analysis.otlp import spans_at
from otel_perf.analysis.readiness import Signals
from otel_perf.core.errors import OtelPerfError
from otel_perf.core.home import HOME_VARIABLE, Home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_perf.view.reading import Question, Reading

SIGNALS: Final = 300  # spans of signals, the last ones
AROUND: Final = 8  # lines of source on each side
LARGEST: Final = 2 * 2**20  # bytes of a source file
AUDITED: Final = 200_000  # records that are verified while somebody waits


def signals(reading: Reading, question: Question) -> dict[str, Any]:
    """Who waited for whom, and the chain that decided when all was ready."""
    begin, end = question.times
    rows = reading.rows(
        f"SELECT place, pos FROM span WHERE flags & 2 AND start BETWEEN ? AND ? ORDER BY start DESC LIMIT {SIGNALS}",
        (begin, end),
    )
    places: dict[int, list[int]] = {}
    for place, pos in rows:
        places.setdefault(place, []).append(pos)
    gathered = Signals()
    for place, positions in places.items():
        body = reading.body(place)
        for span in spans_at(body, positions).values() if body is not None else ():
            gathered.add(span)
    return gathered.readiness(SIGNALS).model_dump()


class Beside:
    """Of the homes that are viewed; ``sources`` are folders from which lines may be shown."""

    def __init__(self, homes: Sequence[Path], sources: Sequence[Path]) -> None:
        self._homes = homes
        self._sources = [Path(os.path.realpath(folder)) for folder in sources]

    def health(self, _: Reading, __: Question) -> dict[str, Any]:
        """How the processes of each home are."""
        from otel_perf.health import files
        from otel_perf.health.documents import aged, document

        found = []
        for home in self._homes:
            reports = files.read(Home({HOME_VARIABLE: str(home)}))
            if reports:
                made = document([aged(report, time.monotonic()) for report in reports], "healthz")
                found.append({"home": str(home), "document": made, "processes": [
                    {"service": report["service"], "pid": report["pid"]} for report in reports
                ]})  # fmt: skip
        return {"homes": found}

    def audit(self, _: Reading, question: Question) -> dict[str, Any]:
        """The state of each home's trail; verified where it is not too long."""
        return {
            "homes": [found for home in self._homes if (found := _audited(home, anyway=bool(question.text("all"))))]
        }

    def source(self, _: Reading, question: Question) -> dict[str, Any]:
        """The lines around one that a finding names, if it is a Python file in a folder that may be shown."""
        line = question.number("line", 0, most=10_000_000)
        path = self._file(question.text("path", longest=4000))
        if path is None:
            return {"missing": True}
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
            with os.fdopen(handle, "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    return {"missing": True}
                lines = file.read(LARGEST).decode("utf-8", "replace").splitlines()
        except OSError:
            return {"missing": True}
        first = max(1, line - AROUND)
        shown = [[number, text[:400]] for number, text in enumerate(lines[first - 1 : line + AROUND], first)]
        return {"path": str(path), "line": line, "lines": shown}

    def _file(self, given: str) -> Path | None:
        """The real file, if it is in a folder of ours. Telemetry names paths, and anybody may have sent it."""
        if "\0" in given or not given.endswith(".py"):
            return None
        for folder in self._sources:
            path = Path(os.path.realpath(folder / given))
            if path.is_relative_to(folder) and path.suffix == ".py" and path.is_file():
                return path
        return None


def _audited(home: Path, *, anyway: bool) -> dict[str, Any]:
    from dataclasses import asdict

    from otel_perf.logs.audit.anchors import Anchors
    from otel_perf.logs.audit.keys import PUBLIC_FILE, public_key
    from otel_perf.logs.audit.reader import Reader
    from otel_perf.logs.audit.verify import verify

    if not (home / "audit.db").exists():
        return {}
    said = {"home": str(home)}
    try:
        reader = Reader(home)
    except (OtelPerfError, OSError) as error:
        return {**said, "problem": str(error)}
    try:
        newest = next(iter(reader.newest()), None)
        if newest is not None and newest[0] > AUDITED and not anyway:
            return {**said, "records": newest[0], "long": True}
        key = home / PUBLIC_FILE
        verdict = verify(reader, public_key(str(key)) if key.exists() else None, Anchors(home))
        return {**said, "verdict": asdict(verdict)}
    except (OtelPerfError, OSError) as error:
        return {**said, "problem": str(error)}
    finally:
        reader.close()
