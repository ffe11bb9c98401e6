"""``otel-perf analyze``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from otel_perf.analysis import otlp
from otel_perf.analysis.ranking import Profile, Ranking, by_trace, rank
from otel_perf.analysis.sources import UNKNOWN_SERVICE, Skipped, Span, read
from otel_perf.cli import BAD, GOOD, USAGE, options, progress, text
from otel_perf.core.errors import SettingError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="FILE",
        help="OTLP JSON lines, Jaeger JSON, or CSV, also .gz and .xz (default: the store)",
    )  # fmt: skip
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="traces of the same services without the fault")
    options.add_store(parser)
    parser.add_argument("--top", type=options.rows, default=10, help="rows of each list (default 10)")
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the ranking; 1 if there are no spans to rank, 2 if a file cannot be used."""
    skipped: dict[Path, Skipped] = {}
    try:
        if arguments.files and (arguments.home or arguments.since is not None):
            raise SettingError("--home and --since choose from the store; leave them out, or the files")
        seen = Profile(by_trace(_files(arguments.files, skipped) if arguments.files else _stored(arguments)))
        baseline = Profile(by_trace(_files([arguments.baseline], skipped))) if arguments.baseline else None
    except SettingError as error:
        print(f"otel-perf analyze: {error}", file=sys.stderr)
        return USAGE
    for path, lines in skipped.items():
        if lines.count:
            print(f"otel-perf analyze: {path}: skipped {lines.count:,}, the first {lines.first}", file=sys.stderr)
    for profile, where in ((seen, arguments.files or "the store"), (baseline, arguments.baseline)):
        if profile is not None and not profile.spans:
            names = ", ".join(map(str, where)) if isinstance(where, list) else where
            print(f"otel-perf analyze: no spans in {names}", file=sys.stderr)
            return BAD
    ranking = rank(seen, baseline, top=arguments.top)
    ranking.skipped = {str(path): lines.count for path, lines in skipped.items() if lines.count}
    print(ranking.model_dump_json(indent=2) if arguments.json else render(ranking))
    return GOOD


def _files(paths: Sequence[Path], skipped: dict[Path, Skipped]) -> Iterator[Span]:
    for path in paths:
        yield from progress.watched(read(path, skipped.setdefault(path, Skipped())), f"{path.name}: spans read")


def _stored(arguments: argparse.Namespace) -> Iterator[Span]:
    store = options.open_store(arguments)
    try:
        stored = otlp.spans(store.batches(["traces"], since_ns=options.since_ns(arguments)))
        for span in progress.watched(stored, "spans read"):
            service = str(span.resource.get("service.name", UNKNOWN_SERVICE))
            yield Span(span.trace_id, span.span_id, span.parent_id, service, span.name, span.start, span.end)
    finally:
        store.close()


def render(ranking: Ranking) -> str:
    """The ranking as text for a terminal."""
    lines = [f"{text.counted(ranking.traces, 'trace')}, {text.counted(ranking.spans, 'span')}"]
    compared = bool(ranking.baseline_traces)
    if compared:
        traces, spans = text.counted(ranking.baseline_traces, "trace"), text.counted(ranking.baseline_spans, "span")
        lines[0] += f"; the baseline has {traces}, {spans}"
    if ranking.unknown:
        lines.append(f"Not judged, since the baseline does not have them: {ranking.unknown:,} operations")
    if not ranking.services:
        return "\n".join([*lines, "", "Nothing on the critical paths takes longer than in the baseline"])
    by = "what they cost a trace above the baseline" if compared else "their own time on the critical paths"
    lines += ["", f"Services, by {by}", *_services(ranking, compared=compared)]
    lines += ["", f"Operations, by {by}", *_operations(ranking, compared=compared)]
    return "\n".join(lines)


def _services(ranking: Ranking, *, compared: bool) -> list[str]:
    rows = [
        [
            text.clip(row.service, 48),
            *([text.seconds(row.score)] if compared else []),
            text.seconds(row.self_time),
            f"{row.traces:,}",
        ]
        for row in ranking.services
    ]
    return text.table(["SERVICE", *(["COSTS"] if compared else []), "SELF", "TRACES"], rows)


def _operations(ranking: Ranking, *, compared: bool) -> list[str]:
    rows = [
        [
            text.clip(row.service, 32),
            text.clip(f"{row.name} → {row.callee}" if row.callee else row.name, 64),
            *([text.clip(row.culprit, 32), text.seconds(row.score)] if compared else []),
            *([text.seconds(row.usual), f"{row.above:.0%}"] if compared else []),
            text.seconds(row.self_time),
            f"{row.visits:,}",
            text.seconds(row.slowest),
            row.slowest_trace,
        ]
        for row in ranking.operations
    ]
    judged = ["COUNTS FOR", "COSTS", "BASELINE P95", "ABOVE"] if compared else []
    headings = ["SERVICE", "OPERATION", *judged, "SELF", "VISITS", "SLOWEST", "IN TRACE"]
    return text.table(headings, rows, left=(0, 1, *([2] if compared else []), len(headings) - 1))
