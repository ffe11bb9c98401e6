"""Which functions cost how much, and in which traces?"""

from __future__ import annotations

from typing import Any, Final

from grafana.boards.overview import SERVICE
from grafana.frame import board
from grafana.links import to_board, to_explore
from grafana.panels import CHOSEN, SECONDS, SPANS, Ask, gained, heat, lines, number, rows, traceql

CALL: Final = "perf_call_duration_seconds"
BY: Final = "service_name, code_function_name"
NAMED: Final = "{{service_name}} {{code_function_name}}"
TOP: Final = 15


def rate(metric: str) -> str:
    """Its rate, for the chosen services."""
    return f"rate({metric}{{{CHOSEN}}}[$__rate_interval])"


def increase(metric: str) -> str:
    """What came to it in the time shown."""
    return gained(f"{metric}{{{CHOSEN}}}", "$__range")


def make() -> Any:
    """The dashboard."""
    calls = to_explore("Slow calls", "tempo", f"{{ {SPANS} && span.code.function.name != nil && duration > 50ms }}")
    failed = to_explore("Failed calls", "tempo", f"{{ {SPANS} && span.code.function.name != nil && status = error }}")
    raised = gained(f"perf_call_errors_total{{{CHOSEN}}}")
    summary = [
        number(
            "Calls",
            "Calls of monitored functions, a second.",
            "cps",
            Ask(f"sum(histogram_count({rate(CALL)}))"),
            [calls],
            width=6,
        ),
        number(
            "Functions",
            "Monitored functions that were called in the time shown.",
            "short",
            Ask(f"count(count by (code_function_name) ({CALL}{{{CHOSEN}}}))"),
            [to_board("Overview")],
            width=6,
        ),
        number(
            "Time in them",
            "Seconds a second in which a monitored function ran; above 1, several ran at once.",
            "s",
            Ask(f"sum({rate('perf_call_self_time_seconds_total')})"),
            [calls],
            width=6,
        ),
        number(
            "Calls that raised",
            "A second.",
            "cps",
            Ask(f"sum({raised}) / {SECONDS} or vector(0)"),
            [failed],
            width=6,
            steps=((None, "green"), (0.000001, "orange")),
        ),
    ]
    cost = [
        rows(
            "Functions",
            "All of the time shown: calls, own time, mean, 99th percentile, and calls that raised.",
            "short",
            [
                Ask(f"sum by ({BY}) ({increase('perf_call_self_time_seconds_total')})", at_once=True),
                Ask(f"sum by ({BY}) (histogram_count({increase(CALL)}))", at_once=True),
                Ask(
                    f"sum by ({BY}) (histogram_sum({increase(CALL)}))"
                    f" / sum by ({BY}) (histogram_count({increase(CALL)}))",
                    at_once=True,
                ),
                Ask(f"histogram_quantile(0.99, sum by ({BY}) ({increase(CALL)}))", at_once=True),
                Ask(f"sum by ({BY}) ({increase('perf_call_errors_total')})", at_once=True),
            ],
            [calls, failed],
            columns=(("Own time", "s"), ("Calls", "short"), ("Mean", "s"), ("p99", "s"), ("Raised", "short")),
        ),
        lines(
            "Own time",
            "Seconds a second in which no other monitored function ran beneath it: where the time goes.",
            "s",
            [Ask(f"topk({TOP}, sum by ({BY}) ({rate('perf_call_self_time_seconds_total')}))", NAMED)],
            [calls, to_board("Functions", SERVICE)],
            stacked=True,
        ),
        lines(
            "Calls",
            "Calls a second.",
            "cps",
            [Ask(f"topk({TOP}, sum by ({BY}) (histogram_count({rate(CALL)})))", NAMED)],
            [calls, to_board("Functions", SERVICE)],
        ),
        lines(
            "p99",
            "99th percentile of the durations of calls; each point is an exemplar and leads to its trace.",
            "s",
            [Ask(f"topk({TOP}, histogram_quantile(0.99, sum by ({BY}) ({rate(CALL)})))", NAMED, exemplars=True)],
            [calls, to_board("Bottlenecks", SERVICE)],
        ),
        lines(
            "Mean",
            "Mean duration of a call.",
            "s",
            [
                Ask(
                    f"topk({TOP}, sum by ({BY}) (histogram_sum({rate(CALL)}))"
                    f" / sum by ({BY}) (histogram_count({rate(CALL)})))",
                    NAMED,
                )
            ],
            [calls, to_board("Bottlenecks", SERVICE)],
        ),
        heat(
            "How durations are spread",
            "All calls of the chosen services, by duration; exemplars lead to traces.",
            "s",
            Ask(f"sum({rate(CALL)})", exemplars=True),
            [calls],
        ),
        lines(
            "Calls that raised",
            "A second, by function.",
            "cps",
            [Ask(f"topk({TOP}, sum by ({BY}) ({raised})) / {SECONDS}", NAMED)],
            [failed, to_board("Logs and events", SERVICE)],
        ),
        rows(
            "Slow calls in traces",
            "Spans of monitored functions above 50 ms in the traces kept.",
            "short",
            [
                traceql(
                    f"{{ {SPANS} && span.code.function.name != nil && duration > 50ms }}"
                    " | select(span.code.function.name)"
                )
            ],
            [calls],
        ),
    ]
    return board(
        "Functions",
        "Every call of a monitored function: how often, how long, how much of it its own, and its slowest traces.",
        [("Now", summary), ("Cost", cost)],
    )
