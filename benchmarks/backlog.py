"""Request latency of a FastAPI service while it sends a backlog, and while the receiver takes nothing.

Every round starts a fresh uvicorn with a backlog to send and asks it at a steady rate over loopback from this process;
latencies count from when a request was due. The receiver is a process that throws everything away, and closes for
every other slice of the time (429, with Retry-After): each pair of slices is of one process, seconds apart, and what
the machine's other guests do falls on both. That some of the backlog is left in the end is checked. The first
second of a slice does not count: the sender takes as long to notice.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common
from service import Variant, ask, serving

if TYPE_CHECKING:
    from common import Sink

CLOSED: Final = "nothing is sent"
SENDING: Final = "backlog"
CONNECTIONS: Final = 4
WARM_UP: Final = 5.0  # seconds
NOT_COUNTED: Final = 1.0  # seconds at the beginning of a slice
LIMIT: Final = {"OTEL_PERF_STORE_LIMIT": "2GB"}
LITTLE: Final = 10_000_000  # bytes: the service's own may wait as well


@dataclass(slots=True)
class Slice:
    """What was measured in it."""

    latencies: list[float] = field(default_factory=list)  # seconds
    sent: int = 0  # bytes of the backlog that were taken

    def percentile(self, share: float) -> float:
        """The latency below which ``share`` percent lie."""
        return common.percentile(self.latencies, share)


async def load(port: int, rate: float, seconds: float) -> list[float]:
    """Ask ``rate`` times a second; the seconds from when each request was due until its answer was there."""
    began = time.perf_counter()
    numbers = iter(range(int(rate * seconds)))
    latencies: list[float] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            due = began + number / rate
            await asyncio.sleep(due - time.perf_counter())
            await ask(reader, writer, "GET", f"/items/{number}" if number % 2 else "/hello")
            latencies.append(time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return latencies


@dataclass(frozen=True, slots=True)
class Bench:
    """How it is measured."""

    variant: Variant
    backlog: Path
    sink: Sink
    rate: float
    seconds: float  # of a slice
    pairs: int

    def round(self, work: Path, first: str) -> list[dict[str, Slice]]:
        """The pairs of slices of one fresh service."""
        with tempfile.TemporaryDirectory(dir=work) as folder:
            home = Path(folder) / "home"
            shutil.copytree(self.backlog, home)
            os.sync()  # else the copy is written out meanwhile
            with serving(self.variant, Path(folder)) as (_, port):
                asyncio.run(load(port, self.rate, WARM_UP))
                order = [CLOSED, SENDING] if first == CLOSED else [SENDING, CLOSED]
                pairs = [{what: self._slice(what, port, home) for what in order} for _ in range(self.pairs)]
            if self._waiting(home) < LITTLE:
                raise RuntimeError("all was sent before the round was over: more --megabytes, or fewer --pairs")
        return pairs

    def _slice(self, what: str, port: int, home: Path) -> Slice:
        before = self._waiting(home)
        self.sink.close(self.seconds + NOT_COUNTED if what == CLOSED else 0.0)
        asyncio.run(load(port, self.rate, NOT_COUNTED))
        latencies = asyncio.run(load(port, self.rate, self.seconds))
        return Slice(latencies, before - self._waiting(home))

    def _waiting(self, home: Path) -> int:
        """Bytes that wait in the store."""
        code = (
            "import sqlite3, sys; connection = sqlite3.connect(f'file:{sys.argv[1]}/telemetry.db?mode=ro', uri=True);"
            "print(connection.execute('SELECT coalesce(sum(length(body)), 0) FROM batch').fetchone()[0])"
        )
        program = [str(self.variant.folder / "bin" / "python"), "-c", code, str(home)]
        return int(subprocess.check_output(program, text=True))


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=8)
    parser.add_argument("--pairs", type=int, default=6, help="of slices in each round (default 6)")
    parser.add_argument("--megabytes", type=int, default=1200, help="of backlog (default 1200)")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second (default 100)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each slice (default 4)")
    options = parser.parse_args()
    folder = common.ensure("bench-web-perf")
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as name, common.sink(folder, "--discard") as sink:
        work, variables = Path(name), common.otlp(sink.url) | LIMIT
        program = [str(folder / "bin" / "python"), str(common.PROGRAMS / "backlog.py"), str(work / "backlog")]
        subprocess.run([*program, str(options.megabytes)], check=True, env=common.environ(folder, variables))
        variant = Variant(folder, variables)
        bench = Bench(variant, work / "backlog", sink, options.rate, options.seconds, options.pairs)
        pairs: list[dict[str, Slice]] = []
        with common.awake():
            for _, first in zip(range(options.rounds), itertools.cycle((CLOSED, SENDING)), strict=False):
                pairs += bench.round(work, first)

    columns = ("receiver", "p50 ms", "p99 ms", "p99.9 ms of all", "backlog MB/s")
    title = f"{options.rate:g} requests/s to FastAPI, {len(pairs)} pairs of slices of {options.seconds:g} s (medians)"
    table = common.Table(title, columns)
    for what in (CLOSED, SENDING):
        found = [pair[what] for pair in pairs]
        shown = [1000 * statistics.median(one.percentile(share) for one in found) for share in (50, 99)]
        everything = common.percentile([latency for one in found for latency in one.latencies], 99.9)
        sent = statistics.median(one.sent for one in found) / (options.seconds + NOT_COUNTED) / 1e6
        table.rows.append([what, *shown, 1000 * everything, sent if what == SENDING else ""])
    ratios = [pair[SENDING].percentile(99) / pair[CLOSED].percentile(99) for pair in pairs]
    low, high = common.spread(ratios)
    name = f"p99 while it is sent × while nothing is, median of the pairs (90 % of resamples: {low:.2f}–{high:.2f})"
    return common.Report([table], [common.Bound(name, statistics.median(ratios), 1.05)]).finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
