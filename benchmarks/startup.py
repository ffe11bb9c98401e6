"""What it costs to start a program under ``opentelemetry-instrument``, against upstream and other distributions.

CPU is user and system time of the whole process through its exec; memory is the peak RSS. The first table is
for ``python -c pass``, the second for a program with one span, one log line and one metric, last flush included;
there upstream sends to a local sink and otel-perf commits to its store, which is empty in every round, and
in a variant sends from there within the 0.2 s that the exit gives it.
"""

from __future__ import annotations

import functools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

UPSTREAM: Final = "opentelemetry-distro"
NOTHING: Final = "no distro"
OURS: Final = "otel-perf"
COLUMNS: Final = ("distribution", "CPU ms", "min", "max", "wall ms", "RSS MB")


def start(folder: Path, program: Sequence[str], work: Path, env: Mapping[str, str]) -> common.Usage:
    """One start, with an empty home folder."""
    with tempfile.TemporaryDirectory(dir=work) as cwd:
        command = [str(folder / "bin" / "opentelemetry-instrument"), str(folder / "bin" / "python"), *program]
        home = {"OTEL_PERF_HOME": str(Path(cwd) / "home")}
        return common.run(command, common.environ(folder, home, env), Path(cwd))


def table(title: str, results: Mapping[str, list[common.Usage]], against: Sequence[str]) -> common.Table:
    """Medians of ``results`` and their ratios to the variants ``against``."""
    made = common.Table(title, [*COLUMNS, *(f"CPU × {name}" for name in against), f"RSS × {UPSTREAM}"])
    for name, used in results.items():
        cpu = [use.cpu * 1e3 for use in used]
        wall = statistics.median(use.wall * 1e3 for use in used)
        rss = statistics.median(use.rss / 1e6 for use in used)
        ratios = [cpu_ratio(results, name, other) for other in against]
        made.rows.append(
            [name, statistics.median(cpu), min(cpu), max(cpu), wall, rss, *ratios, rss_ratio(results, name, UPSTREAM)]
        )
    return made


def cpu_ratio(results: Mapping[str, list[common.Usage]], name: str, other: str) -> float:
    """CPU of ``name`` for one second of ``other``."""
    return common.ratio([use.cpu for use in results[name]], [use.cpu for use in results[other]])


def rss_ratio(results: Mapping[str, list[common.Usage]], name: str, other: str) -> float:
    """Memory of ``name`` for one byte of ``other``."""
    return common.ratio([use.rss for use in results[name]], [use.rss for use in results[other]])


def plain(report: common.Report, rounds: int, work: Path) -> None:
    """The start of a program that does nothing."""
    upstream, perf = common.ensure("bench-upstream"), common.ensure("bench-perf")
    peers = {name: common.ensure(f"bench-{name}", pinned=False) for name in ("elastic", "splunk")}
    none = common.EXPORTERS_NONE
    variants: dict[str, tuple[Path, Mapping[str, str]]] = {
        NOTHING: (upstream, common.NO_DISTRO),
        UPSTREAM: (upstream, none),
        OURS: (perf, {}),
        f"{OURS}, exporters none": (perf, none),
        **{name: (folder, none) for name, folder in peers.items()},
    }
    results = measured(variants, ["-c", "pass"], rounds, work)
    report.tables.append(table("Start of `python -c pass`", results, (NOTHING, UPSTREAM)))
    report.bounds += [
        common.Bound(f"pass: CPU × {UPSTREAM}", cpu_ratio(results, OURS, UPSTREAM), 1.25),
        common.Bound(f"pass: CPU × {NOTHING}", cpu_ratio(results, OURS, NOTHING), 1.45),
        common.Bound(f"pass: RSS × {UPSTREAM}", rss_ratio(results, OURS, UPSTREAM), 1.4),
    ]


def used(report: common.Report, rounds: int, work: Path) -> None:
    """The start and end of a program that has something to say."""
    upstream, perf = common.ensure("bench-upstream"), common.ensure("bench-perf")
    kept = work / "kept"
    with common.sink(upstream) as sink, common.sink(upstream) as ours:
        variants: dict[str, tuple[Path, Mapping[str, str]]] = {
            UPSTREAM: (upstream, common.otlp(sink.url)),
            OURS: (perf, {}),
            f"{OURS}, store exists": (perf, {"OTEL_PERF_HOME": str(kept)}),
            f"{OURS}, sending": (perf, common.otlp(ours.url)),
        }
        results = measured(variants, [str(common.PROGRAMS / "one_of_each.py")], rounds, work)
        got, kept_counts = sink.counts(), common.stored(perf, kept)
    report.tables.append(table("One span, one log line, one metric, flushed", results, (UPSTREAM,)))
    report.bounds += [
        common.Bound(f"one of each: CPU × {UPSTREAM}", cpu_ratio(results, OURS, UPSTREAM), 1.25),
        common.Bound(f"one of each, sending: CPU × {UPSTREAM}", cpu_ratio(results, f"{OURS}, sending", UPSTREAM), 1.25),
        common.Bound(f"one of each: RSS × {UPSTREAM}", rss_ratio(results, OURS, UPSTREAM), 1.4),
    ]
    starts = rounds + 1  # with the warm-up
    for name, counts in ((UPSTREAM, got), (OURS, kept_counts)):
        for kind in ("spans", "logs", "metrics"):
            arrived = f"{name}: {kind} of {starts} starts that arrived"
            report.bounds.append(common.Bound(arrived, counts[kind], starts, at_least=True))


def measured(
    variants: Mapping[str, tuple[Path, Mapping[str, str]]], program: Sequence[str], rounds: int, work: Path
) -> dict[str, list[common.Usage]]:
    """Start ``program`` in every variant, interleaved."""
    calls: dict[str, Callable[[], common.Usage]] = {
        name: functools.partial(start, folder, program, work, env) for name, (folder, env) in variants.items()
    }
    return common.interleaved(calls, rounds, warm_up=True)


def main() -> int:
    """Run both tables."""
    options = common.arguments(__doc__, rounds=40).parse_args()
    report = common.Report()
    with tempfile.TemporaryDirectory(prefix="otel-perf-bench-") as work:
        plain(report, options.rounds, Path(work))
        used(report, options.rounds, Path(work))
    return report.finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
