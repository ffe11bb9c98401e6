"""Requests per CPU-second of a FastAPI service with SQLAlchemy: plain, under upstream's distro, under otel-perf.

Every round starts a fresh uvicorn for each variant and sends the same requests over loopback from this process.
Only the server's CPU is counted, from after its warm-up until everything that it recorded is flushed: upstream
sends to a sink process over OTLP/HTTP, otel-perf commits to its store. Half the requests are a JSON answer with
a log line, half a log line and a query. Both have the same instrumentors.
"""

from __future__ import annotations

import asyncio
import functools
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common
from service import Variant, ask, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PLAIN: Final = "no OpenTelemetry"
UPSTREAM: Final = "opentelemetry-distro"
OURS: Final = "otel-perf"
SENDING: Final = "otel-perf, sending"
WARM_UP: Final = 300
CONNECTIONS: Final = 4


@dataclass(frozen=True, slots=True)
class Result:
    """One round of one variant."""

    rate: float  # requests per CPU-second of the server
    counts: Mapping[str, int]  # what arrived in the sink or the store


async def load(port: int, count: int) -> None:
    """Send ``count`` requests over a few kept connections. Raises ``RuntimeError`` for any status but 200."""
    numbers = iter(range(count))

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            await ask(reader, writer, "GET", f"/items/{number}" if number % 2 else "/hello")
        writer.close()

    await asyncio.gather(*(connection() for _ in range(CONNECTIONS)))


async def flush(port: int) -> None:
    """Have the service flush what it recorded."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await ask(reader, writer, "POST", "/flush")
    writer.close()


def measure(variant: Variant, sink: common.Sink, work: Path, requests: int) -> Result:
    """One fresh service, loaded and flushed."""
    sink.counts()  # forget the variant before
    with tempfile.TemporaryDirectory(dir=work) as folder:
        with serving(variant, Path(folder)) as (pid, port):
            asyncio.run(load(port, WARM_UP))
            asyncio.run(flush(port))
            before = common.cpu_of(pid)
            asyncio.run(load(port, requests))
            asyncio.run(flush(port))
            used = common.cpu_of(pid) - before
        home = Path(folder) / "home"
        counts = sink.counts()
        if home.exists():  # what is not there was sent
            counts = {kind: counts[kind] + number for kind, number in common.stored(variant.folder, home).items()}
    return Result(requests / used, counts)


def variants(sink: common.Sink) -> dict[str, Variant]:
    """What is compared."""
    upstream, perf = common.ensure("bench-web-upstream"), common.ensure("bench-web-perf")
    return {
        PLAIN: Variant(upstream, {}, instrumented=False),
        UPSTREAM: Variant(upstream, common.otlp(sink.url)),
        OURS: Variant(perf, {}),
        SENDING: Variant(perf, common.otlp(sink.url)),
    }


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=12)
    parser.add_argument("--requests", type=int, default=3000, help="requests of a round (default 3000)")
    options = parser.parse_args()
    upstream = common.ensure("bench-web-upstream")
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as work, common.sink(upstream) as sink:
        calls: dict[str, Callable[[], Result]] = {
            name: functools.partial(measure, variant, sink, Path(work), options.requests)
            for name, variant in variants(sink).items()
        }
        results = common.interleaved(calls, options.rounds, warm_up=False)

    rates = {name: [result.rate for result in found] for name, found in results.items()}
    columns = ("service", "requests/CPU-s", "min", "max", f"× {PLAIN}", f"× {UPSTREAM}", "spans", "logs")
    table = common.Table(f"{options.requests:,} requests to FastAPI under uvicorn, {os.cpu_count()} CPUs", columns)
    for name, found in rates.items():
        counts = results[name][-1].counts
        ratios = [common.ratio(found, rates[other]) for other in (PLAIN, UPSTREAM)]
        table.rows.append(
            [name, statistics.median(found), min(found), max(found), *ratios, counts["spans"], counts["logs"]]
        )
    made = WARM_UP + options.requests
    bounds = []
    for name in (OURS, SENDING):
        wrong = max(abs(result.counts["server_spans"] - made) for result in results[name])
        rate = common.ratio(rates[name], rates[UPSTREAM])
        bounds += [
            common.Bound(f"{name}: requests/CPU-s × {UPSTREAM}", rate, 0.97, at_least=True),
            common.Bound(f"{name}: server spans stored or received, off {made:,}", wrong, 0),
        ]
    return common.Report([table], bounds).finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
