"""The readiness timeline of a report."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from otel_perf.cli import text
from otel_perf.cli.sections import Section

if TYPE_CHECKING:
    from otel_perf.analysis.readiness import Readiness


def sections(readiness: Readiness) -> list[Section]:
    """Who waited for whom, how long, and the chain that decided when all was ready."""
    rows: list[tuple[int, list[str]]] = [
        (
            row.start_ns,
            [
                _time(row.start_ns), text.clip(row.service, 24),
                f"waits for {text.clip(', '.join(row.names), 50)}{_key(row.key)}",
                text.seconds(row.seconds), text.clip(_end(row.outcome, row.last, row.emitter, row.missing), 60),
            ],
        )
        for row in readiness.waits
    ] + [
        (
            emission.time_ns,
            [
                _time(emission.time_ns), text.clip(emission.agent or emission.service, 24),
                f"emits {text.clip(emission.name, 50)}{_key(emission.key)}", "",
                "" if emission.state == "ready" else text.clip(f"{emission.state}: {emission.reason}", 60),
            ],
        )
        for emission in readiness.emissions
    ]  # fmt: skip
    if not rows:
        return []
    rows.sort(key=lambda row: row[0])
    headings = ["AT", "WHO", "WHAT", "WAITED", "END"]
    section = Section("Readiness", headings, [row for _, row in rows], (0, 1, 2, 4))
    chain = readiness.chain
    if len(chain) > 1:
        steps = [f"{step.service} emits {step.name}{_after(step.waited, step.worked)}" for step in chain]
        section.after.append(f"critical chain: {' → '.join(steps)}")
    return [section]


def _time(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns / 1e9):%H:%M:%S.%f}"[:-3]


def _key(key: str) -> str:
    return f" [{key}]" if key else ""


def _end(outcome: str, last: str, emitter: str, missing: list[str]) -> str:
    if outcome == "ready":
        return f"{last} by {emitter}"
    if missing:
        return f"{outcome}: {', '.join(missing)} missing"
    return f"{outcome}: {last} by {emitter}" if last else outcome


def _after(waited: float, worked: float) -> str:
    return f" (waited {text.seconds(waited)}, then {text.seconds(worked)} of its own)" if waited or worked else ""
