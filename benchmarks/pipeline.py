"""What a span costs from the SDK to the Collector's file, and what Collectors hold, at 1, 10 and 100 times a load.

Traces of ten spans are made with the SDK under the distribution, as a program makes them, and sent to the real
Collector in three ways: to one that only writes a file (``plain``); to ``collector/config.yaml`` as it is, with its
sampler, redaction, span metrics and queue on disk, and one that writes a file behind it; to ``agent.yaml``, and from it
to ``gateway.yaml``, likewise. All traces are kept, which is the dearest: every span is counted at the end, by its id.
CPU is all that a process has used from the first span until the last one has arrived, what it uses when nothing comes
included, so that a small load makes each span dear. Memory is the most that was resident.

Then the queues: what a span takes on disk while nobody is there to take it, and on the wire when somebody is again.
``--sizing`` says what that means for more machines (sizing.py).
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import common
import receivers
import sizing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COLLECTOR: Final = common.ROOT / "collector"
LOADS: Final = (1, 10, 100)
BASE: Final = 40  # spans/s: a hundred times that leaves a core of two for the Collectors
SECONDS: Final = 10
QUEUE_RATE: Final = 2_000  # spans/s, while nobody is there
IDLE: Final = 2.0  # seconds in which nothing comes, before the load
PATIENCE: Final = 120.0  # seconds until all has arrived
GROWTH_BOUND: Final = 1.2  # times the CPU of a span when ten times as many come
APP, PLAIN, CONFIG, AGENT, GATEWAY = "app", "plain", "config.yaml", "agent.yaml", "gateway.yaml"
CHAINS: Final = {PLAIN: (), CONFIG: (CONFIG,), "agent and gateway": (AGENT, GATEWAY)}
# What is set where they are deployed.
GOMEMLIMIT: Final = {
    CONFIG: common.ROOT / "docker-compose.yml",
    AGENT: COLLECTOR / "kubernetes" / "agent.yaml",
    GATEWAY: COLLECTOR / "kubernetes" / "gateway.yaml",
}


class Used(NamedTuple):
    """What one process has used in one run."""

    cpu: float  # seconds
    memory: int  # bytes, the most


@dataclass(frozen=True, slots=True)
class Run:
    """One load on one chain."""

    made: int
    lost: int
    twice: int
    refused: float
    took: float  # seconds, to make them
    used: dict[str, Used]  # by process


@dataclass(frozen=True, slots=True)
class Queue:
    """A span in the queue of a Collector, and on its way from there."""

    disk: float  # bytes
    wire: float  # bytes, compressed
    lost: int


class Tier(receivers.Collector):
    """One of our configurations, with the memory that it has where it is deployed."""

    def __init__(self, folder: Path, name: str, config: Path, addresses: dict[str, str]) -> None:
        self.storage, self._metrics = folder / f"storage-{name}", receivers.free_port()
        found = re.search(r"GOMEMLIMIT(?:, value)?: (\w+)", GOMEMLIMIT[name].read_text())
        assert found is not None, GOMEMLIMIT[name]
        variables = {
            "GOMEMLIMIT": found[1],
            "OTELCOL_SAMPLE": "100",
            "OTELCOL_STORAGE": str(self.storage),
            "OTELCOL_METRICS_HOST": "127.0.0.1",
            "OTELCOL_METRICS_PORT": str(self._metrics),
        }
        super().__init__(folder, config=config, variables=variables | addresses)

    def own(self, name: str) -> float:
        """A metric of its own, all series together."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^otelcol_{name}(?:_total)?(?:{{[^\n]*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))


class Relay:
    """Hands connections on to a port and counts the bytes; from when it is entered."""

    def __init__(self, port: int, to: int) -> None:
        self.sent = 0
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", port))
        self._open = [self._listener]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += [near, far]
                threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, to: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                to.sendall(data)
                self.sent += len(data) if counted else 0


