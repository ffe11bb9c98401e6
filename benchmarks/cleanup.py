"""Latency of requests while a million expired entries of a cache are dropped: in slices, in one go, and not at all.

The main thread of a process does requests at a steady rate, on the cache that is swept; latencies count from when a
request was due. Pairs of ``--seconds`` of one process, without and with what the feature ``cleanup`` does, in turn,
until all is dropped: between processes, medians differ by more than what is looked for. "in one go" is a process of
its own, with a thread that does the same work without a rest. A collection of Python's, 0.4 s where nothing is frozen,
counts in the pair in which it comes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import Any, Final

import common

SHARES: Final = (50.0, 99.0, 99.9)
NONE, SLICES, ONE_GO = "no sweep", "in slices", "in one go"


def measure(python: str, environ: dict[str, str], how: str, entries: int, rate: float, seconds: float) -> Any:
    """One fresh process, in which all was dropped."""
    program = [python, str(common.PROGRAMS / "cleanup.py"), how, str(entries), str(rate), str(seconds)]
    found = json.loads(subprocess.check_output(program, env=environ, text=True))
    if found["errors"] or found["swept"] != entries:
        raise RuntimeError(f"{how}: {found['swept']} of {entries} entries were dropped: {found['errors']}")
    if how == "slices" and not found["pairs"]:
        raise RuntimeError(f"all {entries} entries were dropped within the first pair of slices: more --entries")
    return found


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=3)
    parser.add_argument("--entries", type=int, default=1_000_000, help="that have expired (default 1,000,000)")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second (default 500)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a slice (default 4)")
    options = parser.parse_args()
    folder = common.ensure("bench-caches")
    fixed = str(folder / "bin" / "python"), common.environ(folder)
    with common.awake():
        asked = options.entries, options.rate, options.seconds
        rounds = [measure(*fixed, "slices", *asked) for _ in range(options.rounds)]
        one_go = measure(*fixed, "one-go", *asked)
    pairs = [pair for found in rounds for pair in found["pairs"]]
    parts = {NONE: [pair[0] for pair in pairs], SLICES: [pair[1] for pair in pairs], ONE_GO: [one_go["latencies"]]}
    took = {NONE: "", SLICES: statistics.median(found["seconds"] for found in rounds), ONE_GO: one_go["seconds"]}

    what = f"{options.entries:,} expired entries; medians of {len(pairs)} pairs of slices of {options.seconds:g} s"
    title = f"{options.rate:g} requests/s beside {what}"
    table = common.Table(title, ["sweep", *(f"p{share:g} µs" for share in SHARES), "sweep s"])
    for name, found in parts.items():
        shown = [1e6 * statistics.median(common.percentile(part, share) for part in found) for share in SHARES]
        table.rows.append([name, *shown, took[name]])
    bounds = []
    for share, limit in ((50.0, 1.05), (99.0, 1.25)):
        ratios = [common.percentile(swept, share) / common.percentile(none, share) for none, swept in pairs]
        low, high = common.spread(ratios)
        name = f"p{share:g} {SLICES} × {NONE}, median of the pairs (90 % of resamples: {low:.2f}–{high:.2f})"
        bounds.append(common.Bound(name, statistics.median(ratios), limit))
    return common.Report([table], bounds).finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
