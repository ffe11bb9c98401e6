"""CPU time of a call of a decorated function that does nothing: otel-perf, OpenTelemetry's decorator, other tools.

Each variant lives in a process and an environment of its own (programs/calls.py) and is asked for one slice of a few
milliseconds after the other, all variants once a round in a shuffled order, so that they share the machine's noise.
What is given is the CPU time of the calling thread, the call itself and the loop around it included; beside it that of
the whole process, where a batch processor has a thread. The ratios are medians of those within each round. Nobody
sends anything: what would be sent is handed to an exporter that counts it and lets it go, and "recorded" is the part
of the calls that got there.
"""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import common

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

KINDS: Final = {"sync": "A function", "async": "A coroutine"}
AGAINST: Final = ("floor", "quiet", "otel")
COLUMNS: Final = (
    "CPU ns a call",
    "measured",
    "median",
    "min",
    "max",
    "whole process",
    *(f"× {name}" for name in AGAINST),
    "recorded",
)
START_TIMEOUT: Final = 120.0  # seconds, imports and warm-up included
OURS: Final = "bench-perf"


@dataclass(frozen=True, slots=True)
class Variant:
    """One row."""

    title: str
    environment: str
    pinned: bool = True  # by constraints.txt; the others' files name their versions themselves
    env: Mapping[str, str] = field(default_factory=dict)


VARIANTS: Final = {  # named as in programs/calls.py
    "bare": Variant("bare", OURS),
    "floor": Variant("floor: two clocks and an append", OURS),
    "quiet": Variant("@monitored, quiet", OURS),
    "pure": Variant("@monitored, quiet, pure Python", OURS, env={"OTEL_PERF_CALLS_PURE": "1"}),
    "under-span": Variant("@monitored, quiet, under a span", OURS),
    "nested": Variant("@monitored, one that calls four", OURS),
    "off": Variant("@monitored, off", OURS),
    "late": Variant("@monitored, slow: real at its end", OURS),
    "real": Variant('@monitored(span="always")', OURS),
    "otel": Variant("@tracer.start_as_current_span", OURS),
    "otel-code": Variant("@tracer.start_as_current_span, code.* attributes", OURS),
    "aws": Variant("ServiceEvents, import hook", "bench-calls-aws", pinned=False),
    "ddtrace": Variant(
        "@tracer.wrap",
        "bench-calls-ddtrace",
        pinned=False,
        env={
            "DD_CRASHTRACKING_ENABLED": "false",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
            "DD_TRACE_AGENT_URL": "unix:///nonexistent/agent.socket",
            "DD_TRACE_STARTUP_LOGS": "false",
        },
    ),
    "logfire": Variant(
        "@logfire.instrument",
        "bench-calls-logfire",
        pinned=False,
        env={"LOGFIRE_SEND_TO_LOGFIRE": "false"},
    ),
    "sentry": Variant("@sentry_sdk.trace", "bench-calls-sentry", pinned=False),
    "newrelic": Variant(
        "@function_trace",
        "bench-calls-newrelic",
        pinned=False,
        env={
            "NEW_RELIC_APP_NAME": "bench",
            "NEW_RELIC_DEVELOPER_MODE": "true",
            "NEW_RELIC_LICENSE_KEY": "0" * 40,
            "NEW_RELIC_LOG": "/dev/null",
        },
    ),
}
ONE_BY_ONE: Final = ("quiet", "pure", "under-span", "nested")  # rows in which otel-perf must have counted every call

# What the project promises of "quiet": at least so many times dearer are others.
DEARER: Final = {"aws": 3.5, "ddtrace": 5.5, "otel": 10.0}


