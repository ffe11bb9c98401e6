"""``otel-perf report --compare``: what got slower between two runs or releases, by how much, and how surely."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from otel_perf.analysis.changes import FAIL_OVER, LEAST, Comparison, compare, new_bottlenecks
from otel_perf.analysis.failures import LEAST_FAILED
from otel_perf.analysis.sides import NAMED, Side, open_sides
from otel_perf.analysis.significance import FEWEST
from otel_perf.cli import BAD, GOOD, USAGE, options, text
from otel_perf.core.errors import OtelPerfError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_perf.analysis.changes import Change, FunctionChange, Judged, MemoryChange
    from otel_perf.analysis.failures import FailureChange

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
_OF_FAILURES: Final = ("FAILS", "KIND", "WAS", "IS", "SURELY OVER", "FAILED OF")
_FAILURE_TITLES: Final = {
    "more": "Fail more often",
    "less": "Fail less often",
    "unsure": "Fail more or less often, but perhaps by chance",
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
    """Print the comparison; 1 for a regression, 2 where nothing could be judged, which is never as good as none."""
    try:
        base, seen = open_sides(
            arguments.compare, lambda: options.open_store(arguments), arguments.service, options.since_ns(arguments)
        )
    except (OtelPerfError, OSError) as error:  # 1 would say that something got slower
        return _complain(str(error))
    for side in (base, seen):
        if not side.samples.runs:
            return _complain(f"nothing can be compared: {_nothing(side, arguments)}")
    comparison = compared(base, seen, arguments.fail_over)
    print(comparison.model_dump_json(indent=2) if arguments.json else render(comparison, top=arguments.top))
    if comparison.regressions:
        return BAD
    return GOOD if comparison.judged else _complain(_unjudged(comparison))


def _complain(what: str) -> int:
    print(f"otel-perf report: {what}", file=sys.stderr)
    return USAGE


def _nothing(side: Side, arguments: argparse.Namespace) -> str:
    """Why a side is empty, and what would fill it."""
    if arguments.service and side.held:
        there = ", ".join(sorted(side.held)[:NAMED])
        return f"no span, function or memory of the service {arguments.service} in {side.name}, which has {there}"
    within = " within --since" if arguments.since is not None and side.name != arguments.compare else ""
    return f"no span, function or memory{within} in {side.name}: run the program under otel-perf run first"


def _unjudged(comparison: Comparison) -> str:
    """Why nothing could be judged, and what has to be done."""
    if not comparison.compared:
        return (
            f"nothing could be compared: no operation or function of {', '.join(comparison.seen_services[:NAMED])} is "
            f"on both sides; {comparison.base} has {', '.join(comparison.base_services[:NAMED])}. Compare runs of the "
            "same service that do the same work"
        )
    return (
        f"not sure of anything: that takes {FEWEST} runs on each side (here {comparison.seen_runs} against "
        f"{comparison.base_runs}), since one differs from the next, with 5 spans of an operation that did not fail in "
        "each. One process is one run, however long. Run the program again with the same --home"
    )


def compared(base: Side, seen: Side, fail_over: float = FAIL_OVER) -> Comparison:
    """The two sides compared."""
    fail_over = max(fail_over, LEAST)
    found = compare(base.samples, seen.samples, fail_over)
    return Comparison(
        base=base.name, seen=seen.name,
        base_runs=len(base.samples.runs), seen_runs=len(seen.samples.runs),
        base_services=base.samples.services, seen_services=seen.samples.services,
        base_spans=base.samples.spans, seen_spans=seen.samples.spans,
        compared=len(found.both()), judged=sum(change.judged for change in found.both()),
        fail_over=fail_over, regressions=len(found.regressions()),
        changes=found.operations, functions=found.functions, functions_left=found.functions_left, memory=found.memory,
        failures=found.failures, new_bottlenecks=new_bottlenecks(base.bottlenecks, seen.bottlenecks),
    )  # fmt: skip


def render(comparison: Comparison, *, top: int) -> str:
    """The comparison as text for a terminal."""
    lines = [
        f"{comparison.seen}: {_held(comparison.seen_runs, comparison.seen_services, comparison.seen_spans)}",
        f"against {comparison.base}: {_held(comparison.base_runs, comparison.base_services, comparison.base_spans)}",
        "",
    ]
    several = len({change.service for change in (*comparison.changes, *comparison.functions)}) > 1
    for verdict, title in _TITLES.items():
        rows = [_row(change, several=several) for change in comparison.changes if change.verdict == verdict]
        lines += _part(title, _HEADINGS, rows[:top], left=(0, 1, 2))
    for verdict, title in _FUNCTION_TITLES.items():
        rows = [_function(change, several=several) for change in comparison.functions if change.verdict == verdict]
        lines += _part(title, _OF_FUNCTIONS, rows[:top], left=(0, 1))
    for verdict, title in _FAILURE_TITLES.items():
        rows = [_failure(change, several=several) for change in comparison.failures if change.verdict == verdict]
        lines += _part(title, _OF_FAILURES, rows[:top], left=(0, 1))
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


def _held(runs: int, services: Sequence[str], spans: int) -> str:
    of = f" of {len(services)} services" if len(services) > 1 else ""
    return f"{text.counted(runs, 'run')}{of}, {text.counted(spans, 'span')}"


def _row(change: Change, *, several: bool) -> list[str]:
    name = f"{change.service}: {change.name}" if several else change.name
    errors = (
        f", errors {change.base_errors:,} → {change.seen_errors:,}" if change.seen_errors > change.base_errors else ""
    )
    return [
        text.clip(name, 60),
        change.kind.lower(),
        change.measure,
        text.seconds(change.base) if change.base else "",
        text.seconds(change.seen) if change.seen else "",
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


def _failure(change: FailureChange, *, several: bool) -> list[str]:
    return [
        text.clip(f"{change.service}: {change.name}" if several else change.name, 60),
        change.kind.lower() or change.what,
        f"{change.base:.1%}",
        f"{change.seen:.1%}",
        "" if change.surely is None else f"{change.surely * 100:+.1f} points",
        f"{change.base_failed:,} of {change.base_count:,} → {change.seen_failed:,} of {change.seen_count:,}",
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
    if not comparison.judged and not comparison.regressions:
        return []  # which is complained about
    timed: list[Judged] = [*comparison.changes, *comparison.functions]
    slower = sum(change.verdict == "slower" for change in timed)
    larger = sum(change.verdict == "more" for change in comparison.memory)
    failing = sum(change.verdict == "more" for change in comparison.failures)
    said = f"{_compared(comparison)} compared: {slower or 'none'} surely slower by more than {LEAST:.0%}"
    said += f", {larger} with surely more memory" if larger else ""
    said += f", {failing} that surely fail in {LEAST_FAILED:.0%} more of all cases" if failing else ""
    over = sum(change.regression for change in (*timed, *comparison.memory))
    lines = [f"{said}, {over or 'none'} by more than {comparison.fail_over:.0%} (--fail-over)."]
    if unjudged := comparison.compared - comparison.judged:
        lines.append(
            f"Not judged: {unjudged} with fewer than {FEWEST} runs on each side, with too few spans in them, or the"
            " time of functions of which another share of calls raised."
        )
    left = comparison.functions_left
    return lines + ([f"Not compared: {text.counted(left, 'function')} with less time of their own."] if left else [])


def _compared(comparison: Comparison) -> str:
    """``7 operations, 2 functions and the memory of 1 service``, as far as they could be judged."""
    operations, functions, memory = (
        sum(change.judged for change in changes)
        for changes in (comparison.changes, comparison.functions, comparison.memory)
    )
    parts = [text.counted(operations, "operation")] if operations else []
    parts += [text.counted(functions, "function")] if functions else []
    parts += [f"the memory of {text.counted(memory, 'service')}"] if memory else []
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]])) or "Failures alone"
