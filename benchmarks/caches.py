"""Caches: what a hit and a miss cost, what an entry takes, and how many hits there are, beside other libraries' caches.

All are measured in one process, all once a round in a shuffled order; figures are medians of the rounds, of CPU time.
Memory is the resident size of a process of its own. ``async together`` is 200 tasks that miss one key at once.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any, Final

import common

OPERATIONS: Final = {
    "hit": "get, in the cache",
    "miss": "get, not in the cache, and put, in a full one",
    "threads": "nine gets to a put, eight threads",
    "decorated hit": "call of a decorated function, in the cache",
    "decorated miss": "call of a decorated function, not in the cache, in a full one",
    "async hit": "await of a decorated coroutine function, in the cache",
    "async together": "await, 200 tasks that miss one key at once",
}


def main() -> int:
    """Run, print and judge."""
    options = common.arguments(__doc__, rounds=15).parse_args()
    python = str(common.ensure("bench-caches") / "bin" / "python")
    program, environ = str(common.PROGRAMS / "caches.py"), common.environ(common.ensure("bench-caches"))

    def run(*arguments: str) -> Any:
        return json.loads(subprocess.check_output([python, program, *arguments], env=environ, text=True))

    found = run(str(options.rounds))
    median = {kind: {name: statistics.median(values) for name, values in found[kind].items()} for kind in OPERATIONS}
    report = common.Report()
    for kind, title in OPERATIONS.items():
        least = min(median[kind].values())
        table = common.Table(title, ["cache", "CPU ns", "× the quickest"])
        for name, value in sorted(median[kind].items(), key=lambda pair: pair[1]):
            table.rows.append([name, value, value / least])
        report.tables.append(table)
    table = common.Table("memory", ["cache", "bytes an entry"])
    names = [*median["hit"], "functools.lru_cache", "@cached"]
    table.rows = sorted(([name, run("memory", name)] for name in names), key=lambda row: float(row[1]))
    ratios = common.Table("hits of 400,000 gets, 5,000 of 100,000 keys fit", ["cache", "%, with scans", "%, without"])
    ratios.rows = [[name, *values] for name, values in sorted(found["ratio"].items(), key=lambda pair: -pair[1][0])]
    computed = common.Table("computed of 200 that miss together", ["function", "times a round"])
    computed.rows = [[name, (number - 1) / options.rounds] for name, number in found["computed"].items()]
    report.tables += [table, ratios, computed]
    report.bounds += [
        common.Bound(
            "@cached, a hit, × functools.lru_cache",
            common.ratio(found["decorated hit"]["@cached"], found["decorated hit"]["functools.lru_cache"]),
            2.5,
        ),
        common.Bound(
            "LRUCache, a hit, × cachetools with a lock",
            common.ratio(found["hit"]["LRUCache"], found["hit"]["cachetools.LRUCache + lock"]),
            1.0,
        ),
        common.Bound(
            "@cached, tasks that miss together, × async_lru",
            common.ratio(found["async together"]["@cached"], found["async together"]["async_lru.alru_cache"]),
            1.0,
        ),
        common.Bound(
            "hit ratio of @cached with scans, less theine's, points",
            found["ratio"]["@cached"][0] - found["ratio"]["theine.Cache"][0],
            -2.0,
            at_least=True,
        ),
    ]
    return report.finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
