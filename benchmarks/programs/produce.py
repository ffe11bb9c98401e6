"""Makes real SDK spans into the store and prints one JSON line per slice of them, then one for the end.

Arguments: HOME SPANS SLICES LIMIT.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

from otel_perf.core.home import HOME_VARIABLE, Home
from otel_perf.providers import HashedResource
from otel_perf.store import StoreSettings
from otel_perf.store.exporter import StoreSpanProcessor, encode_spans
from otel_perf.store.writer import Lane, Writer

if TYPE_CHECKING:
    from collections.abc import Callable

FLOOR_SPANS = 10_000
PARTS = 10  # of a slice; its cost is the median of theirs, since the machine has other work


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def make(start_span: Callable[..., Any], count: int) -> None:
    """``count`` spans, nine of ten under one of the others, each of these with three attributes."""
    for _ in range(count // 10):
        with start_span("GET /orders/{id}"):
            for number in range(9):
                with start_span("load order") as span:
                    span.set_attributes({"order.id": number, "order.state": "open", "order.amount": 9.5})


class Floor(SpanProcessor):
    """What no store can do without: takes each span and encodes it with its batch, for nobody."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Encode when a batch is full."""
        self.spans.append(span)
        if len(self.spans) >= self.batch:
            encode_spans(self.spans)
            self.spans.clear()


def floor_of(resource: Resource, batch: int) -> Callable[[], float]:
    """Measures CPU seconds a span of making and encoding alone: the yardstick of the machine's speed just now."""
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(Floor(batch))
    start_span = provider.get_tracer("bench").start_as_current_span

    def measure() -> float:
        before = time.thread_time()
        make(start_span, FLOOR_SPANS)
        return (time.thread_time() - before) / FLOOR_SPANS

    return measure


def main(home: Path, spans: int, slices: int, limit: int) -> None:
    """Make ``spans`` spans, each with a parent and three attributes, as fast as the store takes them."""
    settings = StoreSettings()
    writer = Writer(
        Home({HOME_VARIABLE: str(home)}),
        delay=settings.delay,
        limit=limit,
        fsync=settings.fsync,
        problem=lambda line: print(line, file=sys.stderr),
    )
    lane = Lane("traces", encode_spans, limit=settings.queue, batch=settings.batch)
    writer.lanes.append(lane)
    processor = StoreSpanProcessor(writer, lane)
    processor.on = True
    resource = HashedResource.of(Resource.create({"service.name": "bench"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    start_span = provider.get_tracer("bench").start_as_current_span
    files = [home / "telemetry.db", home / "telemetry.db-wal"]

    floor = floor_of(resource, settings.batch)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    for _ in range(slices):
        cpu = []
        for _ in range(PARTS):
            before = time.process_time()
            make(start_span, spans // slices // PARTS)
            cpu.append((time.process_time() - before) / (spans // slices // PARTS))
        size = sum(file.stat().st_size for file in files if file.exists())
        paused, paused_cpu = time.perf_counter(), time.process_time()
        provider.force_flush(60_000)
        found = {"cpu": statistics.median(cpu), "floor": floor(), "rss": resident(), "size": size}
        begin += time.perf_counter() - paused
        begin_cpu += time.process_time() - paused_cpu
        print(json.dumps(found), flush=True)
    flushed = provider.force_flush(60_000)
    wall, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    with sqlite3.connect(home / "telemetry.db") as reader:
        evicted = reader.execute("SELECT coalesce(sum(items), 0) FROM dropped").fetchone()[0]
        present = reader.execute("SELECT sum(items) FROM batch").fetchone()[0]
    print(json.dumps({
        "wall": wall, "cpu": cpu_seconds, "flushed": flushed, "committed": writer.stored, "present": present,
        "evicted": evicted, "lost": lane.dropped - evicted,
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]))
