"""Are my services well, and where do I look next?"""

from __future__ import annotations

from typing import Any, Final

from grafana.frame import board
from grafana.links import to_board, to_explore
from grafana.panels import (
    CHOSEN,
    GOOD_BELOW,
    LOGS,
    MINUTES,
    NONE_IS_GOOD,
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
)

# What a service was asked: its server and consumer spans, counted before any was sampled away; but not its waits for
# signals, which are consumer spans and take as long as they take.
SERVED: Final = f'{CHOSEN}, span_kind=~"SPAN_KIND_SERVER|SPAN_KIND_CONSUMER", span_name!~"wait .+"'
FAILED: Final = f'{SERVED}, status_code="STATUS_CODE_ERROR"'
CALLS: Final = "traces_span_metrics_calls_total"
DURATION: Final = "traces_span_metrics_duration_seconds"
SERVICE: Final = {"service": "service_name"}
HEALTH: Final = {"0": ("healthy", "green"), "1": ("degraded", "orange"), "2": ("unhealthy", "red")}


def quantile(share: float, by: str, matchers: str = SERVED) -> str:
    """A percentile of the durations of spans."""
    return f"histogram_quantile({share:g}, sum by (le, {by}) (rate({DURATION}_bucket{{{matchers}}}[$__rate_interval])))"


def share(matchers: str, by: str = "") -> str:
    """What part of the requests those of ``matchers`` are; without ``by`` 0 where there are none of them."""
    some, every = (
        f"sum{f' by ({by})' if by else ''} ({gained(f'{CALLS}{{{chosen}}}')})" for chosen in (matchers, SERVED)
    )
    return f"{some} / {every}" if by else f"({some} or vector(0)) / {every}"


