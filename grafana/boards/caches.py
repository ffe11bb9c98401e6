"""Does each cache pay, and is it of the right size?"""

from __future__ import annotations

from typing import Any, Final

from grafana.boards.overview import SERVICE
from grafana.frame import board
from grafana.links import to_board, to_explore
from grafana.panels import CHOSEN, LOGS, Ask, gained, lines, number, rows

BY: Final = "service_name, perf_cache_name"
NAMED: Final = "{{service_name}} {{perf_cache_name}}"


def rate(metric: str) -> str:
    """By cache, over all instances."""
    return f"sum by ({BY}) (rate(perf_cache_{metric}_total{{{CHOSEN}}}[$__rate_interval]))"


def over(metric: str) -> str:
    """By cache, in the time shown."""
    return f"sum by ({BY}) ({gained(f'perf_cache_{metric}_total{{{CHOSEN}}}', '$__range')})"


def total(metric: str, interval: str = "$__rate_interval") -> str:
    """Over all caches."""
    return f"sum(rate(perf_cache_{metric}_total{{{CHOSEN}}}[{interval}]))"


def make() -> Any:
    """The dashboard."""
    memory = to_board("Memory", SERVICE)
    told = to_explore("What was given back", "loki", f'{LOGS} | event_name="perf.memory.pressure"')
    summaries = to_explore("Summaries", "loki", f'{LOGS} | event_name="perf.summary"')
    asked = f"({rate('hits')} + {rate('misses')})"
    summary = [
        number(
            "Hit ratio",
            "Of all look-ups in all chosen caches.",
            "percentunit",
            Ask(f"{total('hits')} / ({total('hits')} + {total('misses')})"),
            [summaries],
            steps=((None, "red"), (0.5, "orange"), (0.8, "green")),
            width=6,
        ),
        number("Look-ups", "A second.", "ops", Ask(f"{total('hits')} + {total('misses')}"), [summaries], width=6),
        number(
            "Caches",
            "Caches that were found, without code or with it.",
            "short",
            Ask(f"count(count by ({BY}) (perf_cache_size{{{CHOSEN}}}))"),
            [to_board("Overview")],
            width=6,
        ),
        number(
            "Evictions", "Entries dropped a second for room or memory.", "ops", Ask(total("evictions")), [told], width=6
        ),
    ]
    each = [
        rows(
            "Caches",
            "Each cache over the time shown.",
            "short",
            [
                Ask(f"{over('hits')} / ({over('hits')} + {over('misses')})", at_once=True),
                Ask(over("misses"), at_once=True),
                Ask(over("evictions"), at_once=True),
                Ask(f"sum by ({BY}) (perf_cache_size{{{CHOSEN}}})", at_once=True),
                Ask(f"sum by ({BY}) (perf_cache_limit{{{CHOSEN}}})", at_once=True),
            ],
            [summaries, to_board("Memory")],
            columns=(
                ("Hit ratio", "percentunit"),
                ("Misses", "short"),
                ("Evicted", "short"),
                ("Size", "short"),
                ("Limit", "short"),
            ),
        ),
        lines(
            "Hit ratio",
            "Look-ups that found their key, now. A cache that nobody asks has none.",
            "percentunit",
            [Ask(f"{rate('hits')} / ({asked} > 0)", NAMED)],
            [to_board("Caches", SERVICE), summaries],
            most=1,
        ),
        lines(
            "Hit ratio since the start",
            "As the process itself counts it.",
            "percentunit",
            [Ask(f"avg by ({BY}) (perf_cache_hit_ratio{{{CHOSEN}}})", NAMED)],
            [to_board("Caches", SERVICE), summaries],
            most=1,
        ),
        lines(
            "Hits",
            "Look-ups a second that found their key.",
            "ops",
            [Ask(rate("hits"), NAMED)],
            [to_board("Caches", SERVICE), summaries],
            stacked=True,
            width=8,
        ),
        lines(
            "Misses",
            "Look-ups a second that did not: each is work.",
            "ops",
            [Ask(rate("misses"), NAMED)],
            [to_board("Bottlenecks", SERVICE), summaries],
            stacked=True,
            width=8,
        ),
        lines(
            "Evictions",
            "Entries a second dropped for room or memory. Many of them and a low hit ratio: it is too small.",
            "ops",
            [Ask(rate("evictions"), NAMED)],
            [memory, told],
            stacked=True,
            width=8,
        ),
        lines(
            "Size",
            "Entries, over all instances.",
            "short",
            [Ask(f"sum by ({BY}) (perf_cache_size{{{CHOSEN}}})", NAMED)],
            [memory, told],
        ),
        lines(
            "Filled",
            "Size of the limit, where there is one.",
            "percentunit",
            [
                Ask(
                    f"sum by ({BY}) (perf_cache_size{{{CHOSEN}}}) / sum by ({BY}) (perf_cache_limit{{{CHOSEN}}} > 0)",
                    NAMED,
                )
            ],
            [memory, told],
            most=1,
        ),
        lines(
            "Bounded collections: filled",
            "Items of the limit, by collection.",
            "percentunit",
            [
                Ask(
                    f"sum by (service_name, perf_collection_name) (perf_collection_size{{{CHOSEN}}})"
                    f" / sum by (service_name, perf_collection_name) (perf_collection_limit{{{CHOSEN}}})",
                    "{{service_name}} {{perf_collection_name}}",
                )
            ],
            [memory, told],
            most=1,
        ),
        lines(
            "Bounded collections: dropped",
            "Items a second that were dropped for room.",
            "ops",
            [
                Ask(
                    "sum by (service_name, perf_collection_name)"
                    f" (rate(perf_collection_dropped_total{{{CHOSEN}}}[$__rate_interval]))",
                    "{{service_name}} {{perf_collection_name}}",
                )
            ],
            [memory, told],
        ),
    ]
    return board(
        "Caches",
        "Hit ratio, size and evictions of each cache, and of the bounded collections.",
        [("Now", summary), ("Each", each)],
    )