class Bench:
    """One run of the benchmark."""

    def __init__(self, work: Path, base: int, seconds: int) -> None:
        self.base, self.seconds = base, seconds
        self.runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
        self.queues: dict[str, Queue] = {}
        self.idle: dict[str, list[Used]] = defaultdict(list)
        self._folder = common.ensure("bench-perf")
        self._work = work
        self._configs = {PLAIN: receivers.TO_A_FILE, CONFIG: COLLECTOR / CONFIG, GATEWAY: COLLECTOR / GATEWAY}
        self._configs[AGENT] = agent(work)

    def run(self, chain: str, load: int) -> None:
        """One load on one chain."""
        folder = Path(tempfile.mkdtemp(dir=self._work))
        rate = self.base * load
        with contextlib.ExitStack() as stack:
            last = receivers.Collector(folder)
            tiers: dict[str, receivers.Collector] = {PLAIN: last}
            for name in reversed(CHAINS[chain]):
                tiers = {name: self._tier(folder, name, next(iter(tiers.values())))} | tiers
            for tier in reversed(tiers.values()):
                stack.enter_context(tier)
            before = self._settled(tiers)
            with self._app(folder, rate, next(iter(tiers.values()))) as (ids, said):
                until(lambda: waiting(folder) == 0, "the app's store is sent")
            written(last, len(ids))
            used = {APP: Used(said["cpu"], 0)} | {
                name: Used(cpu(tier.pid) - before[name], peak(tier.pid)) for name, tier in tiers.items()
            }
            refused = sum(tier.own("receiver_refused_spans") for tier in tiers.values() if isinstance(tier, Tier))
            got = last.finish()
        lost = len(set(ids) - set(got))
        found = Run(len(ids), lost, len(got) - len(set(got)), refused, said["took"], used)
        self.runs[chain, load].append(found)
        shown = ", ".join(f"{name} {1e6 * one.cpu / found.made:.1f} µs" for name, one in used.items())
        print(f"{chain} at {rate:,}/s: {shown}; {lost} lost", file=sys.stderr)

    def queue(self, name: str) -> None:
        """What is in the queue of a Collector that nobody takes from, and what goes out of it then."""
        folder = Path(tempfile.mkdtemp(dir=self._work))
        port = receivers.free_port()
        with receivers.Collector(folder) as last:
            tier = self._tier(folder, name, last, port)
            with tier:
                with self._app(folder, QUEUE_RATE, tier) as (ids, _):
                    until(lambda: waiting(folder) == 0, "the app's store is sent")
                until(
                    lambda: not tier.own("processor_tail_sampling_sampling_traces_on_memory"), "all traces are judged"
                )
                time.sleep(IDLE)
                disk = sum(file.stat().st_blocks * 512 for file in tier.storage.iterdir())
                with Relay(port, last.grpc) as relay:
                    written(last, len(ids))
                    sent = relay.sent
                tier.stop()
            got = last.finish()
        self.queues[name] = Queue(disk / len(ids), sent / len(ids), len(set(ids) - set(got)))

    def _tier(self, folder: Path, name: str, behind: receivers.Collector, grpc: int | None = None) -> Tier:
        """A Collector of ours that sends to ``behind``, or its traces to the port ``grpc``."""
        at, http = f"127.0.0.1:{grpc or behind.grpc}", f"http://127.0.0.1:{behind.port}"
        addresses = {"OTELCOL_TEMPO": at, "OTELCOL_GATEWAY": at, "OTELCOL_PROMETHEUS": http, "OTELCOL_LOKI": http}
        return Tier(folder, name, self._configs[name], addresses)

    def _settled(self, tiers: dict[str, receivers.Collector]) -> dict[str, float]:
        """CPU seconds of each so far, after a time in which nothing came."""
        before = {name: cpu(tier.pid) for name, tier in tiers.items()}
        time.sleep(IDLE)
        after = {name: cpu(tier.pid) for name, tier in tiers.items()}
        for name, tier in tiers.items():
            self.idle[name].append(Used((after[name] - before[name]) / IDLE, peak(tier.pid)))
        return after

    @contextlib.contextmanager
    def _app(self, folder: Path, rate: int, to: receivers.Collector) -> Iterator[tuple[list[bytes], dict[str, float]]]:
        """The program that makes them, when it has: their ids, and, when it has ended, what it said."""
        file, scripts = folder / "made", self._folder / "bin"
        program = [str(scripts / "python"), str(common.PROGRAMS / "traces.py"), str(file), str(rate), str(self.seconds)]
        env = common.environ(
            self._folder, {"OTEL_PERF_HOME": str(folder / "home")}, common.otlp(f"http://127.0.0.1:{to.port}")
        )
        said: dict[str, float] = {}
        with (folder / "output.txt").open("w+b") as output:
            process = subprocess.Popen(
                [str(scripts / "opentelemetry-instrument"), *program],
                env=env, cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            try:
                until(lambda: file.exists() or process.poll() is not None, "the spans are made")
                if process.poll() is None:
                    yield receivers.split(file.read_bytes()), said
                process.communicate(timeout=PATIENCE)
                if process.returncode != 0:
                    raise RuntimeError(
                        f"the app ended with {process.returncode}:\n{(folder / 'output.txt').read_text()}"
                    )
            finally:
                process.kill()
                process.wait()
        said |= json.loads((folder / "made.json").read_text())


def agent(work: Path) -> Path:
    """agent.yaml for the Collector that is built here, which cannot have loadbalancing; as the tests change it."""
    code = (
        "import yaml; from tests.deployment.test_collector import CONFIGS, without_load_balancing;"
        "print(yaml.safe_dump(without_load_balancing(CONFIGS['agent'])))"
    )
    python = str(common.ensure("dev") / "bin" / "python")
    file = work / AGENT
    file.write_bytes(subprocess.check_output([python, "-c", code], cwd=common.ROOT))
    return file


def written(last: receivers.Collector, count: int) -> None:
    """Wait until the file has so many spans."""
    found = 0

    def more() -> bool:
        nonlocal found
        found += last.spans()
        return found >= count

    until(more, f"{count:,} spans arrive")


def waiting(folder: Path) -> int:
    """Batches in the app's store that nobody has taken."""
    path = f"file:{folder / 'home' / 'telemetry.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(path, uri=True, timeout=5)) as reader:
        return int(reader.execute("SELECT count(*) FROM batch WHERE NOT delivered").fetchone()[0])


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"after {PATIENCE:g} s still not: {what}")
        time.sleep(0.2)


