"""CPU time and memory of the bottleneck processor against the SDK alone; prints JSON.

Requests of six spans (a server's, a function's, four database calls) and one of its own, all of them quick: what nearly
every span of a healthy service costs. Rounds of both kinds alternate in this one process.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from otel_perf.bottlenecks.baseline import Baselines
from otel_perf.bottlenecks.processor import BottleneckProcessor
from otel_perf.core.guard import Guard, strict
from otel_perf.testing import SequentialIds

REQUESTS = 100
SPANS = 6
OPEN = 10_000
CHILDREN = 1_000_000


def tracer(*, watched: bool) -> tuple[trace.Tracer, BottleneckProcessor | None]:
    """A tracer whose spans go to a processor that does nothing, straight or through ours."""
    provider = TracerProvider(id_generator=SequentialIds())
    if not watched:
        provider.add_span_processor(SpanProcessor())
        return provider.get_tracer("bench"), None
    processor = BottleneckProcessor(lambda: Guard("bench"), Baselines())
    processor.on, processor.finished, processor.begun = True, lambda _: None, lambda _: None
    processor.feed(SpanProcessor())
    provider.add_span_processor(processor)
    return provider.get_tracer("bench"), processor


def requests(made: trace.Tracer) -> float:
    """CPU seconds a span."""
    server, client = trace.SpanKind.SERVER, trace.SpanKind.CLIENT
    statement = {"db.system": "sqlite", "db.statement": "SELECT name FROM item WHERE id = ?"}
    start = time.process_time()
    for _ in range(REQUESTS):
        with made.start_as_current_span("GET /items", kind=server), made.start_as_current_span("load"):
            for _ in range(SPANS - 2):
                with made.start_as_current_span("SELECT", kind=client, attributes=statement):
                    pass
    return (time.process_time() - start) / REQUESTS / SPANS


def kept_by(spans: int) -> int:
    """Bytes that stay after ``spans`` spans in requests without a finding."""
    made, _ = tracer(watched=True)
    for _ in range(5):
        requests(made)
    tracemalloc.start()
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(spans // (REQUESTS * SPANS)):
        requests(made)
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return after - before


def bytes_of_open() -> tuple[float, int]:
    """Bytes of ours for each of 10,000 open spans, and how many more were not recorded."""
    made, processor = tracer(watched=True)
    assert processor is not None
    spans = [made.start_span("open") for _ in range(OPEN)]
    used = sum(map(sys.getsizeof, processor.open.values())) + sys.getsizeof(processor.open)
    used += sum(sys.getsizeof(root) + sys.getsizeof(root.ended) for root in processor.roots.values())
    more = [made.start_span("more") for _ in range(OPEN)]
    skipped = processor.skipped
    for span in (*spans, *more):
        span.end()
    assert not processor.open
    assert not processor.roots
    return used / OPEN, skipped


def bytes_of_children() -> int:
    """Bytes that a parent holds when it has had a million children."""
    made, processor = tracer(watched=True)
    assert processor is not None
    tracemalloc.start()
    with made.start_as_current_span("parent"):
        for _ in range(CHILDREN):
            made.start_span("child").end()
        used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used


def main() -> None:
    """Measure, and print."""
    strict(True)
    rounds = int(sys.argv[1])
    alone, ours = tracer(watched=False)[0], tracer(watched=True)[0]
    figures: dict[str, list[float]] = {"alone": [], "ours": []}
    for number in range(rounds + 3):
        first = number % 2
        pair = [("alone", alone), ("ours", ours)]
        for name, made in (pair[first], pair[1 - first]):
            took = requests(made)
            if number >= 3:
                figures[name].append(took)
    each, skipped = bytes_of_open()
    print(
        json.dumps(
            figures
            | {
                "open": each,
                "skipped": skipped,
                "kept": kept_by(120_000),
                "children": bytes_of_children(),
            }
        )
    )


if __name__ == "__main__":
    main()
