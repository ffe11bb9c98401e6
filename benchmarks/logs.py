"""CPU time of a log line that goes to a file as JSON, of a dropped one and of a business event, beside other ways.

Each variant lives in a process of its own (programs/logs.py) and is asked for one slice of some 20 ms after the other,
all variants once a round in a shuffled order, so that they share the machine's noise. What is given is the CPU time of
the logging thread, the call itself and the loop around it included. The ratios are medians of those within each round.
The floor is a formatter of twelve lines around msgspec, without ids and without redaction. "written" is the part of the
lines that are in the file afterwards, with their ids where the variant has them; of drops, the part that is not.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common
from calls import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

ENVIRONMENT: Final = "bench-logs"
NOT_YET: Final = "not there yet"
LINES: Final = ("line", "extras", "error")
KINDS: Final = {
    "line": "A line with two arguments",
    "extras": "A line with two arguments and two extras",
    "error": "A line with an exception",
    "drop": "A line that is dropped",
    "event": "A business event, into the store",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One row."""

    title: str
    kinds: Sequence[str] = LINES
    env: Mapping[str, str] = field(default_factory=dict)


VARIANTS: Final = {  # named as in programs/logs.py
    "floor": Variant("floor: twelve lines around msgspec"),
    "bare-floor": Variant("the same without place and date"),
    "ours-keys": Variant("otel-perf, redaction by key"),
    "ours": Variant("otel-perf, by key and pattern"),
    "ours-ecs": Variant("otel-perf, ECS"),
    "ours-exported": Variant("otel-perf, record exported as well"),
    "stamped": Variant("the floor with otel-perf's ids"),
    "text": Variant("logging.Formatter, no JSON"),
    "json-logger": Variant("python-json-logger, json"),
    "json-logger-msgspec": Variant("python-json-logger, msgspec"),
    "json-logger-orjson": Variant("python-json-logger, orjson"),
    "structlog-orjson": Variant("structlog, orjson"),
    "structlog": Variant("structlog, json"),
    "loguru": Variant("loguru, serialize"),
    "filter": Variant("logging.Filter", ("drop",)),
    "level-rule": Variant("OTEL_PERF_LOGS_LEVELS, the logger", ("drop",)),
    "logger-rule": Variant("OTEL_PERF_LOGS_LEVELS, shop.*", ("drop",)),
    "template-rule": Variant("OTEL_PERF_LOGS_RATE, the template", ("drop",)),
    "business": Variant("perf.business_event", ("event",)),
    "sdk-event": Variant("the SDK's own calls, not stored", ("event",)),
}
AGAINST: Final = {"line": "floor", "extras": "floor", "error": "floor", "drop": "filter", "event": "sdk-event"}


@contextlib.contextmanager
def child(name: str, work: Path) -> Iterator[Child]:
    """The running process of a variant. Raises ``RuntimeError`` if it does not run here."""
    folder = common.ensure(ENVIRONMENT)
    place = work / name
    place.mkdir()
    env = common.environ(folder, {"PYTHONHASHSEED": "0", "OTEL_PERF_HOME": str(place / "home")}, VARIANTS[name].env)
    command = [str(folder / "bin" / "python"), "-P", str(common.PROGRAMS / "logs.py"), name]
    errors = place / "errors.txt"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            command, env=env, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True
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
    written: dict[str, float | None] = field(default_factory=dict)

    def of(self, name: str, kind: str, what: str = "thread") -> list[float]:
        """Nanoseconds a call, one for each round; nothing if the variant was not measured."""
        return [one[what] for one in self.slices.get(f"{name} {kind}", ())]

    def ratio(self, name: str, to: str, kind: str) -> float | None:
        """The median of the ratios within each round, if both were measured."""
        values, others = self.of(name, kind), self.of(to, kind)
        return common.ratio(values, others) if values and others else None


