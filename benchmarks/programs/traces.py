"""Makes traces of ten spans, a request and its queries, at a steady rate. Arguments: FILE RATE SECONDS.

RATE is in spans a second. FILE gets trace and span id, 24 bytes together, of every span when all are made and stored;
then the program stays until the end of standard input. Last, FILE.json says how it went, and which CPU time that took.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from pathlib import Path

from opentelemetry import trace

SPANS = 10  # of a trace
TICK = 0.05  # seconds between two bursts
LOW = (1 << 64) - 1
REQUEST = {
    "http.request.method": "GET", "url.path": "/orders/17", "url.scheme": "http", "http.route": "/orders/{id}",
    "server.address": "shop.example.org", "server.port": 8000, "client.address": "10.0.0.1",
    "network.protocol.version": "1.1", "user_agent.original": "python-httpx/0.28.1", "http.response.status_code": 200,
}  # fmt: skip
QUERY = {
    "db.system.name": "sqlite", "db.namespace": "shop", "db.operation.name": "SELECT",
    "db.query.text": "SELECT id, state, amount FROM orders WHERE id = ?", "server.address": "localhost",
}  # fmt: skip


def make(rate: int, seconds: int) -> tuple[array[int], float]:
    """The ids of ``rate * seconds`` spans, three numbers each, and how many seconds that took."""
    tracer = trace.get_tracer("bench")
    ids = array("Q")
    made = 0

    def note(span: trace.Span) -> None:
        context = span.get_span_context()
        ids.extend((context.trace_id >> 64, context.trace_id & LOW, context.span_id))

    begin = time.monotonic()
    for tick in range(1, round(seconds / TICK) + 1):
        early = begin + tick * TICK - time.monotonic()
        if early > 0:
            time.sleep(early)
        due = round(rate * tick * TICK) // SPANS
        for _ in range(made, due):
            with tracer.start_as_current_span(
                "GET /orders/{id}", kind=trace.SpanKind.SERVER, attributes=REQUEST
            ) as span:
                note(span)
                for _ in range(SPANS - 1):
                    with tracer.start_as_current_span(
                        "SELECT shop", kind=trace.SpanKind.CLIENT, attributes=QUERY
                    ) as query:
                        note(query)
        made = due
    return ids, time.monotonic() - begin


def main(file: Path, rate: int, seconds: int) -> None:
    """Make them and say so."""
    before = time.process_time()
    ids, took = make(rate, seconds)
    trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined,unused-ignore]
    if sys.byteorder == "little":
        ids.byteswap()  # as they are sent
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(ids.tobytes())
    part.rename(file)
    sys.stdin.read()
    said = {"made": len(ids) // 3, "took": took, "cpu": time.process_time() - before}
    file.with_name(f"{file.name}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
