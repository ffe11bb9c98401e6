"""Faults found in whole traces: how high ``otel-perf analyze`` ranks the service that each was injected into.

The data are Nezha's (Yu et al., ESEC/FSE 2023; MIT licence): a day each of OnlineBoutique and TrainTicket, with the
time, pod and type of every injected fault, and a fault-free period. A fault is ranked by the traces that started within
three minutes of its injection, which is as much as the data have of each, against the fault-free period alone; the
label is used for nothing but to check the answer. A fault of which the data have no trace is not counted, and is named.

The rule was chosen among some of its kind on these same latency faults, so n is what was fitted as well as tested. A
window of one to six minutes, a quantile of p90 to p99, and 10 to 50 % as the bound for an inflated pair of services all
give 17 or 18 of 19 first. Without the share above the p95 it is 17, without the division by the traces that pass 15,
without both 14; with every gap counted for the caller 8, for the one that answers 15.

The claim is about latency faults: CPU contention, CPU consumption and network delay make what they hit slower. The two
other types ("return", "exception") make a function answer wrongly or fail, which need not take any longer; they are in
the figures over all faults, beside which the published ones stand (Nezha's own paper; it reads logs and metrics too).
"""

from __future__ import annotations

import argparse
import json
import sys
from bisect import bisect_left
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import common

from otel_perf.analysis.ranking import Profile, by_trace, rank
from otel_perf.analysis.sources import Skipped, read, service_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from otel_perf.analysis.sources import Span

SYSTEMS: Final = {"2022-08-22": "OnlineBoutique", "2023-01-29": "TrainTicket"}
LATENCY: Final = ("cpu_consumed", "cpu_contention", "network_delay")
WINDOW: Final = 180 * 10**9  # ns
COLUMNS: Final = ("", "n", "top-1 %", "top-3 %", "MRR")
PUBLISHED: Final = {"MicroRank": (41.0, 16.0), "TraceAnomaly": (30.0, 13.0), "Nezha": (93.0, 87.0)}  # top-1, %


@dataclass(frozen=True, slots=True)
class Fault:
    """One injected fault, and where it came in the ranking: 0 if it is not there, ``None`` without traces."""

    system: str
    kind: str
    label: str
    rank: int | None
    first: str


def faults(folder: Path, day: str) -> Iterator[Fault]:
    """Every fault of one day."""
    baseline = Profile(traces(folder / f"{day}-faultfree.csv.xz"))
    seen = sorted(traces(folder / f"{day}-traces.csv.xz"), key=_start)
    starts = [_start(spans) for spans in seen]
    for hour in json.loads((folder / f"{day}-faults.json").read_text()).values():
        for fault in hour:
            # inject_timestamp is that of another time zone for some; inject_time is in UTC, as the spans are.
            at = int(datetime.fromisoformat(fault["inject_time"]).replace(tzinfo=UTC).timestamp()) * 10**9
            window = seen[bisect_left(starts, at) : bisect_left(starts, at + WINDOW)]
            service = service_of(fault["inject_pod"])
            label = f"{SYSTEMS[day]} {fault['inject_time'][11:]} {fault['inject_type']} of {service}"
            names = [row.service for row in rank(Profile(window), baseline, top=sys.maxsize).services]
            place = names.index(service) + 1 if service in names else 0
            yield Fault(SYSTEMS[day], fault["inject_type"], label, place if window else None, (names or ["none"])[0])


def traces(path: Path) -> Collection[list[Span]]:
    """The traces of a file, none of whose lines is skipped."""
    skipped = Skipped()
    found = by_trace(read(path, skipped))
    if skipped.count:
        raise ValueError(f"{path}: {skipped.first}")
    return found


def _start(spans: Sequence[Span]) -> int:
    return min(span.start for span in spans)


def row(title: str, found: Sequence[Fault]) -> list[str | float]:
    """The figures over some faults."""
    places = [fault.rank or 0 for fault in found]
    count = len(places)
    if not count:
        return [title, 0, "", "", ""]
    hits = [100 * sum(0 < place <= limit for place in places) / count for limit in (1, 3)]
    return [title, count, *hits, sum(1 / place for place in places if place) / count]


def main() -> int:
    """Rank, print and judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--data", type=Path, default=common.ROOT.parent / "shared" / "data", help="Nezha's traces")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    every = [fault for day in SYSTEMS for fault in faults(options.data, day)]
    found = [fault for fault in every if fault.rank is not None]
    latency = [fault for fault in found if fault.kind in LATENCY]
    report = common.Report()
    for system in SYSTEMS.values():
        own = [fault for fault in found if fault.system == system]
        kinds = sorted({fault.kind for fault in own})
        rows = [row(kind, [fault for fault in own if fault.kind == kind]) for kind in kinds]
        rows += [row("latency faults", [fault for fault in own if fault.kind in LATENCY]), row("all faults", own)]
        report.tables.append(common.Table(f"{system}, by type of fault", COLUMNS, rows))
    both = common.Table("Both", COLUMNS, [row("latency faults", latency), row("all faults", found)])
    report.tables.append(both)
    ours = [float(table.rows[-1][2]) for table in report.tables[: len(SYSTEMS)]]
    published = common.Table(
        "All faults, top-1 %; the published ones are over all days of the study", ["", *SYSTEMS.values()]
    )
    published.rows = [["otel-perf, traces only", *ours], *([name, *values] for name, values in PUBLISHED.items())]
    report.tables.append(published)
    missed = common.Table("Latency faults not ranked first, and faults without traces", ["", "place", "first"])
    missed.rows = [
        [fault.label, "no traces" if fault.rank is None else fault.rank or "not found", fault.first]
        for fault in every
        if fault.rank is None or (fault.kind in LATENCY and fault.rank != 1)
    ]
    report.tables.append(missed)
    _, count, first, third, _ = both.rows[0]
    report.bounds.append(common.Bound(f"latency faults (n={count}), top-1 %", float(first), 80, at_least=True))
    report.bounds.append(common.Bound(f"latency faults (n={count}), top-3 %", float(third), 95, at_least=True))
    return report.finish(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
