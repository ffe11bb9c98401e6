"""The report as text for a terminal."""

from __future__ import annotations

import textwrap
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_perf.analysis.bottlenecks import Bottleneck
    from otel_perf.analysis.summary import Report

WIDTH: Final = 110  # of sentences


def seconds(value: float) -> str:
    """A duration with three significant digits and a fitting unit."""
    if value >= 100:
        return f"{value:.0f} s"
    if value >= 1:
        return f"{value:.2f} s"
    if value >= 1e-3:
        return f"{value * 1e3:.3g} ms"
    if value >= 1e-6:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1e9:.0f} ns"


def size(value: float) -> str:
    """Bytes in decimal units."""
    sign = "-" if value < 0 else ""
    value = abs(value)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{sign}{value:.0f} {unit}" if unit == "B" else f"{sign}{value:.1f} {unit}"
        value /= 1000
    return f"{sign}{value:.1f} GB"


def counted(number: int, thing: str) -> str:
    """``1 span``, ``2 spans``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Aligned columns, numbers to the right; the columns in ``left`` are text."""
    cells = [list(headings), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def clip(value: str, width: int) -> str:
    """``value`` on one line of at most ``width`` characters."""
    line = " ".join(value.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def clip_left(value: str, width: int) -> str:
    """The end of ``value``, where a path is telling."""
    return value if len(value) <= width else "…" + value[1 - width :]


def render(report: Report, *, asked: str = "") -> str:
    """The whole report; ``asked`` are the options that chose a part of the store."""
    from otel_perf.cli import readiness  # which uses the tables here

    lines = _heading(report, asked)
    lines += _bottlenecks(report)
    lines += _operations(report)
    lines += _functions(report)
    lines += _traces(report)
    lines += _errors(report)
    lines += _processes(report)
    lines += _caches(report)
    lines += _memory_events(report)
    lines += _requests(report)
    lines += _events(report)
    lines += _summaries(report)
    lines += readiness.render(report.readiness)
    lines += _logs(report)
    lines += _store(report)
    return "\n".join(lines)


def _heading(report: Report, asked: str) -> list[str]:
    if not report.spans and asked:
        return [f"No spans with {asked}; without it you see all that is stored.", ""]
    if not report.spans and report.store.sent_to:
        places = ", ".join(report.store.sent_to)
        return [f"No spans here: they were sent to {places}. OTEL_PERF_STORE_KEEP=on keeps a copy.", ""]
    if not report.spans and report.store.dropped.get("traces"):
        return [f"No spans: {report.store.dropped['traces']:,} were dropped, see OTEL_PERF_STORE_LIMIT.", ""]
    if not report.spans:
        why = "no instrumentor made one (opentelemetry-bootstrap names those that your libraries need)"
        return [f"No spans: {why}, OTEL_TRACES_EXPORTER has them go elsewhere, or the program was killed too soon.", ""]
    first, last = (datetime.fromtimestamp(ns / 1e9) for ns in (report.first_ns, report.last_ns))
    span = seconds((report.last_ns - report.first_ns) / 1e9)
    what = f"{', '.join(report.services)}: {counted(report.traces, 'trace')}, {counted(report.spans, 'span')}"
    return [f"{what}, {first:%Y-%m-%d %H:%M:%S} to {last:%H:%M:%S} ({span})", ""]


def _bottlenecks(report: Report) -> list[str]:
    """A row for each, and beneath it what was seen where it cost the most."""
    found = report.bottlenecks
    if not found:
        return ["Bottlenecks: none", ""]
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
    first, *lines = table(headings, rows, left=text)
    return [
        "Bottlenecks, by what mending them would save",
        first,
        *(line for row, shown in zip(found, lines, strict=True) for line in (shown, *_evidence(row))),
        "",
    ]


def _evidence(found: Bottleneck) -> list[str]:
    """Its sentence; paths stay whole, so that they can be copied."""
    indent = " " * 6
    lines = textwrap.wrap(
        found.evidence, WIDTH, initial_indent=indent, subsequent_indent=indent,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    if len(found.culprits) > 1:
        lines.append(indent + clip(f"also here: {'; '.join(found.culprits[1:])}", WIDTH - len(indent)))
    return lines


def _operations(report: Report) -> list[str]:
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
    return ["Slowest operations, by their own time", *table(headings, rows, left=(0, 1, 8)), ""]


def _functions(report: Report) -> list[str]:
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
    return ["Functions, by their own time", *table(headings, rows), ""]


def _traces(report: Report) -> list[str]:
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
    return ["Slowest traces", *table(headings, rows, left=(0, 5)), ""]


def _errors(report: Report) -> list[str]:
    if not report.errors:
        return ["Errors: none", ""]
    rows = [
        [
            clip(group.type, 32),
            clip_left(group.place, 48) or clip(group.source, 40),
            f"{group.count:,}",
            clip(group.message, 60),
        ]
        for group in report.errors
    ]
    return ["Errors", *table(["TYPE", "WHERE", "TIMES", "LAST MESSAGE"], rows, left=(0, 1, 3)), ""]


def _processes(report: Report) -> list[str]:
    if not report.processes:
        return []
    rows = [
        [
            clip(process.service, 32),
            process.instance[:8],
            size(process.rss),
            size(process.rss_peak),
            size(process.rss_growth),
            seconds(process.cpu),
            str(process.threads),
            f"{process.gc_collections:,}",
        ]
        for process in report.processes
    ]
    headings = ["PROCESS", "INSTANCE", "MEMORY", "PEAK", "GREW", "CPU", "THREADS", "GC RUNS"]
    return ["Memory", *table(headings, rows, left=(0, 1)), ""]


def _caches(report: Report) -> list[str]:
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
    return ["Caches, by their misses", *table(headings, rows, left=(0,)), ""]


def _memory_events(report: Report) -> list[str]:
    if not report.memory:
        return []
    lines = []
    for event in report.memory:
        times = f" ({event.count:,} of them)" if event.count > 1 else ""
        lines.append(f"  {event.event}{times}: {event.last}")
    return ["Memory events, the last of each kind", *lines, ""]


def _requests(report: Report) -> list[str]:
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
            f"{row.db_calls / row.count:.3g}",
            seconds(row.db_time / row.count),
            f"{row.http_calls / row.count:.3g}",
            seconds(row.http_time / row.count),
            f"{row.lines / row.count:.3g}",
            row.longest_trace,
        ]
        for row in report.requests
    ]
    headings = ["REQUEST", "COUNT", "FAILED", "P50", "P99", "LONGEST", "DB CALLS", "DB TIME", "HTTP CALLS", "HTTP TIME"]
    headings += ["LINES", "LONGEST TRACE"]
    return ["Requests, by their time; calls and lines of one on average", *table(headings, rows, left=(0, 11)), ""]


def _events(report: Report) -> list[str]:
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
    return ["Business events", *table(headings, rows, left=(0, 1, 5, 6)), ""]


def _summaries(report: Report) -> list[str]:
    if not report.summaries:
        return []
    lines = []
    for row in report.summaries:
        start = f"  {row.service} {row.instance[:8]}, {datetime.fromtimestamp(row.time_ns / 1e9):%H:%M:%S}: "
        lines += textwrap.wrap(row.text, WIDTH, initial_indent=start, subsequent_indent="    ")
    return ["The last summary of each process", *lines, ""]


def _logs(report: Report) -> list[str]:
    logs = report.logs
    if not logs.records:
        return []
    kinds = ", ".join(f"{count:,} {name}" for name, count in sorted(logs.by_severity.items()))
    dropped = ", ".join(f"{count:,} by {reason}" for reason, count in logs.dropped.items())
    lines = [f"Logs: {logs.records:,} records ({kinds}), {logs.with_trace:,} of them in a trace"]
    if dropped:
        lines.append(f"  not among them: {dropped}")
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
        headings = ["LOG LINES", "SEVERITY", "LOGGER", "TIMES", "FOLDED", "LAST", "IN TRACE"]
        lines += table(headings, rows, left=(0, 1, 2, 5, 6))
    return [*lines, ""]


def _store(report: Report) -> list[str]:
    store = report.store
    dropped = {signal: items for signal, items in store.dropped.items() if items}
    lost = "".join(f", {items:,} {signal} dropped at the size limit" for signal, items in dropped.items())
    return [f"Store: {store.path}, {size(store.size)}{lost}"]
