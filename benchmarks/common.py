"""What the benchmarks share: environments, child processes measured from outside, interleaving, tables, bounds.

Only the standard library is used here: a benchmark runs with any Python and measures its own environments.
Beware that ``requests.py`` in this folder hides the package of that name from a program that lies here; what
the children run is therefore in ``programs/``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
PROGRAMS: Final = Path(__file__).resolve().parent / "programs"
EXPORTERS_NONE: Final = {f"OTEL_{kind}_EXPORTER": "none" for kind in ("TRACES", "METRICS", "LOGS")}
NO_DISTRO: Final = {"OTEL_PYTHON_DISTRO": "none-such", "OTEL_PYTHON_CONFIGURATOR": "none-such"}
CHILD_TIMEOUT: Final = 60.0  # seconds after which a child is killed and the benchmark fails, unless it may take longer
RESAMPLES: Final = 2000
T = TypeVar("T")


def ensure(name: str, *, pinned: bool = True) -> Path:
    """The folder of the environment ``name``; made if it is missing. ``pinned`` applies constraints.txt."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import environments
    finally:
        sys.path.pop(0)
    folder: Path = environments.ensure(name) if pinned else environments.ensure(name, constraints=None)
    return folder


def collector() -> Path:
    """The real Collector; built if it is missing, which needs Go."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import collector as tool
    finally:
        sys.path.pop(0)
    binary: Path = tool.ensure()
    return binary


def environ(folder: Path, *extra: Mapping[str, str]) -> dict[str, str]:
    """The variables that a user of ``folder`` has, nothing of the caller's, and ``extra``."""
    kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    made = {**kept, "PATH": f"{folder / 'bin'}:/usr/local/bin:/usr/bin:/bin", "OTEL_SERVICE_NAME": "bench"}
    for more in extra:
        made |= more
    return made


def otlp(url: str) -> dict[str, str]:
    """The variables that send everything to ``url`` over OTLP/HTTP."""
    return {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_ENDPOINT": url}


@dataclass(frozen=True, slots=True)
class Usage:
    """What a finished process and the children that it waited for have used."""

    cpu: float  # seconds, user and system, through every exec
    rss: int  # peak bytes of the largest of them
    wall: float  # seconds
    ended: float  # by the monotonic clock, which all processes share


def run(command: Sequence[str], env: Mapping[str, str], cwd: Path, timeout: float = CHILD_TIMEOUT) -> Usage:
    """Run ``command`` to its end. Raises ``RuntimeError`` with its output for any status but 0."""
    with (cwd / "output.txt").open("w+b") as output:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        killer = threading.Timer(timeout, os.kill, (process.pid, signal.SIGKILL))
        killer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            ended = time.monotonic()
        finally:
            killer.cancel()
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            text = output.read().decode(errors="replace")[-20_000:]
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
    return Usage(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, wall, ended)


def cpu_of(pid: int) -> float:
    """CPU seconds, user and system, that the threads of the running process ``pid`` have used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def interleaved(variants: Mapping[str, Callable[[], T]], rounds: int, *, warm_up: bool) -> dict[str, list[T]]:
    """Call every variant once a round, in a shuffled order; a warm-up round is not among the results."""
    results: dict[str, list[T]] = {name: [] for name in variants}
    order, chance = list(variants), random.Random(7)
    for number in range(-1 if warm_up else 0, rounds):
        chance.shuffle(order)
        for name in order:
            result = variants[name]()
            if number >= 0:
                results[name].append(result)
    return results


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Keep the CPUs from sleeping meanwhile, with a loop on each that gives way to everything else.

    In a virtual machine a CPU that sleeps is woken by the host, when it has time: where 10 to 27 % of the CPUs were
    taken away under 300 requests a second, it was 1 to 3 % with this. Does nothing but on Linux.
    """
    idle = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile os.getppid() == {}: pass"
    command = [sys.executable, "-c", idle.format(os.getpid())]
    number = len(os.sched_getaffinity(0)) if hasattr(os, "SCHED_IDLE") else 0
    loops = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def ratio(values: Sequence[float], to: Sequence[float]) -> float:
    """The median of the ratios within each round: neighbours in time share the machine's noise."""
    return statistics.median(value / other for value, other in zip(values, to, strict=True))


class Sink:
    """A process that takes OTLP over HTTP, answers 200 and can count what it got."""

    def __init__(self, url: str) -> None:
        self.url = url

    def counts(self) -> dict[str, int]:
        """``server_spans``, ``spans``, ``logs`` and ``metrics`` received since the last call."""
        with urllib.request.urlopen(f"{self.url}/counts", timeout=30) as answer:
            found: dict[str, int] = json.load(answer)
        return found

    def close(self, seconds: float) -> None:
        """Refuse everything for so long from now on."""
        with urllib.request.urlopen(f"{self.url}/close?{seconds}", timeout=30) as answer:
            answer.read()


def spread(values: list[float]) -> tuple[float, float]:
    """Between which medians 90 % of resamples of ``values`` lie (Efron's bootstrap)."""
    chance = random.Random(7)
    medians = [statistics.median(chance.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return percentile(medians, 5), percentile(medians, 95)


def percentile(values: list[float], share: float) -> float:
    """The value below which ``share`` percent of ``values`` lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share / 100))]


@contextlib.contextmanager
def sink(folder: Path, *options: str) -> Iterator[Sink]:
    """A running :class:`Sink`, with the Python of ``folder``, which must know the OTLP messages."""
    command = [str(folder / "bin" / "python"), str(PROGRAMS / "sink.py"), *options]
    with subprocess.Popen(command, env=environ(folder), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Sink(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


def stored(folder: Path, home: Path) -> dict[str, int]:
    """What is in the store of ``home``, counted by the Python of ``folder``, as :meth:`Sink.counts` does."""
    command = [str(folder / "bin" / "python"), str(PROGRAMS / "stored.py"), str(home)]
    found: dict[str, int] = json.loads(subprocess.check_output(command, env=environ(folder), text=True))
    return found


@dataclass(frozen=True, slots=True)
class Bound:
    """A figure that the project promises."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the value keeps the bound."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign, word = ("≥" if self.at_least else "≤"), ("PASS" if self.met else "MISS")
        return f"{word}  {self.name}: {_text(self.value)} ({sign} {_text(self.limit)})"


@dataclass(slots=True)
class Table:
    """Figures by row; a cell is text or a number."""

    title: str
    columns: Sequence[str]
    rows: list[list[str | float]] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [list(self.columns), *([_text(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[index]) for line in lines) for index in range(len(self.columns))]
        text = [self.title]
        for first, *others in lines:
            cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            text.append("  ".join([first.ljust(widths[0]), *cells]))
        return "\n".join(text)


def _text(cell: str | float) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if abs(cell) >= 1000 or cell == int(cell) else f"{cell:.3g}"


@dataclass(slots=True)
class Report:
    """The tables and bounds of one benchmark."""

    tables: list[Table] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)

    def finish(self, *, as_json: bool) -> int:
        """Print everything; the exit status is 0 when every bound is met, else 1."""
        met = all(bound.met for bound in self.bounds)
        if as_json:
            bounds = [asdict(bound) | {"met": bound.met} for bound in self.bounds]
            tables = [asdict(table) for table in self.tables]
            print(json.dumps({"tables": tables, "bounds": bounds, "met": met}, indent=1))
        else:
            print("\n\n".join([*map(str, self.tables), "\n".join(map(str, self.bounds))]))
        return 0 if met else 1


def arguments(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes: ``--rounds`` and ``--json``."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=rounds, help=f"interleaved rounds (default {rounds})")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser
