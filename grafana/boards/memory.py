"""How near is memory to its limit, what was done about it, and what does the garbage collector cost?"""

from __future__ import annotations

from typing import Any, Final

from grafana.boards.overview import SERVICE
from grafana.frame import board
from grafana.links import to_board, to_explore
from grafana.panels import CHOSEN, GOOD_BELOW, LOGS, SECONDS, Ask, gained, lines, logql, number, states, stream

PROCESS: Final = "{{service_name}} {{service_instance_id}}"
INSTANCE: Final = {**SERVICE, "instance": "service_instance_id"}
LEVELS: Final = {
    "0": ("normal", "green"),
    "1": ("moderate", "yellow"),
    "2": ("high", "orange"),
    "3": ("critical", "red"),
}
EVENTS: Final = f'{LOGS} | event_name=~"perf.memory.*|perf.gc.tuned"'


def make() -> Any:
    """The dashboard."""
    told = to_explore("Memory events", "loki", EVENTS)
    grown = to_explore("Suspected leaks", "loki", f'{LOGS} | event_name="perf.memory.leak_suspected"')
    rate = "$__rate_interval"
    summary = [
        number(
            "Of the limit",
            "The process that is nearest to its limit.",
            "percentunit",
            Ask(f"max(perf_memory_utilization_ratio{{{CHOSEN}}})"),
            [told],
            steps=GOOD_BELOW,
        ),
        number(
            "Level",
            "The worst level of memory pressure.",
            "short",
            Ask(f"max(perf_memory_level_ratio{{{CHOSEN}}})"),
            [told],
            words=LEVELS,
            steps=((None, "green"), (1, "yellow"), (2, "orange"), (3, "red")),
        ),
        number(
            "In use",
            "Resident memory of all chosen processes.",
            "bytes",
            Ask(f"sum(process_memory_usage_bytes{{{CHOSEN}}})"),
            [to_board("Overview")],
        ),
        number(
            "Given back",
            "Bytes given back under pressure in the time shown.",
            "bytes",
            Ask(
                f"sum({gained(f'perf_memory_reclaimed_bytes_total{{{CHOSEN}}}', '$__range')}) or vector(0)",
                at_once=True,
            ),
            [told],
        ),
        number(
            "Longest pauses",
            "99th percentile of garbage collection pauses.",
            "s",
            Ask(f"histogram_quantile(0.99, sum(rate(perf_gc_pause_seconds{{{CHOSEN}}}[{rate}])))"),
            [told],
            steps=((None, "green"), (0.05, "orange"), (0.2, "red")),
        ),
        number(
            "Grows fastest",
            "Bytes an hour of the process whose floor of memory grows fastest.",
            "bytes",
            Ask(
                'max(deriv(instance:process_memory_floor_bytes:min2m{service_name=~"$service",'
                ' service_instance_id=~"$instance"}[30m])) * 3600'
            ),
            [grown],
        ),
    ]
    memory = [
        lines(
            "Memory of the limit",
            "Resident memory of what the process may use. Caches give back from 70 % on.",
            "percentunit",
            [Ask(f"perf_memory_utilization_ratio{{{CHOSEN}}}", PROCESS)],
            [to_board("Memory", INSTANCE), told],
            most=1,
            steps=((None, "transparent"), (0.7, "yellow"), (0.8, "orange"), (0.9, "red")),
        ),
        lines(
            "Memory",
            "Resident memory, and the limit of the process.",
            "bytes",
            [
                Ask(f"process_memory_usage_bytes{{{CHOSEN}}}", PROCESS),
                Ask(f"perf_memory_limit_bytes{{{CHOSEN}}}", f"limit of {PROCESS}"),
            ],
            [to_board("Memory", INSTANCE), told],
        ),
        states(
            "Level of pressure",
            "Normal, moderate from 70 %, high from 80 %, critical from 90 %; left 10 points lower.",
            "short",
            [Ask(f"perf_memory_level_ratio{{{CHOSEN}}}", PROCESS)],
            [to_board("Memory", INSTANCE), told],
            words=LEVELS,
        ),
        lines(
            "Given back",
            "Bytes a second given back under pressure, by what was done.",
            "Bps",
            [
                Ask(
                    f"sum by (action) ({gained(f'perf_memory_reclaimed_bytes_total{{{CHOSEN}}}')}) / {SECONDS}",
                    "{{action}}",
                )
            ],
            [told, to_board("Caches")],
            stacked=True,
        ),
        lines(
            "Growth of the floor",
            "Bytes an hour by which the least memory of each two minutes grew: what is left when all was freed. A"
            " steady positive slope is a leak.",
            "bytes",
            [
                Ask(
                    'deriv(instance:process_memory_floor_bytes:min2m{service_name=~"$service",'
                    ' service_instance_id=~"$instance"}[30m]) * 3600',
                    PROCESS,
                )
            ],
            [to_board("Memory", INSTANCE), grown],
            least=None,
        ),
        lines(
            "Hours until the limit",
            "At that growth; only processes that grow are shown.",
            "h",
            [
                Ask(
                    f"(perf_memory_limit_bytes{{{CHOSEN}}} - process_memory_usage_bytes{{{CHOSEN}}})"
                    " / on (service_name, service_instance_id)"
                    ' (deriv(instance:process_memory_floor_bytes:min2m{service_name=~"$service",'
                    ' service_instance_id=~"$instance"}[30m]) > 0) / 3600',
                    PROCESS,
                )
            ],
            [to_board("Memory", INSTANCE), grown],
            steps=((None, "red"), (6, "transparent")),
        ),
        lines(
            "Virtual memory",
            "Address space that was committed.",
            "bytes",
            [Ask(f"process_memory_virtual_bytes{{{CHOSEN}}}", PROCESS)],
            [to_board("Memory", INSTANCE), told],
            width=8,
        ),
        lines(
            "Threads",
            "Threads of each process.",
            "short",
            [Ask(f"process_thread_count{{{CHOSEN}}}", PROCESS)],
            [to_board("Memory", INSTANCE), to_board("Overview")],
            width=8,
        ),
        lines(
            "Open files",
            "Descriptors of each process.",
            "short",
            [Ask(f"process_unix_file_descriptor_count{{{CHOSEN}}}", PROCESS)],
            [to_board("Memory", INSTANCE), to_board("Overview")],
            width=8,
        ),
        lines(
            "CPU",
            "CPU seconds a second, by mode.",
            "percentunit",
            [
                Ask(
                    "sum by (service_name, service_instance_id, cpu_mode)"
                    f" (rate(process_cpu_time_seconds_total{{{CHOSEN}}}[{rate}]))",
                    f"{PROCESS} {{{{cpu_mode}}}}",
                )
            ],
            [to_board("Functions", SERVICE), to_board("Bottlenecks")],
        ),
        stream(
            "Events",
            "Changes of the level, what was given back, suspected leaks with their types and lines.",
            logql(EVENTS),
            [grown, told],
            width=12,
        ),
    ]
    garbage = [
        lines(
            "Pauses of the garbage collector",
            "99th percentile by generation; the third one visits everything.",
            "s",
            [
                Ask(
                    "histogram_quantile(0.99, sum by (service_name, cpython_gc_generation)"
                    f" (rate(perf_gc_pause_seconds{{{CHOSEN}}}[{rate}])))",
                    "{{service_name}} gen {{cpython_gc_generation}}",
                )
            ],
            [to_board("Bottlenecks", SERVICE), told],
            steps=((None, "transparent"), (0.05, "orange"), (0.2, "red")),
        ),
        lines(
            "Time in collections",
            "Share of the time in which the program stood still for them.",
            "percentunit",
            [
                Ask(
                    "sum by (service_name, service_instance_id)"
                    f" (histogram_sum(rate(perf_gc_pause_seconds{{{CHOSEN}}}[{rate}])))",
                    PROCESS,
                )
            ],
            [to_board("Bottlenecks", SERVICE), told],
        ),
        lines(
            "Collections",
            "Collections a second, by generation.",
            "ops",
            [
                Ask(
                    "sum by (service_name, cpython_gc_generation)"
                    f" (rate(cpython_gc_collections_total{{{CHOSEN}}}[{rate}]))",
                    "{{service_name}} gen {{cpython_gc_generation}}",
                )
            ],
            [to_board("Memory", SERVICE), told],
            width=8,
        ),
        lines(
            "Objects collected",
            "Objects a second that were in cycles, by generation.",
            "short",
            [
                Ask(
                    "sum by (service_name, cpython_gc_generation)"
                    f" (rate(cpython_gc_collected_objects_total{{{CHOSEN}}}[{rate}]))",
                    "{{service_name}} gen {{cpython_gc_generation}}",
                )
            ],
            [to_board("Memory", SERVICE), told],
            width=8,
        ),
        lines(
            "Objects that could not be collected",
            "In all, by process; they stay for ever.",
            "short",
            [
                Ask(
                    f"sum by (service_name, service_instance_id) (cpython_gc_uncollectable_objects_total{{{CHOSEN}}})",
                    PROCESS,
                )
            ],
            [to_board("Memory", INSTANCE), grown],
            width=8,
        ),
    ]
    return board(
        "Memory",
        "Memory against its limit, what was given back, growth without an end, and what the garbage collector costs.",
        [("Now", summary), ("Memory", memory), ("Garbage collector", garbage)],
    )
