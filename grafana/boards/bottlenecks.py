"""What is slow, why, where, and what would mending it save?"""

from __future__ import annotations

from typing import Any, Final

from grafana.boards.overview import DURATION, SERVED, SERVICE, quantile, share
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
    ranking,
    rows,
    stream,
    traceql,
)

FOUND: Final = "perf_bottlenecks_total"
COST: Final = "perf_bottlenecks_cost_seconds_total"
FLAGGED: Final = f'{SERVED}, perf_bottleneck="true"'
EVENTS: Final = f'{LOGS} | event_name="perf.bottleneck"'


def make() -> Any:
    """The dashboard."""
    flagged = to_explore("Flagged traces", "tempo", f"{{ {SPANS} && span.perf.bottleneck = true }}")
    evidence = to_explore("The findings, in words", "loki", EVENTS)
    found, cost = gained(f"{FOUND}{{{CHOSEN}}}"), gained(f"{COST}{{{CHOSEN}}}")
    found_in_all, cost_in_all = (gained(f"{metric}{{{CHOSEN}}}", "$__range") for metric in (FOUND, COST))
    asked = gained(f"{DURATION}_sum{{{SERVED}}}")
    summary = [
        number(
            "Findings",
            "Bottlenecks found a minute.",
            "short",
            Ask(f"sum({found}) / {MINUTES}"),
            [evidence],
        ),
        number(
            "Saved if mended",
            "Seconds of request time a second that mending them would save.",
            "s",
            Ask(f"sum({cost}) / {SECONDS}"),
            [evidence],
        ),
        number(
            "Of all request time",
            "The share of the time of all requests that mending them would save.",
            "percentunit",
            Ask(f"sum({cost}) / sum({asked})"),
            [flagged],
            steps=((None, "green"), (0.05, "orange"), (0.25, "red")),
        ),
        number(
            "Flagged requests",
            "The share of the requests that had a bottleneck.",
            "percentunit",
            Ask(share(FLAGGED)),
            [flagged],
            steps=((None, "green"), (0.05, "orange"), (0.25, "red")),
        ),
        number(
            "Versions",
            "Versions that run now: after a deploy, the findings of each are below.",
            "short",
            Ask(f"count(count by (service_name, service_version) (process_memory_usage_bytes{{{CHOSEN}}}))"),
            [to_board("Overview")],
        ),
        number(
            "Not looked at",
            "Spans and local roots a minute that were not looked at: too many were open, or it was late.",
            "short",
            Ask(f"sum({gained(f'perf_bottlenecks_skipped_total{{{CHOSEN}}}')}) / {MINUTES}"),
            [to_board("Pipeline")],
            steps=((None, "green"), (0.001, "orange")),
        ),
    ]
    worst = [
        rows(
            "Findings by kind and culprit",
            "What was found in the time shown: how often, and what mending it would save in all. The culprit is a"
            " function, or the operation that shows it.",
            "short",
            [
                Ask(f"sum by (service_name, kind, culprit) ({found_in_all})", at_once=True),
                Ask(f"sum by (service_name, kind, culprit) ({cost_in_all})", at_once=True),
            ],
            [evidence, flagged],
            columns=(("Found", "short"), ("Saves", "s")),
        ),
        lines(
            "Findings by kind",
            "Bottlenecks found a minute.",
            "short",
            [Ask(f"sum by (kind) ({found}) / {MINUTES}", "{{kind}}")],
            [evidence],
            stacked=True,
        ),
        lines(
            "Saved if mended, by kind",
            "Seconds of request time a second, by kind of bottleneck.",
            "s",
            [Ask(f"sum by (kind) ({cost}) / {SECONDS}", "{{kind}}")],
            [evidence],
            stacked=True,
        ),
        ranking(
            "Worst culprits",
            "What mending each would have saved in the time shown.",
            "s",
            [
                Ask(
                    f"topk(10, sum by (service_name, culprit) ({cost_in_all}))",
                    "{{service_name}}: {{culprit}}",
                    at_once=True,
                )
            ],
            [evidence],
        ),
        lines(
            "Share of the critical path, by culprit",
            "How much of the time of a service's requests each culprit holds on their critical paths. The costs of a"
            " trace never exceed its time.",
            "percentunit",
            [
                Ask(
                    f"topk(10, sum by (service_name, culprit) ({cost})"
                    f" / on (service_name) group_left () sum by (service_name) ({asked}))",
                    "{{service_name}}: {{culprit}}",
                )
            ],
            [flagged],
        ),
    ]
    where = [
        rows(
            "Flagged traces",
            "Traces with a finding; the Collector keeps all of them. A trace's id opens it.",
            "short",
            [
                traceql(
                    f"{{ {SPANS} && span.perf.bottleneck = true }}"
                    " | select(span.perf.bottleneck.kinds, span.perf.bottleneck.cost, span.perf.bottleneck.top)"
                )
            ],
            [flagged, evidence],
        ),
        lines(
            "Own time in flagged traces, by operation",
            "Seconds that operations spent in their own code in spans that show a finding, from the traces kept.",
            "s",
            [traceql(f"{{ {SPANS} && span.perf.self_time > 0 }} | sum_over_time(span.perf.self_time) by (span:name)")],
            [flagged],
        ),
        lines(
            "Flagged requests by route",
            "The share of a route's requests that had a bottleneck.",
            "percentunit",
            [Ask(f"topk(10, {share(FLAGGED, 'service_name, http_route')})", "{{service_name}} {{http_route}}")],
            [flagged, to_board("Overview", SERVICE)],
            most=1,
        ),
        lines(
            "Requests with a bottleneck and without",
            "95th percentile of both; exemplars lead to traces.",
            "s",
            [
                Ask(quantile(0.95, "service_name", FLAGGED), "{{service_name}} flagged", exemplars=True),
                Ask(
                    quantile(0.95, "service_name", f'{SERVED}, perf_bottleneck!="true"'),
                    "{{service_name}} others",
                    exemplars=True,
                ),
            ],
            [flagged, to_board("Overview", SERVICE)],
        ),
        lines(
            "Findings by request, by version",
            "Findings of each request, by version: a step after a deploy (the blue mark) is the deploy's.",
            "short",
            [
                Ask(
                    'service_version:bottlenecks:per_request5m{service_name=~"$service", service_version=~"$version"}',
                    "{{service_name}} {{service_version}}",
                )
            ],
            [to_board("Overview", SERVICE), flagged],
        ),
        lines(
            "Saved if mended, from the findings' events",
            "The same costs as the logs have them, by kind.",
            "s",
            [
                logql(
                    f"sum by (perf_bottleneck_kind) (rate({EVENTS} | unwrap perf_bottleneck_cost [$__auto]))",
                    "{{perf_bottleneck_kind}}",
                )
            ],
            [evidence],
            width=24,
        ),
        stream(
            "Findings in words",
            "What was slow, why, on which line and what it costs. The trace's id opens the trace.",
            logql(EVENTS),
            [evidence, flagged],
        ),
    ]
    return board(
        "Bottlenecks",
        "What is slow, why, on which line, and what mending it would save.",
        [("Now", summary), ("What", worst), ("Where", where)],
    )