class Child:
    """The process of one variant."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self._process, self._errors = process, errors
        self.made: str = self._answer(START_TIMEOUT)["made"]

    def slice(self, kind: str) -> dict[str, float]:
        """CPU nanoseconds a call, ``thread`` and ``process``, in one slice."""
        return self._ask(kind)

    def recorded(self) -> float | None:
        """The part of all calls that was recorded, if that can be told; the last thing to ask for."""
        part: float | None = self._ask("end")["recorded"]
        return part

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # no answer comes, and that says why
            self._process.stdin.write(f"{word}\n")
            self._process.stdin.flush()
        return self._answer(common.CHILD_TIMEOUT)

    def _answer(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        killer = threading.Timer(timeout, self._process.kill)
        killer.start()
        try:
            line = self._process.stdout.readline()
        finally:
            killer.cancel()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        status = self._process.wait()
        said = self._errors.read_text(errors="replace").strip().splitlines()[-1:]
        ended = f"killed after {timeout:.0f} s" if status == -signal.SIGKILL else f"ended with {status}"
        raise RuntimeError(": ".join([ended, *said]))


@contextlib.contextmanager
def child(name: str, work: Path) -> Iterator[Child]:
    """The running process of a variant. Raises ``RuntimeError`` or ``CalledProcessError`` if it does not run here."""
    variant = VARIANTS[name]
    folder = common.ensure(variant.environment, pinned=variant.pinned)
    env = common.environ(folder, {"PYTHONHASHSEED": "0", "OTEL_PERF_HOME": str(work / "home")}, variant.env)
    command = [str(folder / "bin" / "python"), "-P", str(common.PROGRAMS / "calls.py"), name]
    errors = work / f"{name}.txt"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            command, env=env, cwd=work, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            yield Child(process, errors)
        finally:
            process.kill()


@dataclass(slots=True)
class Results:
    """What was measured, by variant and kind."""

    children: dict[str, Child] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    slices: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    recorded: dict[str, float | None] = field(default_factory=dict)

    def of(self, name: str, kind: str, what: str = "thread") -> list[float]:
        """Nanoseconds a call, one for each round; nothing if the variant was not measured."""
        return [one[what] for one in self.slices.get(f"{name} {kind}", ())]

    def ratio(self, name: str, to: str, kind: str) -> float | None:
        """The median of the ratios within each round, if both were measured."""
        values, others = self.of(name, kind), self.of(to, kind)
        return common.ratio(values, others) if values and others else None


def measure(names: Sequence[str], rounds: int, work: Path) -> Results:
    """Run all variants, interleaved. One that does not start is noted; one that ends later ends the benchmark."""
    results = Results()
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                results.children[name] = stack.enter_context(child(name, work))
            except subprocess.CalledProcessError:  # pip has said why
                results.failed[name] = f"does not run here: {VARIANTS[name].environment} cannot be made"
            except (RuntimeError, OSError) as error:
                results.failed[name] = f"does not run here: {error}"
        calls: dict[str, Callable[[], dict[str, float]]] = {
            f"{name} {kind}": functools.partial(one.slice, kind)
            for name, one in results.children.items()
            for kind in KINDS
        }
        results.slices = common.interleaved(calls, rounds, warm_up=True)
        results.recorded = {name: one.recorded() for name, one in results.children.items()}
    return results


def table(results: Results, names: Sequence[str], kind: str, rounds: int) -> common.Table:
    """One row for each variant."""
    made = common.Table(f"{KINDS[kind]}, {rounds} interleaved rounds", COLUMNS)
    for name in names:
        title = VARIANTS[name].title
        if name in results.failed:
            made.rows.append([title, *[""] * (len(COLUMNS) - 2), results.failed[name]])
            continue
        values, whole = results.of(name, kind), results.of(name, kind, "process")
        ratios = [results.ratio(name, to, kind) for to in AGAINST]
        optional = [*ratios, results.recorded[name]]
        figures = [statistics.median(values), min(values), max(values), statistics.median(whole)]
        made.rows.append(
            [title, results.children[name].made, *figures, *("" if cell is None else cell for cell in optional)]
        )
    return made


def bounds(results: Results, kind: str) -> list[common.Bound]:
    """What is promised of this kind of function, as far as it was measured."""
    found: list[common.Bound] = []
    quiet = results.of("quiet", kind)
    if quiet:
        found.append(common.Bound(f"{kind}: {VARIANTS['quiet'].title}, ns", statistics.median(quiet), 1200))
    limits: list[tuple[str, str, float, bool]] = [
        ("quiet", "floor", 6.0, False),
        *((name, "quiet", limit, True) for name, limit in DEARER.items()),
        ("real", "otel", 1.15, False),
        ("late", "otel-code", 1.15, False),  # a slow call: with the three attributes that it has
    ]
    for name, to, limit, at_least in limits:
        value = results.ratio(name, to, kind)
        if value is not None:
            found.append(common.Bound(f"{kind}: {VARIANTS[name].title} × {to}", value, limit, at_least))
    return found


def main() -> int:
    """Run, print and judge. The exit status is 1 as well when one does not run here."""
    parser = common.arguments(__doc__, rounds=40)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=VARIANTS, help=f"of {', '.join(VARIANTS)}")
    options = parser.parse_args()
    names: Sequence[str] = options.only or list(VARIANTS)
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as work:
        results = measure(names, options.rounds, Path(work))
    report = common.Report([table(results, names, kind, options.rounds) for kind in KINDS])
    for kind in KINDS:
        report.bounds += bounds(results, kind)
    for name in ONE_BY_ONE:
        part = results.recorded.get(name)
        if part is not None:
            title = f"{VARIANTS[name].title}: part of the calls not counted"
            report.bounds.append(common.Bound(title, abs(1 - part), 0))
    return report.finish(as_json=options.json) or int(bool(results.failed))


if __name__ == "__main__":
    sys.exit(main())
