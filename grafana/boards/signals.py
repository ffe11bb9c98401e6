"""Who is ready, who waits for whom, and is everybody well?"""

from __future__ import annotations

from typing import Any, Final

from grafana.boards.overview import HEALTH, SERVICE
from grafana.frame import board
from grafana.links import to_board, to_explore
from grafana.panels import (
    CHOSEN,
    LOGS,
    MINUTES,
    NONE_IS_GOOD,
    SECONDS,
    SPANS,
    Ask,
    gained,
    heat,
    lines,
    logql,
    number,
    rows,
    states,
    stream,
    traceql,
)

EVENTS: Final = f'{LOGS} | event_name=~"perf.signal.*"'
WAIT: Final = "perf_signals_wait_duration_seconds"
STATES: Final = {"ready": ("ready", "green"), "failed": ("failed", "red")}


def make() -> Any:
    """The dashboard."""
    told = to_explore("Signals", "loki", EVENTS)
    waits = to_explore("Waits", "tempo", f'{{ {SPANS} && kind = consumer && name =~ "wait .*" }}')
    late = to_explore("Waits that timed out", "tempo", f'{{ {SPANS} && span.perf.signal.outcome = "timeout" }}')
    sick = to_explore("Changes of health", "loki", f'{LOGS} | event_name="perf.health.changed"')
    rate = f"rate({WAIT}{{{CHOSEN}}}[$__rate_interval])"
    timeout = f'{WAIT}{{{CHOSEN}, perf_signal_outcome="timeout"}}'
    summary = [
        number(
            "Emitted",
            "Signals a minute.",
            "short",
            Ask(f"sum(rate(perf_signals_emitted_total{{{CHOSEN}}}[$__rate_interval])) * 60"),
            [told],
        ),
        number(
            "Received",
            "Signals a minute that waits and handlers got.",
            "short",
            Ask(f"sum(rate(perf_signals_received_total{{{CHOSEN}}}[$__rate_interval])) * 60"),
            [told],
        ),
        number("Waiting", "Waits that go on now.", "short", Ask(f"sum(perf_signals_waiting{{{CHOSEN}}})"), [waits]),
        number(
            "Timed out",
            "Waits a minute that got no answer in time.",
            "short",
            Ask(f"sum(histogram_count({gained(timeout)})) / {MINUTES} or vector(0)"),
            [late],
            steps=NONE_IS_GOOD,
        ),
        number(
            "Refused",
            "Signals in all without the right mark: somebody else wrote on the board.",
            "short",
            Ask(f"sum(perf_signals_refused_total{{{CHOSEN}}}) or vector(0)"),
            [told],
            steps=NONE_IS_GOOD,
        ),
        number(
            "Health",
            "The worst check of all.",
            "short",
            Ask(f"max(perf_health_status_ratio{{{CHOSEN}}})"),
            [sick],
            words=HEALTH,
            steps=((None, "green"), (1, "orange"), (2, "red")),
        ),
    ]
    ready = [
        states(
            "Readiness",
            "Signals emitted in each interval, by name and state: which were there when.",
            "short",
            [
                logql(
                    "sum by (perf_signal_name, perf_signal_state) (count_over_time("
                    f'{LOGS} | event_name="perf.signal.emitted" [$__auto]))',
                    "{{perf_signal_name}} {{perf_signal_state}}",
                )
            ],
            [told],
            width=24,
        ),
        lines(
            "Emitted, by state",
            "Signals a second: ready, or failed with a reason.",
            "short",
            [
                Ask(
                    "sum by (service_name, perf_signal_state)"
                    f" (rate(perf_signals_emitted_total{{{CHOSEN}}}[$__rate_interval]))",
                    "{{service_name}} {{perf_signal_state}}",
                )
            ],
            [to_board("Signals and agents", SERVICE), told],
            stacked=True,
        ),
        lines(
            "Received, by state",
            "Signals a second that waits and handlers got.",
            "short",
            [
                Ask(
                    "sum by (service_name, perf_signal_state)"
                    f" (rate(perf_signals_received_total{{{CHOSEN}}}[$__rate_interval]))",
                    "{{service_name}} {{perf_signal_state}}",
                )
            ],
            [to_board("Signals and agents", SERVICE), told],
            stacked=True,
        ),
        stream(
            "Signals, one by one",
            "Who emitted and who received what; the trace links both.",
            logql(EVENTS),
            [told, waits],
        ),
    ]
    waiting = [
        lines(
            "Waits: p95",
            "95th percentile of how long waits took, by what was waited for.",
            "s",
            [
                Ask(
                    f"topk(15, histogram_quantile(0.95, sum by (service_name, perf_signal_name) ({rate})))",
                    "{{service_name}} {{perf_signal_name}}",
                )
            ],
            [to_board("Signals and agents", SERVICE), waits],
        ),
        lines(
            "Waits by outcome",
            "Waits a second that ended, by how.",
            "short",
            [
                Ask(
                    "sum by (service_name, perf_signal_outcome)"
                    f" (histogram_count({gained(f'{WAIT}{{{CHOSEN}}}')})) / {SECONDS}",
                    "{{service_name}} {{perf_signal_outcome}}",
                )
            ],
            [to_board("Signals and agents", SERVICE), late],
            stacked=True,
        ),
        lines(
            "Waits that go on",
            "By process.",
            "short",
            [Ask(f"perf_signals_waiting{{{CHOSEN}}}", "{{service_name}} {{service_instance_id}}")],
            [to_board("Signals and agents", SERVICE), waits],
        ),
        heat("How long waits took", "All of them, by duration.", "s", Ask(f"sum({rate})"), [waits]),
        rows(
            "Waits in traces",
            "Consumer spans of waits; the link of each leads to the span that emitted.",
            "short",
            [
                traceql(
                    f'{{ {SPANS} && kind = consumer && name =~ "wait .*" }}'
                    " | select(span.perf.signal.outcome, span.perf.signal.missing)"
                )
            ],
            [waits, late],
        ),
    ]
    well = [
        states(
            "Health",
            "What each check says; the worst instance counts.",
            "short",
            [
                Ask(
                    f"max by (service_name, perf_health_check) (perf_health_status_ratio{{{CHOSEN}}})",
                    "{{service_name}} {{perf_health_check}}",
                )
            ],
            [to_board("Logs and events", SERVICE), sick],
            words=HEALTH,
        ),
        lines(
            "Event loop lag",
            "99th percentile of how late event loops answered: while one is late, no request moves.",
            "s",
            [
                Ask(
                    "histogram_quantile(0.99, sum by (service_name, service_instance_id)"
                    f" (rate(perf_eventloop_lag_seconds{{{CHOSEN}}}[$__rate_interval])))",
                    "{{service_name}} {{service_instance_id}}",
                )
            ],
            [
                to_board("Bottlenecks", SERVICE),
                to_explore(
                    "What blocked it",
                    "loki",
                    f'{LOGS} | event_name="perf.bottleneck" | perf_bottleneck_kind="loop_block"',
                ),
            ],
            steps=((None, "transparent"), (0.1, "red")),
        ),
    ]
    return board(
        "Signals and agents",
        "Which agents, tasks and services are ready since when, who waits for whom, and what their checks say.",
        [("Now", summary), ("Readiness", ready), ("Waits", waiting), ("Health", well)],
    )
