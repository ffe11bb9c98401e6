"""``otel-perf report --compare``: what got slower between two runs or releases, by how much, and how surely."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from otel_perf.analysis.changes import LEAST, Comparison, compare, new_bottlenecks
from otel_perf.analysis.sides import Side, open_side, seen_side
from otel_perf.analysis.significance import FEWEST
from otel_perf.cli import BAD, GOOD, USAGE, options, text
from otel_perf.core.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_perf.analysis.changes import Change

FAIL_OVER: Final = 0.10
_HEADINGS: Final = ("OPERATION", "KIND", "MEASURE", "WAS", "IS", "CHANGE", "SURELY OVER", "OWN", "SPANS")
_TITLES: Final = {
    "slower": "Slower",
    "faster": "Faster",
    "unsure": "Changed, but perhaps by chance",
    "new": "New operations",
    "gone": "Operations that are gone",
}


def share(text: str) -> float:
    """An ``argparse`` type: ``20%`` or ``0.2``."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a share; use one like 20%")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Print the comparison; 1 if something got slower by more than ``--fail-over``, 2 if a side cannot be read."""
    try:
        base = open_side(arguments.compare, lambda: options.open_store(arguments), arguments.service)
        seen = seen_side(
            options.open_store(arguments), arguments.compare, arguments.service, options.since_ns(arguments)
        )
    except SettingError as error:
        print(f"otel-perf report: {error}", file=sys.stderr)
        return USAGE
    for side in (base, seen):
        if not side.samples.spans:
            print(f"otel-perf report: no spans in {side.name}: nothing can be compared", file=sys.stderr)
            return USAGE
    comparison = compared(base, seen, arguments.fail_over)
    print(comparison.model_dump_json(indent=2) if arguments.json else render(comparison, top=arguments.top))
    return BAD if comparison.regressions else GOOD


def compared(base: Side, seen: Side, fail_over: float = FAIL_OVER) -> Comparison:
    """The two sides compared."""
    changes = compare(base.samples, seen.samples)
    return Comparison(
        base=base.name, seen=seen.name,
        base_runs=len(base.samples.runs), seen_runs=len(seen.samples.runs),
        base_units=sum(run.periods for run in base.samples.runs),
        seen_units=sum(run.periods for run in seen.samples.runs),
        base_spans=base.samples.spans, seen_spans=seen.samples.spans,
        compared=sum(change.verdict not in {"new", "gone"} for change in changes),
        fail_over=fail_over,
        regressions=sum(change.verdict == "slower" and change.change > fail_over for change in changes),
        changes=changes, new_bottlenecks=new_bottlenecks(base.bottlenecks, seen.bottlenecks),
    )  # fmt: skip


def render(comparison: Comparison, *, top: int) -> str:
    """The comparison as text for a terminal."""
    lines = [
        f"{comparison.seen}: {_held(comparison.seen_runs, comparison.seen_spans)}",
        f"against {comparison.base}: {_held(comparison.base_runs, comparison.base_spans)}",
        "",
    ]
    by_verdict = {verdict: [c for c in comparison.changes if c.verdict == verdict] for verdict in (*_TITLES, "same")}
    several = len({change.service for change in comparison.changes}) > 1
    for verdict, title in _TITLES.items():
        if by_verdict[verdict]:
            rows = [_row(change, several=several) for change in by_verdict[verdict][:top]]
            lines += [title, *text.table(_HEADINGS, rows, left=(0, 1, 2)), ""]
    if comparison.new_bottlenecks:
        rows = [
            [found.kind, text.clip(found.service, 32), text.seconds(found.cost), text.clip_left(found.where, 60)]
            for found in comparison.new_bottlenecks[:top]
        ]
        headings = ["KIND", "SERVICE", "SAVES", "WHERE"]
        lines += ["Bottlenecks that were not there before", *text.table(headings, rows, left=(0, 1, 3)), ""]
    return "\n".join([*lines, *_verdict(comparison, len(by_verdict["slower"]))])


def _held(runs: int, spans: int) -> str:
    return f"{text.counted(runs, 'run')}, {text.counted(spans, 'span')}"


def _row(change: Change, *, several: bool) -> list[str]:
    name = f"{change.service}: {change.name}" if several else change.name
    both = change.verdict in {"slower", "faster", "unsure"}
    errors = (
        f", errors {change.base_errors:,} → {change.seen_errors:,}" if change.seen_errors > change.base_errors else ""
    )
    return [
        text.clip(name, 60),
        change.kind.lower(),
        change.measure,
        text.seconds(change.base) if change.base_spans else "",
        text.seconds(change.seen) if change.seen_spans else "",
        f"{change.change:+.0%}" if both else "",
        f"{change.surely:+.0%}" if both and change.verdict != "unsure" and change.surely is not None else "",
        f"{change.own:.0%}" if both else "",
        f"{change.base_spans:,} → {change.seen_spans:,}{errors}",
    ]


def _verdict(comparison: Comparison, slower: int) -> Sequence[str]:
    what = text.counted(comparison.compared, "operation")
    if not comparison.judged:
        return [
            f"{what} compared. Nothing is sure with fewer than {FEWEST} runs on each side, since one run differs from",
            "the next: run the program again with the same --home. Runs of minutes count as several.",
        ]
    said = f"{what} compared: {slower or 'none'} surely slower by more than {LEAST:.0%}"
    return [f"{said}, {comparison.regressions or 'none'} by more than {comparison.fail_over:.0%} (--fail-over)."]