def cpu(pid: int) -> float:
    """CPU seconds of a process's threads, to the nanosecond, where the ticks of stat are too coarse."""
    found = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(FileNotFoundError):  # a thread that has ended since
            found += int(file.read_text().split()[0])
    return found / 1e9


def peak(pid: int) -> int:
    """The most bytes that were resident."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def report(bench: Bench, *, sized: bool) -> common.Report:
    """The tables and what is promised."""
    columns = ("way, process", "spans/s", "CPU µs/span", "spans/s a core", "cores", "CPU ×", "memory MiB", "memory ×")
    costs = common.Table(f"{bench.seconds} s of traces of ten spans; × is to the load before (medians)", columns)
    loads = common.Table("The loads", ("way", "wanted/s", "made/s", "made", "lost", "twice", "refused"))
    growth = 0.0
    unit: dict[tuple[str, int], sizing.Cost] = {}
    for chain in CHAINS:
        for load in LOADS:
            runs = bench.runs[chain, load]
            shown = [sum(run.made for run in runs), sum(run.lost for run in runs), sum(run.twice for run in runs)]
            rates = [bench.base * load, round(statistics.median(run.made / run.took for run in runs))]
            loads.rows.append([chain, *rates, *shown, sum(run.refused for run in runs)])
        for process in bench.runs[chain, LOADS[0]][0].used:
            last: sizing.Cost | None = None
            for load in LOADS:
                runs = bench.runs[chain, load]
                cost = sizing.Cost(
                    rate := round(statistics.median(run.made / run.took for run in runs)),
                    statistics.median(run.used[process].cpu / run.made for run in runs),
                    statistics.median(run.used[process].memory for run in runs),
                )
                row = [f"{chain}: {process}", rate, 1e6 * cost.cpu, 1 / cost.cpu, rate * cost.cpu]
                row += ["" if last is None else rate * cost.cpu / (last.rate * last.cpu)]
                row += [cost.memory / sizing.MIB if cost.memory else ""]
                row += [cost.memory / last.memory if last is not None and cost.memory else ""]
                costs.rows.append(row)
                if last is not None and load == LOADS[-1]:
                    growth = max(growth, cost.cpu / last.cpu)
                unit[process, load] = last = cost
    idle = common.Table(f"With nothing to do, for {IDLE:g} s", ("process", "% of a core", "memory MiB"))
    for name, found in bench.idle.items():
        shown = [100 * statistics.median(one.cpu for one in found), statistics.median(one.memory for one in found)]
        idle.rows.append([name, shown[0], shown[1] / sizing.MIB])
    queues = common.Table("A span in the queue of", ("", "bytes on disk", "bytes on the wire then, compressed", "lost"))
    for name, queue in bench.queues.items():
        queues.rows.append([name, queue.disk, queue.wire, queue.lost])
    lost = sum(run.lost for runs in bench.runs.values() for run in runs) + sum(
        one.lost for one in bench.queues.values()
    )
    bounds = [
        common.Bound("spans lost, of all", lost, 0),
        common.Bound(
            f"CPU of a span × that at a tenth of {bench.base * LOADS[-1]:,} spans/s, at worst", growth, GROWTH_BOUND
        ),
    ]
    tables = [costs, loads, idle, queues]
    if sized:
        low, top = LOADS[-2:]
        tables += sizing.Sizes(
            unit[CONFIG, top], unit[AGENT, top], (unit[GATEWAY, low], unit[GATEWAY, top]),
            *(sizing.Waiting(one.disk, one.wire) for one in (bench.queues[AGENT], bench.queues[GATEWAY])),
        ).tables()  # fmt: skip
    return common.Report(tables, bounds)


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=1)
    parser.add_argument("--base", type=int, default=BASE, help=f"spans/s of the smallest load (default {BASE})")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"of each load (default {SECONDS})")
    parser.add_argument("--sizing", action="store_true", help="say what it means for more machines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as work:
        bench = Bench(Path(work), options.base, options.seconds)
        cells = {f"{chain} {load}": functools.partial(bench.run, chain, load) for chain in CHAINS for load in LOADS}
        common.interleaved(cells, options.rounds, warm_up=False)
        for name in (AGENT, GATEWAY):
            bench.queue(name)
        return report(bench, sized=options.sizing).finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
