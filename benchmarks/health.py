"""Latency and CPU of requests with health and without: a port that is asked all the time, checks that hang and raise.

Every round starts a fresh uvicorn for each variant, and sends it the same requests at the same steady times; latencies
count from when a request was due. "asked" has the checks of programs/web_checks.py, and its port is asked for /healthz
ten times a second; "not asked" has health as it is without a word of the app. All have everything else on.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import statistics
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

OFF: Final = "health off"
QUIET: Final = "not asked"
ASKED: Final = "asked"
WARM_UP: Final = 100
CONNECTIONS: Final = 8
SHARES: Final = (50.0, 99.0)
PROBES: Final = 10  # a second


@dataclass(frozen=True, slots=True)
class Result:
    """One round of one variant."""

    latencies: list[float]  # seconds
    cpu: float  # seconds a request
    probes: list[float]  # seconds that the port took to answer


async def load(port: int, count: int, rate: float) -> list[float]:
    """Send ``count`` requests, each when it is due, or as soon as a connection is free; from when it was due on."""
    begin = time.perf_counter()
    numbers = iter(range(count))
    latencies = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            due = begin + number / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            await ask(reader, writer, "GET", f"/items/{number}" if number % 2 else "/hello")
            latencies.append(time.perf_counter() - due)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))
    return latencies


async def probe(port: int) -> list[float]:
    """Ask the port until it is cancelled. Raises ``RuntimeError`` for what is no answer of health."""
    took: list[float] = []
    try:
        while True:
            await asyncio.sleep(1 / PROBES)
            began = time.perf_counter()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if b"application/health+json" not in answer:
                raise RuntimeError(f"/healthz: {answer!r}")
            took.append(time.perf_counter() - began)
    except asyncio.CancelledError:
        return took


async def loaded(port: int, probed: int, requests: int, rate: float) -> tuple[list[float], list[float]]:
    """The requests, while the port is asked."""
    probes = asyncio.create_task(probe(probed)) if probed else None
    latencies = await load(port, requests, rate)
    if probes is None:
        return latencies, []
    probes.cancel()
    return latencies, await probes


def measure(variant: Variant, work: Path, probed: int, requests: int, rate: float) -> Result:
    """One fresh service, loaded."""
    with tempfile.TemporaryDirectory(dir=work) as folder, serving(variant, Path(folder)) as (pid, port):
        asyncio.run(load(port, WARM_UP, rate))
        before = common.cpu_of(pid)
        latencies, probes = asyncio.run(loaded(port, probed, requests, rate))
        used = common.cpu_of(pid) - before
    return Result(latencies, used / requests, probes)


def free_port() -> int:
    """One that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=20)
    parser.add_argument("--requests", type=int, default=1000, help="requests of a round (default 1000)")
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second (default 100)")
    options = parser.parse_args()
    perf, port = common.ensure("bench-web-perf"), free_port()
    asked = {"OTEL_PERF_HEALTH_PORT": str(port)}
    variants = {
        OFF: (Variant(perf, {"OTEL_PERF_HEALTH": "off"}), 0),
        QUIET: (Variant(perf, {}), 0),
        ASKED: (Variant(perf, asked, app="web_checks:app"), port),
    }
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as work, common.awake():
        calls: dict[str, Callable[[], Result]] = {
            name: functools.partial(measure, variant, Path(work), probed, options.requests, options.rate)
            for name, (variant, probed) in variants.items()
        }
        results = common.interleaved(calls, options.rounds, warm_up=False)

    columns = ["health", *(f"p{share:g} ms" for share in SHARES), "CPU ms a request", "port p50 ms", "port p99 ms"]
    title = f"{options.requests:,} requests to FastAPI under uvicorn at {options.rate:g} a second"
    table, bounds = common.Table(title, columns), []
    for name, found in results.items():
        shown = [1e3 * statistics.median(common.percentile(one.latencies, share) for one in found) for share in SHARES]
        answers = [took for one in found for took in one.probes]
        ports: list[str | float] = ["", ""]
        if answers:
            ports = [1e3 * common.percentile(answers, share) for share in SHARES]
            bounds.append(common.Bound("the port's slowest answer (ms)", 1e3 * max(answers), 100.0))
        table.rows.append([name, *shown, 1e3 * statistics.median(one.cpu for one in found), *ports])
    for name in (QUIET, ASKED):
        for share, limit in ((50.0, 1.03), (99.0, 1.1)):
            pairs = zip(results[name], results[OFF], strict=True)
            ratios = [
                common.percentile(one.latencies, share) / common.percentile(off.latencies, share) for one, off in pairs
            ]
            low, high = common.spread(ratios)
            what = f"p{share:g} {name} × {OFF}, median of the rounds (90 % of resamples: {low:.2f}–{high:.2f})"
            bounds.append(common.Bound(what, statistics.median(ratios), limit))
    return common.Report([table], bounds).finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
