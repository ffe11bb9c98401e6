"""The garbage collector's longest pause with five million live objects, with the distribution's tuning and without.

Both in turn, each in a process of its own. "Building" is while the objects are made, "serving" is afterwards; "asked"
is what ``gc.collect()`` takes, which has to see everything with us, too.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from typing import Any

import common

OBJECTS = 5_000_000
LIMIT = 0.1


def main() -> int:
    """Run, print and judge."""
    options = common.arguments(__doc__, rounds=3).parse_args()
    folder = common.ensure("bench-web-perf")
    program = str(common.PROGRAMS / "gc_pause.py")
    found: dict[str, list[dict[str, Any]]] = {"default": [], "ours": []}
    for _ in range(options.rounds):
        for mode, results in found.items():
            with tempfile.TemporaryDirectory() as home:
                command = [str(folder / "bin" / "python"), program, str(OBJECTS), mode]
                environ = common.environ(folder, {"OTEL_PERF_HOME": home})
                results.append(json.loads(subprocess.check_output(command, env=environ, text=True)))

    def longest(mode: str, phase: str) -> float:
        return statistics.median(result[phase]["longest"] for result in found[mode]) * 1e3

    report = common.Report()
    columns = ["collector", "building ms", "serving ms", "full", "serving, all s", "asked ms"]
    table = common.Table(f"longest pause, {OBJECTS:,} live objects", columns)
    for mode, results in found.items():
        full = statistics.median(result["serving"]["full"] for result in results)
        total = statistics.median(result["serving"]["total"] for result in results)
        asked = statistics.median(result["asked"] for result in results) * 1e3
        table.rows.append([mode, longest(mode, "building"), longest(mode, "serving"), full, total, asked])
    report.tables.append(table)
    ratio = longest("ours", "serving") / longest("default", "serving")
    report.bounds.append(common.Bound("longest pause, × the default's", ratio, LIMIT))
    return report.finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
