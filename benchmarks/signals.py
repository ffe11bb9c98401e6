"""How long from emit to wake, and what a thousand idle waiters cost, for each board and for what is done by hand.

Each variant is a program that waits and one that emits (a thread of the first, where the board is its memory), on
loopback. The clock is read before the emit and after the waiting task runs again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common

if TYPE_CHECKING:
    from collections.abc import Iterator

ENVIRONMENT: Final = "bench-signals"
EVENT, MEMORY, SQLITE, NATS, WATCH = "asyncio.Event", "memory", "SQLite", "NATS", "NATS KV watch by hand"
OURS: Final = (MEMORY, SQLITE, NATS)
IDLE: Final = 0.005  # of a core
HAND: Final = {EVENT: "event", WATCH: "watch"}


@dataclass(frozen=True, slots=True)
class Result:
    """One round of one variant: seconds from emit to wake, and the share of a core while nothing comes."""

    latencies: list[float]
    idle: float


@contextlib.contextmanager
def nats_server(folder: Path, work: Path) -> Iterator[str]:
    """The URL of a running server with JetStream, its store on disk."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(folder / "bin" / "nats-server"), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(work / "js")]
    with (work / "nats.txt").open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not listen: {(work / 'nats.txt').read_text()}")
                time.sleep(0.05)
            yield f"nats://127.0.0.1:{port}"
        finally:
            server.terminate()


def measure(folder: Path, url: str, hand: str, signals: int, idle: float) -> Result:
    """One round: a program that waits, and what it starts."""
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as home:
        env = common.environ(folder, {"OTEL_PERF_HOME": home, "OTEL_PERF_SIGNALS_URL": url})
        command = [str(folder / "bin" / "python"), "-P", str(common.PROGRAMS / "signals.py"), "wait"]
        done = subprocess.run(
            [*command, hand, str(signals), str(idle)], env=env, cwd=home, capture_output=True, text=True, check=False,
            timeout=common.CHILD_TIMEOUT + signals + idle,
        )  # fmt: skip
        if done.returncode != 0:
            raise RuntimeError(f"{hand or url}: {done.stderr[-4000:]}")
        return Result(**json.loads(done.stdout))


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=3)
    parser.add_argument("--signals", type=int, default=200, help="of a round (default 200)")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds with a thousand idle waiters (default 10)")
    options = parser.parse_args()
    folder = common.ensure(ENVIRONMENT)
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as work, nats_server(folder, Path(work)) as server:
        urls = {EVENT: "memory:", MEMORY: "memory:", SQLITE: "", NATS: server, WATCH: server}
        calls = {
            name: functools.partial(measure, folder, url, HAND.get(name, ""), options.signals, options.idle)
            for name, url in urls.items()
        }
        results = common.interleaved(calls, options.rounds, warm_up=False)

    title = f"{options.signals * options.rounds} signals each, 1,000 waiters for {options.idle * options.rounds:g} s"
    columns = ["board", "wake p50 µs", "wake p99 µs", f"p50 × {WATCH}", "idle % of a core"]
    table = common.Table(title, columns)
    p50 = {name: common.percentile(_all(found), 0.5) for name, found in results.items()}
    bounds = []
    for name, found in results.items():
        idle = statistics.median(result.idle for result in found)
        p99 = common.percentile(_all(found), 0.99)
        table.rows.append([name, p50[name] * 1e6, p99 * 1e6, p50[name] / p50[WATCH], idle * 100])
        if name in OURS:
            bounds.append(common.Bound(f"{name}: idle share of a core of 1,000 waiters", idle, IDLE))
    return common.Report([table], bounds).finish(as_json=options.json)


def _all(found: list[Result]) -> list[float]:
    return [latency for result in found for latency in result.latencies]


if __name__ == "__main__":
    raise SystemExit(main())
