"""Does all that is made arrive?"""

from __future__ import annotations

from typing import Any, Final

from grafana.boards.overview import SERVICE
from grafana.frame import board
from grafana.links import to_board, to_explore
from grafana.panels import CHOSEN, LOGS, NONE_IS_GOOD, SECONDS, Ask, gained, lines, number

PROCESS: Final = "{{service_name}} {{service_instance_id}}"
COLLECTOR: Final = 'job="otelcol"'
SIGNALS: Final = ("spans", "metric_points", "log_records")


def each(metric: str, by: str, legend: str) -> list[Ask]:
    """A counter of the Collector for spans, metric points and log records."""
    return [
        Ask(
            f"sum by ({by}) (rate(otelcol_{metric}_{signal}{{{COLLECTOR}}}[$__rate_interval]))",
            f"{legend} {signal.replace('_', ' ')}",
        )
        for signal in SIGNALS
    ]


def make() -> Any:
    """The dashboard."""
    changed = to_explore("What otel-perf turned off", "loki", f'{LOGS} | event_name="perf.feature.changed"')
    collectors = to_explore("The Collector's telemetry", "prometheus", f'{{__name__=~"otelcol_.*", {COLLECTOR}}}')
    store = to_explore("Stores", "prometheus", f'{{__name__=~"perf_store_.*", {CHOSEN}}}')
    rate = "$__rate_interval"
    summary = [
        number(
            "Waiting in stores",
            "Items that applications have and no receiver took yet.",
            "short",
            Ask(f"sum(perf_store_pending{{{CHOSEN}}})"),
            [store],
            steps=((None, "green"), (10_000, "orange")),
        ),
        number(
            "Lost in stores",
            "Items that applications lost: a store was full, stuck or could not be written.",
            "short",
            Ask(f"sum(perf_store_dropped_total{{{CHOSEN}}}) or vector(0)"),
            [store],
            steps=NONE_IS_GOOD,
        ),
        number(
            "Queues of the Collector",
            "How full the fullest queue in front of a backend is.",
            "percentunit",
            Ask(f"max(otelcol_exporter_queue_size{{{COLLECTOR}}} / otelcol_exporter_queue_capacity{{{COLLECTOR}}})"),
            [collectors],
            steps=((None, "green"), (0.5, "orange"), (0.8, "red")),
        ),
        number(
            "Collectors away",
            "Collectors that do not answer, of all that Prometheus scrapes. Without data it scrapes none.",
            "short",
            Ask(f"count(up{{{COLLECTOR}}}) - sum(up{{{COLLECTOR}}})"),
            [collectors],
            steps=NONE_IS_GOOD,
        ),
        number(
            "Errors of otel-perf",
            "Its own errors, in all. They never reach the application.",
            "short",
            Ask(f"sum(perf_internal_errors_total{{{CHOSEN}}}) or vector(0)"),
            [changed],
            steps=NONE_IS_GOOD,
        ),
        number(
            "Series",
            "Series that Prometheus has of the chosen services.",
            "short",
            Ask(f'count({{__name__!="", {CHOSEN}}})'),
            [to_explore("Series by name", "prometheus", f'topk(20, count by (__name__) ({{__name__!="", {CHOSEN}}}))')],
            steps=((None, "green"), (100_000, "orange")),
        ),
    ]
    applications = [
        lines(
            "Delivered",
            "Items a second that a receiver took, by process.",
            "short",
            [
                Ask(
                    "sum by (service_name, service_instance_id)"
                    f" (rate(perf_store_delivered_total{{{CHOSEN}}}[{rate}]))",
                    PROCESS,
                )
            ],
            [to_board("Pipeline", SERVICE), store],
        ),
        lines(
            "Waiting",
            "Items in memory or in the store that were not sent yet.",
            "short",
            [Ask(f"sum by (service_name, service_instance_id) (perf_store_pending{{{CHOSEN}}})", PROCESS)],
            [to_board("Pipeline", SERVICE), store],
        ),
        lines(
            "Lost",
            "Items a second that were lost.",
            "short",
            [
                Ask(
                    "sum by (service_name, service_instance_id)"
                    f" ({gained(f'perf_store_dropped_total{{{CHOSEN}}}')}) / {SECONDS}",
                    PROCESS,
                )
            ],
            [to_board("Pipeline", SERVICE), store],
            steps=NONE_IS_GOOD,
            width=8,
        ),
        lines(
            "Size of stores",
            "Bytes in use; at the limit (512 MB by default) the oldest is dropped.",
            "bytes",
            [Ask(f"perf_store_size_bytes{{{CHOSEN}}}", PROCESS)],
            [to_board("Pipeline", SERVICE), store],
            width=8,
        ),
        lines(
            "Errors of otel-perf",
            "Its own errors, by feature; after ten the feature turns itself off.",
            "short",
            [
                Ask(
                    "sum by (service_name, perf_feature)"
                    f" ({gained(f'perf_internal_errors_total{{{CHOSEN}}}')}) / {SECONDS}",
                    "{{service_name}} {{perf_feature}}",
                )
            ],
            [to_board("Logs and events", SERVICE), changed],
            steps=NONE_IS_GOOD,
            width=8,
        ),
        lines(
            "Cleanup",
            "Seconds a second that cleanup tasks computed, by task.",
            "s",
            [
                Ask(
                    f"sum by (service_name, task) (rate(perf_cleanup_time_seconds_total{{{CHOSEN}}}[{rate}]))",
                    "{{service_name}} {{task}}",
                )
            ],
            [to_board("Memory", SERVICE), changed],
        ),
        lines(
            "Cleanup runs",
            "Runs a second, by task and outcome.",
            "short",
            [
                Ask(
                    f"sum by (task, outcome) (rate(perf_cleanup_runs_total{{{CHOSEN}}}[{rate}]))",
                    "{{task}} {{outcome}}",
                )
            ],
            [to_board("Memory"), changed],
        ),
    ]
    collector = [
        lines(
            "Taken",
            "Items a second that the Collector took.",
            "short",
            each("receiver_accepted", "receiver", "{{receiver}}"),
            [collectors],
        ),
        lines(
            "Refused",
            "Items a second that it refused, as when memory is short; the applications send them again.",
            "short",
            each("receiver_refused", "receiver", "{{receiver}}"),
            [collectors],
            steps=NONE_IS_GOOD,
        ),
        lines(
            "Sent",
            "Items a second that backends took.",
            "short",
            each("exporter_sent", "exporter", "{{exporter}}"),
            [collectors],
        ),
        lines(
            "Lost",
            "Items of the last ten minutes that are gone: a backend turned them away for good, or there was no room for"
            " judged traces. What may be taken later is tried again, and not counted here.",
            "short",
            [Ask("collector:lost_items:increase10m", "{{instance}} {{exporter}} {{signal}}")],
            [collectors],
            steps=NONE_IS_GOOD,
        ),
        lines(
            "Fullest queues",
            "How full the queues on disk are, by Collector; the twenty fullest of all.",
            "percentunit",
            [
                Ask(
                    "topk(20, max by (instance, exporter, data_type)"
                    f" (otelcol_exporter_queue_size{{{COLLECTOR}}} / otelcol_exporter_queue_capacity{{{COLLECTOR}}}))",
                    "{{instance}} {{exporter}} {{data_type}}",
                )
            ],
            [collectors],
            steps=((None, "transparent"), (0.5, "red")),
            most=1,
        ),
        lines(
            "Waiting in queues",
            "Bytes that wait on disk in front of each backend in all Collectors, and how many may.",
            "bytes",
            [
                Ask(
                    f"sum by (exporter, data_type) (otelcol_exporter_queue_size{{{COLLECTOR}}})",
                    "{{exporter}} {{data_type}}",
                ),
                Ask(
                    f"sum by (exporter, data_type) (otelcol_exporter_queue_capacity{{{COLLECTOR}}})",
                    "limit of {{exporter}} {{data_type}}",
                ),
            ],
            [collectors],
        ),
        lines(
            "Memory of the Collector",
            "Resident memory.",
            "bytes",
            [Ask(f"otelcol_process_memory_rss{{{COLLECTOR}}}", "{{instance}}")],
            [collectors],
            width=8,
        ),
        lines(
            "CPU of the Collector",
            "CPU seconds a second.",
            "percentunit",
            [Ask(f"rate(otelcol_process_cpu_seconds{{{COLLECTOR}}}[{rate}])", "{{instance}}")],
            [collectors],
            width=8,
        ),
        lines(
            "Running since",
            "Seconds since the Collector's start.",
            "s",
            [Ask(f"otelcol_process_uptime{{{COLLECTOR}}}", "{{instance}}")],
            [collectors],
            width=8,
        ),
    ]
    return board(
        "Pipeline",
        "From the applications' stores through the Collector to the backends: what waits, is lost, is refused.",
        [("Now", summary), ("Applications", applications), ("Collector", collector)],
    )
