"""Spans a second into the store, and whether the store stays as fast, as lean and as small as it began.

Real SDK spans are made as fast as the store takes them and everything is committed at the end; ten slices are
compared. With the default million the file stays below its limit; ``--spans 10_000_000`` has it full most of
the time, at 256 MB, where the oldest spans give way. Making a span and encoding it share one interpreter lock: when
the CPU seconds are well below the wall's, other work on the machine had the rest. Beside each slice stands what the
same spans cost with nothing but the SDK and the encoder just then, since the speed of a shared machine changes twofold.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import common

SLICES: Final = 10
LIMIT: Final = 256_000_000
SPANS: Final = 1_000_000
COLUMNS: Final = ("spans made", "CPU µs/span", "making and encoding alone", "×", "RSS MB", "file MB")


def produce(spans: int) -> tuple[list[dict[str, float]], dict[str, float]]:
    """One run in a fresh process and store: its slices and its end."""
    folder = common.ensure("bench-perf")
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as work:
        home = str(Path(work) / "home")
        numbers = map(str, (spans, SLICES, LIMIT))
        command = [str(folder / "bin" / "python"), str(common.PROGRAMS / "produce.py"), home, *numbers]
        lines = []
        with subprocess.Popen(
            command, env=common.environ(folder), cwd=work, stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout or ():
                print(line, end="", file=sys.stderr)  # ten million spans take minutes
                lines.append(json.loads(line))
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    *slices, end = lines
    return slices, end


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=1)
    parser.add_argument("--spans", type=int, default=SPANS, help=f"spans to make in a round (default {SPANS:,})")
    options = parser.parse_args()
    rounds = [produce(options.spans) for _ in range(options.rounds)]

    table = common.Table(f"{options.spans:,} spans into a store of at most {LIMIT / 1e6:.0f} MB", COLUMNS)
    cpu, floor, rss, size = (
        [statistics.median(slices[index][key] for slices, _ in rounds) for index in range(SLICES)]
        for key in ("cpu", "floor", "rss", "size")
    )
    ratios = [own / alone for own, alone in zip(cpu, floor, strict=True)]
    for index in range(SLICES):
        made = f"{options.spans // SLICES * (index + 1):,}"
        costs = [cpu[index] * 1e6, floor[index] * 1e6, ratios[index]]
        table.rows.append([made, *costs, rss[index] / 1e6, size[index] / 1e6])
    ends = [end for _, end in rounds]
    totals = common.Table(
        "All rounds", ("round", "spans/s", "wall s", "CPU s", "committed", "still there", "gave way to newer", "lost")
    )
    for number, end in enumerate(ends, 1):
        counts = [end[key] for key in ("committed", "present", "evicted", "lost")]
        totals.rows.append([str(number), options.spans / end["wall"], end["wall"], end["cpu"], *counts])

    wrong = sum(
        abs(options.spans - end["committed"]) + abs(options.spans - end["present"] - end["evicted"]) for end in ends
    )
    rate = options.spans / statistics.median(end["wall"] for end in ends)
    bounds = [
        common.Bound("spans/s, all committed", rate, 20_000, at_least=True),
        common.Bound("cost × making and encoding alone", statistics.median(ratios), 1.25),
        common.Bound("spans lost", sum(end["lost"] for end in ends), 0),
        common.Bound("spans not accounted for", wrong, 0),
        common.Bound("last slice × the second's, machine's speed taken out", ratios[-1] / ratios[1], 1.15),
        common.Bound("RSS at the end × after the first slice", rss[-1] / rss[0], 1.05),
        common.Bound("file × limit", max(size) / LIMIT, 1.1),
    ]
    return common.Report([table, totals], bounds).finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