def measure(names: Sequence[str], kinds: Sequence[str], rounds: int, work: Path) -> Results:
    """Run all variants, interleaved. One that does not start is noted."""
    results = Results()
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                results.children[name] = stack.enter_context(child(name, work))
            except (RuntimeError, OSError) as error:
                results.failed[name] = NOT_YET if NOT_YET in str(error) else f"does not run here: {error}"
        calls: dict[str, Callable[[], dict[str, float]]] = {
            f"{name} {kind}": functools.partial(one.slice, kind)
            for name, one in results.children.items()
            for kind in VARIANTS[name].kinds
            if kind in kinds
        }
        results.slices = common.interleaved(calls, rounds, warm_up=True)
        results.written = {name: one.recorded() for name, one in results.children.items()}
    return results


def table(results: Results, names: Sequence[str], kind: str, rounds: int) -> common.Table:
    """One row for each variant that knows the kind."""
    against = AGAINST[kind]
    columns = ["CPU ns a call", "measured", "median", "min", "max", "whole process", f"× {against}", "written"]
    made = common.Table(f"{KINDS[kind]}, {rounds} interleaved rounds", columns)
    for name in names:
        if kind not in VARIANTS[name].kinds:
            continue
        title = VARIANTS[name].title
        if name in results.failed:
            made.rows.append([title, *[""] * 6, results.failed[name]])
            continue
        values, whole = results.of(name, kind), results.of(name, kind, "process")
        optional = [results.ratio(name, against, kind), results.written[name]]
        made.rows.append(
            [
                title, results.children[name].made, statistics.median(values), min(values), max(values),
                statistics.median(whole), *("" if cell is None else cell for cell in optional),
            ]
        )  # fmt: skip
    return made


def bounds(results: Results) -> list[common.Bound]:
    """What is promised, as far as it was measured."""
    found: list[common.Bound] = []

    def at_most(name: str, to: str, kind: str, limit: float) -> None:
        value = results.ratio(name, to, kind)
        if value is not None:
            title = f"{kind}: {VARIANTS[name].title} × {VARIANTS[to].title}"
            found.append(common.Bound(title, value, limit))

    def microseconds(name: str, kind: str, limit: float) -> None:
        values = results.of(name, kind)
        if values:
            found.append(common.Bound(f"{VARIANTS[name].title}, µs", statistics.median(values) / 1000, limit))

    for kind in ("line", "extras"):
        at_most("ours-keys", "floor", kind, 1.25)
        at_most("ours", "floor", kind, 1.7)
    for kind in LINES:
        at_most("ours", "json-logger", kind, 1.0)
        at_most("ours", "json-logger-msgspec", kind, 1.0)
    microseconds("level-rule", "drop", 1.5)
    microseconds("logger-rule", "drop", 1.5)
    at_most("template-rule", "filter", "drop", 1.3)
    microseconds("business", "event", 8.0)
    at_most("business", "sdk-event", "event", 1.0)
    for name, part in results.written.items():
        if part is not None and (name.startswith("ours") or VARIANTS[name].kinds == ("drop",)):
            title = f"{VARIANTS[name].title}: part of the lines not as it should be"
            found.append(common.Bound(title, 1 - part, 0.001))
    return found


def main() -> int:
    """Run, print and judge. The exit status is 1 as well when one does not run here."""
    parser = common.arguments(__doc__, rounds=40)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=VARIANTS, help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", choices=KINDS, help=f"of {', '.join(KINDS)}")
    options = parser.parse_args()
    names: Sequence[str] = options.only or list(VARIANTS)
    kinds: Sequence[str] = options.kinds or list(KINDS)
    names = [name for name in names if not set(VARIANTS[name].kinds).isdisjoint(kinds)]
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as work:
        results = measure(names, kinds, options.rounds, Path(work))
    report = common.Report([table(results, names, kind, options.rounds) for kind in kinds])
    report.bounds += bounds(results)
    broken = [reason for reason in results.failed.values() if reason != NOT_YET]
    return report.finish(as_json=options.json) or int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
