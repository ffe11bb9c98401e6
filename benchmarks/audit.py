"""Durable audit records a second: one caller, threads, tasks, and processes that share one chain.

Each is on the disk (one sync a commit) and signed when its call returns. The floor is SQLite alone with the same sync
and one row a transaction. Every round begins a new trail; what was written is counted, and the trail verified, after
each round. The disk decides the figures of one caller: the floor says what it can do.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM: Final = common.PROGRAMS / "audit.py"
FLOOR: Final = "SQLite alone, one row a commit"
ALONE: Final = "one caller"
THREADS: Final = "20 threads"
TASKS: Final = "tasks, 1,000 at a time"
FIVE: Final = "5 processes"
EIGHT: Final = "8 processes"
EIGHT_TASKS: Final = "8 processes, 100 tasks each"


def measure(folder: Path, work: Path, mode: str, processes: int, seconds: float) -> dict[str, float]:
    """One round: records a second of all processes together, and the slowest call."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        home = Path(name) / "home"
        environ = common.environ(folder, {"OTEL_PERF_HOME": str(home)})
        python = str(folder / "bin" / "python")
        start = time.time() + 1.0  # all begin at the same moment, with their imports behind them
        command = [python, str(PROGRAM), mode, str(start), str(seconds)]
        running = [
            subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            for _ in range(processes)
        ]
        found = [json.loads(process.communicate(timeout=common.CHILD_TIMEOUT)[0]) for process in running]
        if any(process.returncode for process in running):
            raise RuntimeError(f"{mode}: a process failed")
        made = sum(each["made"] for each in found)
        if mode != "floor":
            verify = [python, "-m", "otel_perf", "audit", "verify", "--json", "--home", str(home)]
            verdict = json.loads(subprocess.run(verify, env=environ, capture_output=True, text=True, check=True).stdout)
            if verdict["records"] != made + 2 * processes + 1:  # each opens and closes, one has made the key
                raise RuntimeError(f"{mode}: {made} were acknowledged, {verdict['records']} are there")
    return {
        "rate": made / seconds,
        "median": statistics.median(each["median"] for each in found),
        "p99": max(each["p99"] for each in found),
    }


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round (default 3)")
    options = parser.parse_args()
    folder = common.ensure("dev")
    modes = {
        FLOOR: ("floor", 1), ALONE: ("alone", 1), THREADS: ("threads", 1), TASKS: ("tasks", 1),
        FIVE: ("alone", 5), EIGHT: ("alone", 8), EIGHT_TASKS: ("some", 8),
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as name:
        calls: dict[str, Callable[[], dict[str, float]]] = {
            title: functools.partial(measure, folder, Path(name), mode, processes, options.seconds)
            for title, (mode, processes) in modes.items()
        }
        results = common.interleaved(calls, options.rounds, warm_up=False)
    table = common.Table("Audit records", ("", "records/s", "min", "max", "p50 ms", "p99 ms"))
    rates = {}
    for title, found in results.items():
        each = [result["rate"] for result in found]
        rates[title] = statistics.median(each)
        shown = [1000 * statistics.median(result[key] for result in found) for key in ("median", "p99")]
        table.rows.append([title, rates[title], min(each), max(each), *shown])
    bounds = [
        common.Bound(f"records/s, {title}", rates[title], 1000, at_least=True)
        for title in (THREADS, TASKS, EIGHT_TASKS)
    ]
    return common.Report([table], bounds).finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
