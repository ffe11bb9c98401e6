"""What do the logs say, which events happened, and what belongs to one trace?"""

from __future__ import annotations

from typing import Any, Final

from grafana.boards.overview import SERVICE
from grafana.frame import board
from grafana.links import to_board, to_explore
from grafana.panels import (
    CHOSEN,
    LOGS,
    MINUTES,
    SECONDS,
    SPANS,
    Ask,
    gained,
    lines,
    logql,
    number,
    rows,
    states,
    stream,
    traceql,
)

# With nothing in the box it is no line, and not every line without a trace.
OF_TRACE: Final = f'{LOGS} | trace_id!="" | trace_id="${{search}}"'
AUDIT: Final = f'{LOGS} | perf_audit_sequence!=""'
BUSINESS: Final = f'{LOGS} | event_name!="" | event_name!~"perf[.].*|feature_flag[.].*" | perf_audit_sequence=""'
PATTERN: Final = "service_name, perf_log_template, perf_log_logger, perf_log_level"


def rate(metric: str, by: str) -> str:
    """How fast it grows, by labels."""
    return f"sum by ({by}) ({gained(f'{metric}{{{CHOSEN}}}')}) / {SECONDS}"


def total(metric: str) -> str:
    """What came to it, over all."""
    return f"sum({gained(f'{metric}{{{CHOSEN}}}')})"


def make() -> Any:
    """The dashboard."""
    errors = to_explore("Errors", "loki", f"{LOGS} | severity_number >= 17")
    lines_of = to_explore("All lines", "loki", LOGS)
    business = to_explore("Business events", "loki", BUSINESS)
    audit = to_explore("Audit events", "loki", AUDIT)
    trace = to_explore("The trace", "tempo", "${search}")
    failed = to_explore("Failed traces", "tempo", f"{{ {SPANS} && status = error }}")
    summary = [
        number(
            "Lines",
            "Log lines a second that were asked for, kept or not.",
            "short",
            Ask(f"{total('perf_log_patterns_total')} / {SECONDS}"),
            [lines_of],
            width=6,
        ),
        number(
            "Lines with an exception",
            "A minute.",
            "short",
            Ask(f"{total('perf_log_errors_total')} / {MINUTES}"),
            [errors],
            width=6,
            steps=((None, "green"), (0.001, "orange"), (10, "red")),
        ),
        number(
            "Kept back",
            "Share of the lines that a rule kept back.",
            "percentunit",
            Ask(f"({total('perf_log_dropped_total')} or vector(0)) / {total('perf_log_patterns_total')}"),
            [lines_of],
            width=6,
        ),
        number(
            "Business events",
            "A minute.",
            "short",
            Ask(f"{total('perf_events_total')} / {MINUTES}"),
            [business],
            width=6,
        ),
    ]
    patterns = [
        rows(
            "Patterns",
            "What is logged most in the time shown: each template, whatever its values were.",
            "short",
            [
                Ask(
                    f"topk(50, sum by ({PATTERN}) ({gained(f'perf_log_patterns_total{{{CHOSEN}}}', '$__range')}))",
                    at_once=True,
                )
            ],
            [lines_of, errors],
            columns=(("Lines", "short"),),
        ),
        rows(
            "Exceptions",
            "By type and the app's innermost line, in the time shown.",
            "short",
            [
                Ask(
                    "topk(50, sum by (service_name, exception_type, perf_error_place)"
                    f" ({gained(f'perf_log_errors_total{{{CHOSEN}}}', '$__range')}))",
                    at_once=True,
                )
            ],
            [errors, failed],
            columns=(("Lines", "short"),),
        ),
        lines(
            "Lines by level",
            "Log lines a second.",
            "short",
            [Ask(rate("perf_log_patterns_total", "perf_log_level"), "{{perf_log_level}}")],
            [lines_of],
            stacked=True,
            width=8,
        ),
        lines(
            "Exceptions",
            "Lines a second with an exception, by its type.",
            "short",
            [Ask(rate("perf_log_errors_total", "service_name, exception_type"), "{{service_name}} {{exception_type}}")],
            [to_board("Logs and events", SERVICE), errors],
            width=8,
        ),
        lines(
            "Kept back",
            "Lines a second that a rule kept back, by the rule. Errors and audit records never are.",
            "short",
            [
                Ask(
                    rate("perf_log_dropped_total", "service_name, perf_log_reason"),
                    "{{service_name}} {{perf_log_reason}}",
                )
            ],
            [to_board("Logs and events", SERVICE), lines_of],
            width=8,
        ),
    ]
    events = [
        lines(
            "Business events",
            "A second, by name.",
            "short",
            [Ask(rate("perf_events_total", "service_name, event_name"), "{{service_name}} {{event_name}}")],
            [to_board("Logs and events", SERVICE), business],
            stacked=True,
        ),
        lines(
            "Events that are not what was registered",
            "A second, by name: a field is missing or of another type.",
            "short",
            [Ask(rate("perf_events_invalid_total", "service_name, event_name"), "{{service_name}} {{event_name}}")],
            [to_board("Logs and events", SERVICE), business],
        ),
        stream(
            "Business events, one by one",
            "Their fields are in the details of each.",
            logql(BUSINESS),
            [business],
            width=12,
        ),
        stream(
            "Audit",
            "Who did what to what, with its place in the chain; `otel-perf audit verify` proves it.",
            logql(AUDIT),
            [audit],
            width=12,
        ),
        states(
            "Audit events by outcome",
            "Audit events in each interval, by outcome.",
            "short",
            [logql(f"sum by (perf_audit_outcome) (count_over_time({AUDIT} [$__auto]))", "{{perf_audit_outcome}}")],
            [audit],
        ),
        lines(
            "Slow requests, from their wide records",
            "99th percentile of the duration in the records of requests.",
            "s",
            [
                logql(
                    f'quantile_over_time(0.99, {LOGS} | event_name="perf.request"'
                    " | unwrap perf_request_duration [$__auto])"
                    " by (perf_request_name)",
                    "{{perf_request_name}}",
                )
            ],
            [to_explore("Requests", "loki", f'{LOGS} | event_name="perf.request"')],
        ),
    ]
    one = [
        stream(
            "Lines of one trace",
            "Put a trace's id into the box above; a line's own trace is in its details.",
            logql(OF_TRACE),
            [trace, lines_of],
        ),
        rows(
            "Spans of failed traces",
            "Traces with an error; an id opens the trace, and from there its log lines.",
            "short",
            [traceql(f"{{ {SPANS} && status = error }} | select(status, span.http.route)")],
            [failed, errors],
        ),
    ]
    return board(
        "Logs and events",
        "Patterns instead of lines, exceptions by place, business and audit events, and all that belongs to one trace.",
        [("Now", summary), ("Patterns", patterns), ("Events", events), ("By trace", one)],
        search="Trace id",
    )
