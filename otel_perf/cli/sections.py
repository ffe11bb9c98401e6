"""What the report shows, part by part, for whatever shows it: a terminal or a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from otel_perf.cli.text import WIDTH, clip, clip_left, counted, printable, seconds, size
from otel_perf.core.numerals import digits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_perf.analysis.bottlenecks import Bottleneck
    from otel_perf.analysis.summary import Report


@dataclass(slots=True)
class Section:
    """A title and a table; the columns in ``left`` are text, sentences are ``beneath`` some rows and ``after`` all."""

    title: str
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    left: Sequence[int] = (0,)
    beneath: dict[int, list[str]] = field(default_factory=dict)
    after: list[str] = field(default_factory=list)


def of(report: Report, asked: str) -> list[Section]:
    """Every part that there is something in; ``asked`` are the options that chose a part of the store."""
    from otel_perf.cli import readiness

    parts = [
        *_heading(report, asked), *_bottlenecks(report), *_operations(report), *_functions(report), *_traces(report),
        *_errors(report), *_processes(report), *_caches(report), *_memory_events(report), *_requests(report),
        *_events(report), *_summaries(report), *readiness.sections(report.readiness), *_logs(report), *_store(report),
    ]  # fmt: skip
    return [_shown(part) for part in parts]


def _shown(part: Section) -> Section:
    """Without what a terminal would obey: names and messages are the program's, or its users'."""
    return Section(
        printable(part.title), part.headings, [[printable(cell) for cell in row] for row in part.rows], part.left,
        {number: [printable(line) for line in lines] for number, lines in part.beneath.items()},
        [printable(line) for line in part.after],
    )  # fmt: skip


def _heading(report: Report, asked: str) -> list[Section]:
    if not report.spans and asked:
        return [Section(f"No spans with {asked}; without it you see all that is stored.")]
    if not report.spans and report.store.sent_to:
        places = ", ".join(report.store.sent_to)
        return [Section(f"No spans here: they were sent to {places}. OTEL_PERF_STORE_KEEP=on keeps a copy.")]
    if not report.spans and report.store.dropped.get("traces"):
        return [Section(f"No spans: {report.store.dropped['traces']:,} were dropped, see OTEL_PERF_STORE_LIMIT.")]
    if not report.spans:
        why = "no instrumentor made one (opentelemetry-bootstrap names those that your libraries need)"
        return [
            Section(f"No spans: {why}, OTEL_TRACES_EXPORTER has them go elsewhere, or the program was killed too soon.")
        ]
    first, last = (datetime.fromtimestamp(ns / 1e9) for ns in (report.first_ns, report.last_ns))
    span = seconds((report.last_ns - report.first_ns) / 1e9)
    what = f"{', '.join(report.services)}: {counted(report.traces, 'trace')}, {counted(report.spans, 'span')}"
    return [Section(f"{what}, {first:%Y-%m-%d %H:%M:%S} to {last:%H:%M:%S} ({span})")]


def _bottlenecks(report: Report) -> list[Section]:
    """A row for each, and beneath it what was seen where it cost the most."""
    found = report.bottlenecks
    if not found:
        return [Section("Bottlenecks: none")]
    several = len(report.services) > 1
    rows = [
        [
            row.kind,
            *([clip(row.service, 32)] if several else []),
            f"{row.traces:,}",
            seconds(row.cost),
            seconds(row.worst),
            row.trace_id,
            clip_left(row.where, 40) if row.path else clip(row.where, 40),
        ]
        for row in found
    ]
    headings = ["KIND", *(["SERVICE"] if several else []), "TRACES", "SAVES", "WORST", "IN TRACE", "WHERE"]
    text = (0, *([1] if several else []), len(headings) - 2, len(headings) - 1)
    beneath = {number: _evidence(row) for number, row in enumerate(found)}
    return [Section("Bottlenecks, by what mending them would save", headings, rows, text, beneath)]


def _evidence(found: Bottleneck) -> list[str]:
    lines = [found.evidence]
    if len(found.culprits) > 1:
        lines.append(clip(f"also here: {'; '.join(found.culprits[1:])}", WIDTH - 6))
    return lines


def _operations(report: Report) -> list[Section]:
    if not report.operations:
        return []
    rows = [
        [
            clip(operation.name, 48),
            operation.kind.lower(),
            f"{operation.count:,}",
            str(operation.errors or ""),
            seconds(operation.self_time),
            seconds(operation.p50),
            seconds(operation.p99),
            seconds(operation.slowest),
            operation.slowest_trace,
        ]
        for operation in report.operations
    ]
    headings = ["OPERATION", "KIND", "CALLS", "ERRORS", "SELF", "P50", "P99", "SLOWEST", "IN TRACE"]
    return [Section("Slowest operations, by their own time", headings, rows, (0, 1, 8))]


def _functions(report: Report) -> list[Section]:
    if not report.functions:
        return []
    rows = [
        [
            clip(function.name, 60),
            f"{function.calls:,}",
            f"{function.errors:,}" if function.errors else "",
            seconds(function.total),
            seconds(function.self_time),
            seconds(function.p50) if function.p50 else "",
            seconds(function.p99) if function.p99 else "",
        ]
        for function in report.functions
    ]
    headings = ["FUNCTION", "CALLS", "ERRORS", "TOTAL", "SELF", "P50", "P99"]
    return [Section("Functions, by their own time", headings, rows)]


def _traces(report: Report) -> list[Section]:
    rows = [
        [
            clip(trace.root, 48),
            seconds(trace.duration),
            str(trace.spans),
            str(trace.errors or ""),
            str(trace.logs),
            trace.trace_id,
        ]
        for trace in report.slowest_traces
    ]
    if not rows:
        return []
    headings = ["TRACE", "TOOK", "SPANS", "ERRORS", "LOGS", "TRACE ID"]
    return [Section("Slowest traces", headings, rows, (0, 5))]


def _errors(report: Report) -> list[Section]:
    if not report.errors:
        return [Section("Errors: none")]
    rows = [
        [
            clip(group.type, 32),
            clip_left(group.place, 48) or clip(group.source, 40),
            f"{group.count:,}",
            clip(group.message, 60),
        ]
        for group in report.errors
    ]
    return [Section("Errors", ["TYPE", "WHERE", "TIMES", "LAST MESSAGE"], rows, (0, 1, 3))]


def _processes(report: Report) -> list[Section]:
    if not report.processes:
        return []
    rows = [
        [
            clip(process.service, 32),
            process.instance[:8],
            size(process.rss),
            size(process.rss_peak),
            "" if process.rss_growth is None else size(process.rss_growth),
            seconds(process.cpu),
            str(process.threads),
            f"{process.gc_collections:,}",
        ]
        for process in report.processes
    ]
    headings = ["PROCESS", "INSTANCE", "MEMORY", "PEAK", "GREW", "CPU", "THREADS", "GC RUNS"]
    return [Section("Memory", headings, rows, (0, 1))]


def _caches(report: Report) -> list[Section]:
    if not report.caches:
        return []
    rows = [
        [
            clip_left(cache.name, 48),
            f"{cache.hits / cache.looked_up:.1%}" if cache.looked_up else "unused",
            f"{cache.hits:,}",
            f"{cache.misses:,}",
            *("" if number is None else f"{number:,}" for number in (cache.evictions, cache.size, cache.limit)),
        ]
        for cache in report.caches
    ]
    headings = ["CACHE", "HIT RATIO", "HITS", "MISSES", "EVICTED", "SIZE", "LIMIT"]
    return [Section("Caches, by their misses", headings, rows, (0,))]


def _memory_events(report: Report) -> list[Section]:
    if not report.memory:
        return []
    lines = []
    for event in report.memory:
        times = f" ({event.count:,} of them)" if event.count > 1 else ""
        lines.append(f"{event.event}{times}: {event.last}")
    return [Section("Memory events, the last of each kind", after=lines)]


def _requests(report: Report) -> list[Section]:
    """Per request: calls to databases and over HTTP, and their time, CPU where it is known, log lines."""
    if not report.requests:
        return []
    rows = [
        [
            clip(row.name, 40),
            f"{row.count:,}",
            f"{row.failed:,}",
            seconds(row.p50),
            seconds(row.p99),
            seconds(row.longest),
            digits(row.db_calls / row.count),
            seconds(row.db_time / row.count),
            digits(row.http_calls / row.count),
            seconds(row.http_time / row.count),
            digits(row.lines / row.count),
            row.longest_trace,
        ]
        for row in report.requests
    ]
    headings = ["REQUEST", "COUNT", "FAILED", "P50", "P99", "LONGEST", "DB CALLS", "DB TIME", "HTTP CALLS", "HTTP TIME"]
    headings += ["LINES", "LONGEST TRACE"]
    return [Section("Requests, by their time; calls and lines of one on average", headings, rows, (0, 11))]


def _events(report: Report) -> list[Section]:
    if not report.events:
        return []
    rows = [
        [
            clip(row.name, 48),
            clip(row.service, 32),
            f"{row.count:,}",
            f"{row.traces:,}",
            f"{row.invalid:,}",
            f"{datetime.fromtimestamp(row.last_ns / 1e9):%Y-%m-%d %H:%M:%S}",
            clip(row.reason, 60),
        ]
        for row in report.events
    ]
    headings = ["EVENT", "SERVICE", "TIMES", "TRACES", "INVALID", "LAST", "WHY INVALID"]
    return [Section("Business events", headings, rows, (0, 1, 5, 6))]


def _summaries(report: Report) -> list[Section]:
    if not report.summaries:
        return []
    lines = []
    for row in report.summaries:
        start = f"{row.service} {row.instance[:8]}, {datetime.fromtimestamp(row.time_ns / 1e9):%H:%M:%S}: "
        lines.append(f"{start}{row.text}")
    return [Section("The last summary of each process", after=lines)]


def _logs(report: Report) -> list[Section]:
    logs = report.logs
    if not logs.records:
        return []
    kinds = ", ".join(f"{count:,} {name}" for name, count in sorted(logs.by_severity.items()))
    dropped = ", ".join(f"{count:,} by {reason}" for reason, count in logs.dropped.items())
    section = Section(f"Logs: {logs.records:,} records ({kinds}), {logs.with_trace:,} of them in a trace")
    if dropped:
        section.after.append(f"not among them: {dropped}")
    if logs.patterns:
        rows = [
            [
                clip(row.template, 70),
                clip(row.severity, 12),
                clip_left(row.logger, 32),
                f"{row.count:,}",
                f"{row.folded:,}" if row.folded else "",
                f"{datetime.fromtimestamp(row.last_ns / 1e9):%H:%M:%S}",
                row.trace_id,
            ]
            for row in logs.patterns
        ]
        section.rows, section.left = rows, (0, 1, 2, 5, 6)
        section.headings = ["LOG LINES", "SEVERITY", "LOGGER", "TIMES", "FOLDED", "LAST", "IN TRACE"]
    return [section]


def _store(report: Report) -> list[Section]:
    store = report.store
    dropped = {signal: items for signal, items in store.dropped.items() if items}
    lost = "".join(f", {items:,} {signal} dropped at the size limit" for signal, items in dropped.items())
    return [Section(f"Store: {store.path}, {size(store.size)}{lost}")]
