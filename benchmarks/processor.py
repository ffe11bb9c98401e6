"""What the bottleneck processor costs for each span, over the SDK alone, and what it keeps in memory.

Rounds of 600 spans with it and without alternate in one process; the figure is the median of the differences between
neighbours in time. Beside it stands what it would be where the SDK's own span takes 12.5 µs, as on the machine on which
the limit of 3 µs was set: one and the same machine was twice and three times as slow on other days.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any

import common

LIMIT = 3.0  # µs a span
USUAL = 12.5  # µs, the SDK's own span on the machine on which the limit was set
MEMORY = 16 * 2**20  # bytes, for a million children


def main() -> int:
    """Run, print and judge."""
    options = common.arguments(__doc__, rounds=400).parse_args()
    folder = common.ensure("bench-web-perf")
    program = str(common.PROGRAMS / "processor.py")
    command = [str(folder / "bin" / "python"), program, str(options.rounds)]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, env=common.environ(folder), text=True))
    alone, ours = (statistics.median(found[name]) * 1e6 for name in ("alone", "ours"))
    more = statistics.median(b - a for a, b in zip(found["alone"], found["ours"], strict=True)) * 1e6
    report = common.Report()
    table = common.Table("bottleneck processor", ["spans", "CPU µs", "more µs", "× the SDK's"])
    table.rows += [["the SDK alone", alone, "", ""], ["with the processor", ours, more, more / alone]]
    memory = common.Table("memory", ["what", "bytes"])
    memory.rows += [
        ["of ours, for each of 10,000 open spans", found["open"]],
        ["held by a parent of 1,000,000 children", found["children"]],
        ["kept of 120,000 spans without a finding", found["kept"]],
    ]
    report.tables += [table, memory]
    report.bounds += [
        common.Bound("CPU a span over the SDK alone, µs", more, LIMIT),
        common.Bound(f"the same where the SDK's own span takes {USUAL} µs", more / alone * USUAL, LIMIT),
        common.Bound("of 20,000 open spans, not recorded", found["skipped"], 10_000, at_least=True),
        common.Bound("bytes held by a parent of 1,000,000 children", found["children"], MEMORY),
        common.Bound("bytes kept of 120,000 spans", found["kept"], 10_000),
    ]
    return report.finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
