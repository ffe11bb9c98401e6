"""Latency of requests while a million expired entries of a cache are dropped: in slices, in one go, and not at all.

Every round is a fresh process for each variant, whose main thread does requests at a steady rate, on the cache that is
swept; latencies count from when a request was due. A round is over when all is dropped, or, where nothing is, after
``--seconds``. "in slices" is what the feature ``cleanup`` does; "in one go" is a thread that does the same work
without a rest. The million objects are frozen, as the feature ``gc_tuning`` does it: the collector's pauses, of 0.4 s
here, and how many there are in a round of which length, are not what is asked.
"""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import common

if TYPE_CHECKING:
    from collections.abc import Callable

HOW: Final = {"no sweep": "none", "in slices": "slices", "in one go": "one-go"}
NONE, SLICES, _ = HOW
LONGEST: Final = 600.0  # seconds that a sweep may take
SHARES: Final = (50.0, 99.0, 99.9)


def measure(python: str, environ: dict[str, str], how: str, entries: int, rate: float, seconds: float) -> Any:
    """One fresh process; all was dropped, or nothing was."""
    program = [python, str(common.PROGRAMS / "cleanup.py"), how, str(entries), str(rate)]
    program.append(str(seconds if how == "none" else LONGEST))
    found = json.loads(subprocess.check_output(program, env=environ, text=True))
    if found["errors"] or found["swept"] != (0 if how == "none" else entries):
        raise RuntimeError(f"{how}: {found['swept']} of {entries} entries were dropped: {found['errors']}")
    return found


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` percent of ``values`` lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share / 100))]


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=7)
    parser.add_argument("--entries", type=int, default=1_000_000, help="that have expired (default 1,000,000)")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second (default 500)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a round without a sweep (default 60)")
    options = parser.parse_args()
    folder = common.ensure("bench-caches")
    python, environ = str(folder / "bin" / "python"), common.environ(folder)
    calls: dict[str, Callable[[], Any]] = {
        name: functools.partial(measure, python, environ, how, options.entries, options.rate, options.seconds)
        for name, how in HOW.items()
    }
    with common.awake():
        results = common.interleaved(calls, options.rounds, warm_up=False)

    def each(name: str, share: float) -> list[float]:
        return [percentile(found["latencies"], share) for found in results[name]]

    table = common.Table(
        f"{options.rate:g} requests/s beside {options.entries:,} expired entries; medians of {options.rounds} rounds",
        ["sweep", "requests a round", *(f"p{share:g} µs" for share in SHARES), "p50 ×", "p99 ×", "p99.9 ×", "sweep s"],
    )
    for name, rounds in results.items():
        shown = [1e6 * statistics.median(each(name, share)) for share in SHARES]
        ratios = [common.ratio(each(name, share), each(NONE, share)) for share in SHARES]
        requests = statistics.median(len(found["latencies"]) for found in rounds)
        took = "" if name == NONE else statistics.median(found["seconds"] for found in rounds)
        table.rows.append([name, requests, *shown, *ratios, took])
    bounds = [
        common.Bound(f"p{share:g} {SLICES} × {NONE}", common.ratio(each(SLICES, share), each(NONE, share)), limit)
        for share, limit in ((50.0, 1.05), (99.0, 1.25))
    ]
    return common.Report([table], bounds).finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