def make() -> Any:
    """The dashboard."""
    traces = to_explore("Failed traces", "tempo", f"{{ {SPANS} && status = error }}")
    slow = to_explore("Slow traces", "tempo", f"{{ {SPANS} && kind = server && duration > 500ms }}")
    now = [
        number(
            "Requests",
            "Requests and messages that the chosen services served, a second.",
            "reqps",
            Ask(f"sum(rate({CALLS}{{{SERVED}}}[$__rate_interval]))"),
            [slow],
        ),
        number(
            "Failed",
            "Share of them that ended with an error.",
            "percentunit",
            Ask(share(FAILED)),
            [traces],
            steps=((None, "green"), (0.001, "orange"), (0.01, "red")),
        ),
        number(
            "95 % are faster than",
            "95th percentile of the durations, over all chosen services.",
            "s",
            Ask(f"histogram_quantile(0.95, sum by (le) (rate({DURATION}_bucket{{{SERVED}}}[$__rate_interval])))"),
            [slow],
            steps=((None, "green"), (0.5, "orange"), (2, "red")),
        ),
        number(
            "Saved if mended",
            "Seconds of request time a second that mending the bottlenecks found would save.",
            "s",
            Ask(f"sum({gained(f'perf_bottlenecks_cost_seconds_total{{{CHOSEN}}}')}) / {SECONDS}"),
            [to_board("Bottlenecks")],
            steps=((None, "green"), (0.1, "orange"), (1, "red")),
        ),
        number(
            "Memory of its limit",
            "The process that is nearest to its memory limit.",
            "percentunit",
            Ask(f"max(perf_memory_utilization_ratio{{{CHOSEN}}})"),
            [to_board("Memory")],
            steps=GOOD_BELOW,
        ),
        number(
            "Alerts",
            "Alerts of Prometheus's rules that fire now.",
            "short",
            Ask('sum(ALERTS{alertstate="firing", service_name=~"$service|"}) or vector(0)'),
            [to_board("Alerts")],
            steps=NONE_IS_GOOD,
        ),
    ]
    red = [
        lines(
            "Requests by service",
            "Server and consumer spans a second, before sampling.",
            "reqps",
            [Ask(f"sum by (service_name) (rate({CALLS}{{{SERVED}}}[$__rate_interval]))", "{{service_name}}")],
            [to_board("Overview", SERVICE), slow],
            width=8,
        ),
        lines(
            "Failed requests by service",
            "Share of a service's requests that ended with an error.",
            "percentunit",
            [Ask(share(FAILED, "service_name"), "{{service_name}}")],
            [to_board("Logs and events", SERVICE), traces],
            width=8,
            steps=((None, "transparent"), (0.001, "red")),
        ),
        lines(
            "Durations by service",
            "Median, 95th and 99th percentile; each point is an exemplar and leads to its trace.",
            "s",
            [
                Ask(quantile(share, "service_name"), f"{{{{service_name}}}} p{share * 100:g}", exemplars=share == 0.99)
                for share in (0.5, 0.95, 0.99)
            ],
            [to_board("Bottlenecks", SERVICE), slow],
            width=8,
        ),
        rows(
            "Routes",
            "Rate, errors and duration of each route over the last minutes of the range.",
            "short",
            [
                Ask(f"sum by (service_name, http_route) (rate({CALLS}{{{SERVED}}}[$__rate_interval]))", at_once=True),
                Ask(share(FAILED, "service_name, http_route"), at_once=True),
                Ask(quantile(0.5, "service_name, http_route"), at_once=True),
                Ask(quantile(0.95, "service_name, http_route"), at_once=True),
            ],
            [traces, slow],
            columns=(("Rate", "reqps"), ("Failed", "percentunit"), ("p50", "s"), ("p95", "s")),
        ),
        lines(
            "Error budget used, by service",
            "How fast the error budget of 0.1 % is used up: 1 uses it up in exactly 30 days. Over 14.4 for an hour, or"
            " 6 for six, an alert fires.",
            "short",
            [
                Ask('service:requests:error_ratio1h{service_name=~"$service"} / 0.001', "{{service_name}} 1 h"),
                Ask('service:requests:error_ratio6h{service_name=~"$service"} / 0.001', "{{service_name}} 6 h"),
            ],
            [to_board("Logs and events", SERVICE), traces],
            steps=((None, "transparent"), (6, "orange"), (14.4, "red")),
        ),
        lines(
            "Calls to others",
            "Client and producer spans a second, by what was called.",
            "reqps",
            [
                Ask(
                    f"topk(15, sum by (service_name, span_name) (rate({CALLS}{{{CHOSEN},"
                    ' span_kind=~"SPAN_KIND_CLIENT|SPAN_KIND_PRODUCER"}[$__rate_interval])))',
                    "{{service_name}} {{span_name}}",
                )
            ],
            [
                to_board("Bottlenecks", SERVICE),
                to_explore("Slow calls", "tempo", f"{{ {SPANS} && kind = client && duration > 100ms }}"),
            ],
        ),
    ]
    state = [
        lines(
            "Findings by kind",
            "Bottlenecks found a minute, by kind.",
            "short",
            [Ask(f"sum by (kind) ({gained(f'perf_bottlenecks_total{{{CHOSEN}}}')}) / {MINUTES}", "{{kind}}")],
            [to_board("Bottlenecks")],
            stacked=True,
            width=8,
        ),
        lines(
            "Memory of the limit, by process",
            "Resident memory of what the process may use.",
            "percentunit",
            [Ask(f"perf_memory_utilization_ratio{{{CHOSEN}}}", "{{service_name}} {{service_instance_id}}")],
            [to_board("Memory", {**SERVICE, "instance": "service_instance_id"}), to_board("Memory")],
            width=8,
            steps=((None, "transparent"), (0.8, "orange"), (0.9, "red")),
            most=1,
        ),
        states(
            "Health",
            "What each check says: healthy, degraded or unhealthy; the worst instance counts.",
            "short",
            [
                Ask(
                    f"max by (service_name, perf_health_check) (perf_health_status_ratio{{{CHOSEN}}})",
                    "{{service_name}} {{perf_health_check}}",
                )
            ],
            [to_board("Signals and agents", SERVICE), to_board("Logs and events")],
            words=HEALTH,
            width=8,
        ),
        stream(
            "What went wrong lately",
            "Log lines of level ERROR and above; each line's trace is in its details.",
            logql(f"{LOGS} | severity_number >= 17"),
            [to_board("Logs and events"), traces],
        ),
    ]
    return board(
        "Overview",
        "Rate, errors and durations by service and route; findings, memory and health. Start here.",
        [("Now", now), ("Requests", red), ("State", state)],
    )
