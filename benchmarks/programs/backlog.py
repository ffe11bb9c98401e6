"""Fills a home folder with spans that wait for the endpoint of the environment. Arguments: HOME MEGABYTES."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_perf.core.home import STORE_FILE
from otel_perf.store import StoreSettings
from otel_perf.store.database import Database, NewBatch
from otel_perf.store.destination import mark
from otel_perf.store.exporter import encode_spans


def main(home: Path, size: int) -> None:
    """Store batches as large as the distribution makes them, until ``size`` bytes are there."""
    count = StoreSettings().batch
    made = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(made))
    for number in range(count):
        with provider.get_tracer("bench").start_as_current_span("GET /orders/{id}") as span:
            span.set_attributes({"order.id": number, "order.state": "open", "order.amount": 9.5})
    batch = NewBatch("traces", count, encode_spans(made.get_finished_spans()))
    home.mkdir(mode=0o700)
    owner = {"service": os.environ["OTEL_SERVICE_NAME"], "destination": mark(os.environ)}
    database = Database(home / STORE_FILE, limit=2 * size, **owner)
    while database.size < size:
        database.append([batch] * 100, time.time_ns())
    database.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) * 1_000_000)
