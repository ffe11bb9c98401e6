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

    from otel_perf.analysis.changes import Change, FunctionChange, Judged, MemoryChange

FAIL_OVER: Final = 0.10
_HEADINGS: Final = ("OPERATION", "KIND", "MEASURE", "WAS", "IS", "CHANGE", "SURELY OVER", "OWN", "SPANS")
_TITLES: Final = {
    "slower": "Slower",
    "faster": "Faster",
    "unsure": "Changed, but perhaps by chance",
    "new": "New operations",
    "gone": "Operations that are gone",
}
_OF_FUNCTIONS: Final = ("FUNCTION", "MEASURE", "WAS", "IS", "CHANGE", "SURELY OVER", "OWN", "CALLS")
_FUNCTION_TITLES: Final = {
    "slower": "Slower functions",
    "faster": "Faster functions",
    "unsure": "Functions that changed, but perhaps by chance",
    "new": "New functions",
    "gone": "Functions that are gone",
}
_OF_MEMORY: Final = ("SERVICE", "MEASURE", "WAS", "IS", "CHANGE", "SURELY OVER", "RUNS")
_MEMORY_TITLES: Final = {
    "more": "More memory",
    "less": "Less memory",
    "unsure": "Memory that changed, but perhaps by chance",
}
_BOTH: Final = {"slower", "faster", "more", "less", "unsure"}


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
        if not side.samples.runs:
            what = "no span, function or memory"
            print(f"otel-perf report: {what} in {side.name}: nothing can be compared", file=sys.stderr)
            return USAGE
    comparison = compared(base, seen, arguments.fail_over)
    print(comparison.model_dump_json(indent=2) if arguments.json else render(comparison, top=arguments.top))
    return BAD if comparison.regressions else GOOD


def compared(base: Side, seen: Side, fail_over: float = FAIL_OVER) -> Comparison:
    """The two sides compared."""
    found = compare(base.samples, seen.samples)
    every: list[Judged] = [*found.operations, *found.functions, *found.memory]
    return Comparison(
        base=base.name, seen=seen.name,
        base_runs=len(base.samples.runs), seen_runs=len(seen.samples.runs),
        base_units=sum(run.periods for run in base.samples.runs),
        seen_units=sum(run.periods for run in seen.samples.runs),
        base_spans=base.samples.spans, seen_spans=seen.samples.spans,
        compared=sum(change.verdict not in {"new", "gone"} for change in found.operations),
        fail_over=fail_over,
        regressions=sum(change.verdict in {"slower", "more"} and change.change > fail_over for change in every),
        changes=found.operations, functions=found.functions, functions_left=found.functions_left, memory=found.memory,
        new_bottlenecks=new_bottlenecks(base.bottlenecks, seen.bottlenecks),
    )  # fmt: skip


def render(comparison: Comparison, *, top: int) -> str:
    """The comparison as text for a terminal."""
    lines = [
        f"{comparison.seen}: {_held(comparison.seen_runs, comparison.seen_spans)}",
        f"against {comparison.base}: {_held(comparison.base_runs, comparison.base_spans)}",
        "",
    ]
    several = len({change.service for change in (*comparison.changes, *comparison.functions)}) > 1
    for verdict, title in _TITLES.items():
        rows = [_row(change, several=several) for change in comparison.changes if change.verdict == verdict]
        lines += _part(title, _HEADINGS, rows[:top], left=(0, 1, 2))
    for verdict, title in _FUNCTION_TITLES.items():
        rows = [_function(change, several=several) for change in comparison.functions if change.verdict == verdict]
        lines += _part(title, _OF_FUNCTIONS, rows[:top], left=(0, 1))
    for verdict, title in _MEMORY_TITLES.items():
        rows = [_memory(change) for change in comparison.memory if change.verdict == verdict]
        lines += _part(title, _OF_MEMORY, rows[:top], left=(0, 1))
    if comparison.new_bottlenecks:
        rows = [
            [found.kind, text.clip(found.service, 32), text.seconds(found.cost), text.clip_left(found.where, 60)]
            for found in comparison.new_bottlenecks[:top]
        ]
        headings = ["KIND", "SERVICE", "SAVES", "WHERE"]
        lines += ["Bottlenecks that were not there before", *text.table(headings, rows, left=(0, 1, 3)), ""]
    return "\n".join([*lines, *_verdict(comparison)])


def _part(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    return [title, *text.table(headings, rows, left=left), ""] if rows else []


def _held(runs: int, spans: int) -> str:
    return f"{text.counted(runs, 'run')}, {text.counted(spans, 'span')}"


def _row(change: Change, *, several: bool) -> list[str]:
    name = f"{change.service}: {change.name}" if several else change.name
    errors = (
        f", errors {change.base_errors:,} → {change.seen_errors:,}" if change.seen_errors > change.base_errors else ""
    )
    return [
        text.clip(name, 60),
        change.kind.lower(),
        change.measure,
        text.seconds(change.base) if change.base_spans else "",
        text.seconds(change.seen) if change.seen_spans else "",
        *_changed(change),
        f"{change.own:.0%}" if change.verdict in _BOTH else "",
        f"{change.base_spans:,} → {change.seen_spans:,}{errors}",
    ]


def _changed(change: Judged) -> list[str]:
    """By how much, and how much of it is sure."""
    both = change.verdict in _BOTH
    return [
        f"{change.change:+.0%}" if both else "",
        f"{change.surely:+.0%}" if both and change.surely is not None else "",
    ]


def _function(change: FunctionChange, *, several: bool) -> list[str]:
    return [
        text.clip(f"{change.service}: {change.name}" if several else change.name, 60),
        change.measure,
        text.seconds(change.base) if change.base_calls else "",
        text.seconds(change.seen) if change.seen_calls else "",
        *_changed(change),
        f"{change.own:.0%}" if change.verdict in _BOTH else "",
        f"{change.base_calls:,} → {change.seen_calls:,}",
    ]


def _memory(change: MemoryChange) -> list[str]:
    return [
        text.clip(change.service, 60),
        change.measure,
        text.size(change.base),
        text.size(change.seen),
        *_changed(change),
        f"{change.base_runs:,} → {change.seen_runs:,}",
    ]


def _verdict(comparison: Comparison) -> Sequence[str]:
    what = _compared(comparison)
    left = comparison.functions_left
    more = [f"Not compared: {text.counted(left, 'function')} with less time of their own."] if left else []
    if not comparison.judged:
        return [
            f"{what} compared. Nothing is sure with fewer than {FEWEST} runs on each side, since one run differs from",
            "the next: run the program again with the same --home. Runs of minutes count as several.",
        ]
    every: list[Judged] = [*comparison.changes, *comparison.functions]
    slower = sum(change.verdict == "slower" for change in every)
    larger = sum(change.verdict == "more" for change in comparison.memory)
    said = f"{what} compared: {slower or 'none'} surely slower by more than {LEAST:.0%}"
    said += f", {larger} with surely more memory" if larger else ""
    return [f"{said}, {comparison.regressions or 'none'} by more than {comparison.fail_over:.0%} (--fail-over).", *more]


def _compared(comparison: Comparison) -> str:
    """``7 operations, 2 functions and the memory of 1 service``."""
    functions = sum(change.verdict not in {"new", "gone"} for change in comparison.functions)
    parts = [text.counted(comparison.compared, "operation")] if comparison.compared else []
    parts += [text.counted(functions, "function")] if functions else []
    parts += [f"the memory of {text.counted(len(comparison.memory), 'service')}"] if comparison.memory else []
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "Nothing"
