"""The receiver is in trouble: how many spans are lost, and how much later the program ends.

The same load under otel-perf and under opentelemetry-distro with its OTLP/HTTP exporter, against receivers that refuse
connections, hang, answer 429 (Retry-After: 1), 503 or no HTTP at all, take a second for an answer, or are a real
Collector that is down for 5 s, up for 5 s and so on. Lost is what was made and is in no request that was answered with
200. For otel-perf that includes what a real Collector gets afterwards, at the same address, when the program is started
once more; upstream keeps nothing, and there is nothing to start again for. Time to exit is from the last line of the
program's own code to the end of the process, less the median of the same with all exporters ``none``, for the same
distribution and rate, measured in the same run in between.

Both distributions run at the same time, each with a receiver of its own, and so do several cells of a low rate. That
is fair: all of it together is less than the machine has (the table of the load shows CPU seconds and how late the
latest burst was), what disturbs one disturbs the other, and the programs start a second apart, in a random order, so
that none ends in the other's way.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common
import receivers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

OURS: Final = "otel-perf"
UPSTREAM: Final = "opentelemetry-distro"
TROUBLES: Final = ("refused", "hanging", "429", "503", "garbage", "slow", "flapping")
CONTROL: Final = "none"  # a trouble to ask for: a receiver that has none
RATES: Final = (500, 5_000)
SECONDS: Final = 60
FLAP: Final = 5.0  # seconds
TOGETHER: Final = 5_000  # spans/s of each distribution that one wave of cells makes at most
CELLS_TOGETHER: Final = 4
APART: Final = 1.0  # seconds between two starts
BASELINES: Final = 2  # with each wave
BASELINE_SECONDS: Final = 2
EXIT_LIMIT: Final = 120.0  # seconds after which a program that does not end is killed and the benchmark fails
DRAIN_LIMIT: Final = 120.0  # seconds that a backlog gets; what waits after that counts as lost
EXIT_BOUND: Final = 0.3  # seconds


@dataclass(frozen=True, slots=True)
class Cell:
    """What is measured under both distributions."""

    trouble: str
    rate: int  # spans/s

    def __str__(self) -> str:
        return f"{self.trouble} at {self.rate:,}/s"


@dataclass(frozen=True, slots=True)
class Run:
    """One program that has ended."""

    ids: list[bytes]
    exit: float  # seconds
    late: float  # seconds that the latest burst was late
    cpu: float  # seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """One distribution in one cell."""

    run: Run
    lost: int
    twice: int  # copies beyond the first
    requests: int | None
    drained: float = 0.0  # seconds that a second start took to send what waited


class Bench:
    """One run of the benchmark."""

    def __init__(self, work: Path, seconds: int) -> None:
        self.seconds = seconds
        self.folders = {OURS: common.ensure("bench-perf"), UPSTREAM: common.ensure("bench-upstream")}
        self.outcomes: dict[tuple[Cell, str], list[Outcome]] = defaultdict(list)
        self.baselines: dict[tuple[int, str], list[float]] = defaultdict(list)
        self._work = work
        self._chance = random.Random(7)

    def wave(self, cells: Sequence[Cell]) -> None:
        """Measure ``cells``, which have one rate, at the same time, and then what none of them waits for."""
        for _ in range(BASELINES):
            self._baseline(cells[0].rate)
        with contextlib.ExitStack() as stack:
            tasks = [(cell, name) for cell in cells for name in self.folders]
            self._chance.shuffle(tasks)
            folders = {task: self._folder() for task in tasks}
            found = {task: stack.enter_context(self._receiver(task[0], folders[task])) for task in tasks}
            with ThreadPoolExecutor(len(tasks)) as pool:
                running = {}
                for task in tasks:
                    variables = common.otlp(f"http://127.0.0.1:{found[task].port}")
                    arguments = (task[1], folders[task], variables, task[0].rate, self.seconds)
                    running[task] = pool.submit(self._run, *arguments)
                    time.sleep(APART)
            for task in tasks:
                self._settle(task, running[task].result(), found[task], folders[task])

    def _baseline(self, rate: int) -> None:
        names = list(self.folders)
        self._chance.shuffle(names)
        with ThreadPoolExecutor(len(names)) as pool:
            running = {}
            for name in names:
                arguments = (name, self._folder(), common.EXPORTERS_NONE, rate, BASELINE_SECONDS)
                running[name] = pool.submit(self._run, *arguments)
                time.sleep(APART)
        for name in names:
            self.baselines[rate, name].append(running[name].result().exit)

    def _settle(self, task: tuple[Cell, str], run: Run, receiver: receivers.Receiver, folder: Path) -> None:
        """Find out what arrived; for otel-perf also what arrives later."""
        cell, name = task
        arrived = receiver.finish()
        if receiver.requests == 0:
            raise RuntimeError(f"{cell}: {name} sent nothing:\n{(folder / 'output.txt').read_text()[-2000:]}")
        drained = 0.0
        if name == OURS:
            with receivers.Collector(folder, receiver.port) as collector:
                drained = self._drain(folder, receiver.port)
                arrived += collector.finish()
        distinct = set(arrived)
        lost = len(set(run.ids) - distinct)
        outcome = Outcome(run, lost, len(arrived) - len(distinct), receiver.requests, drained)
        self.outcomes[task].append(outcome)
        print(f"{cell}, {name}: {lost:,} of {len(run.ids):,} lost, exit {run.exit:.3f} s", file=sys.stderr)

    def _receiver(self, cell: Cell, folder: Path) -> receivers.Receiver:
        if cell.trouble == "flapping":
            return receivers.Flapping(folder, FLAP)
        return receivers.Trouble(cell.trouble, self.folders[UPSTREAM])

    def _folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._work))

    def _command(self, name: str, *arguments: str) -> list[str]:
        scripts = self.folders[name] / "bin"
        program = str(common.PROGRAMS / "steady.py")
        return [str(scripts / "opentelemetry-instrument"), str(scripts / "python"), program, *arguments]

    def _environ(self, name: str, folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
        return common.environ(self.folders[name], {"OTEL_PERF_HOME": str(folder / "home")}, variables)

    def _run(self, name: str, folder: Path, variables: Mapping[str, str], rate: int, seconds: int) -> Run:
        """The load, to the end of the process."""
        file = folder / "made"
        command = self._command(name, str(file), str(rate), str(seconds))
        used = common.run(command, self._environ(name, folder, variables), folder, seconds + EXIT_LIMIT)
        said = json.loads(file.with_name("made.json").read_text())
        ids = receivers.split(file.read_bytes())
        if not said["made"] == len(set(ids)) == rate * seconds:
            raise RuntimeError(f"{name}: {said['made']:,} spans made instead of {rate * seconds:,}")
        return Run(ids, used.ended - said["ended"], said["late"], used.cpu)

    def _drain(self, folder: Path, port: int) -> float:
        """Start the program once more, for one span; seconds until nothing waits."""
        file = folder / "made-later"
        command = self._command(OURS, str(file), "1", "1", "hold")
        env = self._environ(OURS, folder, common.otlp(f"http://127.0.0.1:{port}"))
        began = time.monotonic()
        with (folder / "later.txt").open("wb") as output:
            process = subprocess.Popen(
                command, env=env, cwd=folder, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                while process.poll() is None and time.monotonic() - began < DRAIN_LIMIT:
                    if file.exists() and not waiting(folder / "home"):
                        break
                    time.sleep(receivers.POLL)
                took = time.monotonic() - began
                process.communicate(timeout=EXIT_LIMIT)
            finally:
                process.kill()
                process.wait()
        if process.returncode != 0:
            said = (folder / "later.txt").read_text()[-2000:]
            raise RuntimeError(f"the second start ended with {process.returncode}:\n{said}")
        return took


def waiting(home: Path) -> int:
    """Batches in the store that nobody has taken."""
    with contextlib.closing(sqlite3.connect(f"file:{home / 'telemetry.db'}?mode=ro", uri=True, timeout=5)) as reader:
        return int(reader.execute("SELECT count(*) FROM batch WHERE NOT delivered").fetchone()[0])


def waves(cells: Sequence[Cell], rounds: int) -> Iterator[list[Cell]]:
    """All cells, in a shuffled order, in groups of one rate that do not ask too much of the machine."""
    chance = random.Random(7)
    for _ in range(rounds):
        groups = []
        for rate in sorted({cell.rate for cell in cells}):
            same = [cell for cell in cells if cell.rate == rate]
            chance.shuffle(same)
            size = max(1, min(CELLS_TOGETHER, TOGETHER // rate))
            groups += [same[at : at + size] for at in range(0, len(same), size)]
        chance.shuffle(groups)
        yield from groups


def in_pairs(*columns: str) -> list[str]:
    """Each column for both distributions."""
    return [title for column in columns for title in (column, f"{column}, upstream")]


def report(bench: Bench, cells: Sequence[Cell]) -> common.Report:
    """The tables and what is promised."""
    exits = {key: statistics.median(found) for key, found in bench.baselines.items()}
    result = common.Table(
        f"{bench.seconds} s of spans, receiver in trouble; exits without those of a program with no exporter",
        ("trouble", "spans/s", "made", *in_pairs("lost", "exit s", "twice"), "drain s"),
    )
    load = common.Table(
        "The load: latest burst, CPU of the whole process, requests that the receiver saw",
        ("trouble", "spans/s", *in_pairs("late ms", "CPU s", "requests")),
    )
    later: dict[Cell, float] = {}
    for cell in cells:
        for ours, upstream in zip(bench.outcomes[cell, OURS], bench.outcomes[cell, UPSTREAM], strict=True):
            both = {OURS: ours, UPSTREAM: upstream}
            after = {name: outcome.run.exit - exits[cell.rate, name] for name, outcome in both.items()}
            later[cell] = max(after[OURS], later.get(cell, after[OURS]))
            row: list[str | float] = [cell.trouble, cell.rate, len(ours.run.ids)]
            row += [outcome.lost for outcome in both.values()]
            row += [round(seconds, 3) for seconds in after.values()]
            row += [outcome.twice for outcome in both.values()]
            result.rows.append([*row, round(ours.drained, 2)])
            row = [cell.trouble, cell.rate]
            row += [round(outcome.run.late * 1e3, 1) for outcome in both.values()]
            row += [round(outcome.run.cpu, 2) for outcome in both.values()]
            row += ["" if outcome.requests is None else outcome.requests for outcome in both.values()]
            load.rows.append(row)
    none = common.Table(
        "Time to exit with no exporter", ("distribution", "spans/s", "median s", "min", "max", "rounds")
    )
    for (rate, name), found in sorted(bench.baselines.items()):
        figures = (exits[rate, name], min(found), max(found))
        none.rows.append([name, rate, *(round(figure, 3) for figure in figures), len(found)])
    worst = max(later, key=lambda cell: later[cell])
    lost = sum(outcome.lost for cell in cells for outcome in bench.outcomes[cell, OURS])
    bounds = [
        common.Bound(f"{OURS}: spans lost in all {len(cells)} cells", lost, 0),
        common.Bound(f"{OURS}: s that the exit takes longer, at worst ({worst})", round(later[worst], 3), EXIT_BOUND),
    ]
    return common.Report([result, load, none], bounds)


def main() -> int:
    """Run, print and judge."""
    parser = common.arguments(__doc__, rounds=1)
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"of the load in a cell (default {SECONDS})")
    parser.add_argument("--rates", type=int, nargs="+", default=RATES, help="spans/s (default 500 5000)")
    names = [*TROUBLES, CONTROL]
    parser.add_argument("--troubles", nargs="+", choices=names, default=TROUBLES, help=f"of {', '.join(names)}")
    options = parser.parse_args()
    cells = [
        Cell(trouble, rate) for trouble in dict.fromkeys(options.troubles) for rate in dict.fromkeys(options.rates)
    ]
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as work:
        bench = Bench(Path(work), options.seconds)
        for wave in waves(cells, options.rounds):
            bench.wave(wave)
        return report(bench, cells).finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
