"""Request latency of a FastAPI service while it sends a backlog of 700 MB, and while there is none to send.

Every round starts a fresh uvicorn for each variant, over the same endpoint, and asks it at a steady rate over loopback
from this process; latencies count from when a request was due. The receiver is a process that throws everything away.
Both variants store and send what the requests themselves make. A round ends when its time is up; that the backlog was
still being sent then is checked, else the rounds are too long for it. A round in which the machine's host took
more than 2 % of its CPUs away is done again.
"""

from __future__ import annotations

import asyncio
import functools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common
from service import Variant, ask, serving

if TYPE_CHECKING:
    from collections.abc import Callable

WITHOUT: Final = "no backlog"
WITH: Final = "backlog"
CONNECTIONS: Final = 4
WARM_UP: Final = 2.0  # seconds, in which sending begins
LIMIT: Final = {"OTEL_PERF_STORE_LIMIT": "2GB"}


@dataclass(frozen=True, slots=True)
class Result:
    """One round of one variant."""

    latencies: list[float]  # seconds
    sent: int  # bytes of the backlog that were taken


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


def measure(variant: Variant, backlog: Path | None, work: Path, rate: float, seconds: float) -> Result:
    """One fresh service under load."""
    with tempfile.TemporaryDirectory(dir=work) as folder:
        home = Path(folder) / "home"
        if backlog is not None:
            shutil.copytree(backlog, home)
        with serving(variant, Path(folder)) as (_, port):
            asyncio.run(load(port, rate, WARM_UP))
            before = waiting(variant, home)
            latencies = asyncio.run(load(port, rate, seconds))
            after = waiting(variant, home)
    if backlog is not None and after == 0:
        raise RuntimeError("all was sent before the round was over: --seconds is too long for --megabytes")
    return Result(latencies, before - after)


def waiting(variant: Variant, home: Path) -> int:
    """Bytes that wait in the store."""
    code = (
        "import sqlite3, sys; connection = sqlite3.connect(f'file:{sys.argv[1]}/telemetry.db?mode=ro', uri=True);"
        "print(connection.execute('SELECT coalesce(sum(length(body)), 0) FROM batch').fetchone()[0])"
    )
    return int(subprocess.check_output([str(variant.folder / "bin" / "python"), "-c", code, str(home)], text=True))


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=16)
    parser.add_argument("--megabytes", type=int, default=700, help="of backlog (default 700)")
    parser.add_argument("--rate", type=float, default=300.0, help="requests a second (default 300)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each round (default 8)")
    options = parser.parse_args()
    folder = common.ensure("bench-web-perf")
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as name, common.sink(folder, "--discard") as sink:
        work, variables = Path(name), common.otlp(sink.url) | LIMIT
        program = [str(folder / "bin" / "python"), str(common.PROGRAMS / "backlog.py"), str(work / "backlog")]
        subprocess.run([*program, str(options.megabytes)], check=True, env=common.environ(folder, variables))
        calls: dict[str, Callable[[], Result]] = {
            variant: functools.partial(
                common.undisturbed,
                functools.partial(measure, Variant(folder, variables), backlog, work, options.rate, options.seconds),
            )
            for variant, backlog in ((WITHOUT, None), (WITH, work / "backlog"))
        }
        results = common.interleaved(calls, options.rounds, warm_up=True)

    columns = ("requests", "p50 ms", "p99 ms", "p99.9 ms", f"p99 × {WITHOUT}", "backlog MB/s")
    title = f"{options.rate:g} requests/s to FastAPI while {options.megabytes} MB are sent"
    table = common.Table(title, columns)
    p99 = {variant: [percentile(result.latencies, 99) for result in found] for variant, found in results.items()}
    for variant, found in results.items():
        everything = [latency for result in found for latency in result.latencies]
        shown = [1000 * percentile(everything, share) for share in (50, 99, 99.9)]
        sent = statistics.median(result.sent for result in found) / options.seconds / 1e6
        table.rows.append([variant, *shown, common.ratio(p99[variant], p99[WITHOUT]), sent if variant == WITH else ""])
    bound = common.Bound(f"p99 × {WITHOUT}, median of the rounds", common.ratio(p99[WITH], p99[WITHOUT]), 1.05)
    return common.Report([table], [bound]).finish(as_json=options.json)


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` percent of ``values`` lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share / 100))]


if __name__ == "__main__":
    sys.exit(main())
