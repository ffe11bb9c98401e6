"""Makes spans with the plain API at a steady rate. Arguments: FILE RATE SECONDS [hold].

FILE gets trace and span id, 24 bytes together, of every span; then, with ``hold``, the program stays until the end
of standard input; last FILE.json says how it went, and when by the monotonic clock the program's own code ended.
"""

from __future__ import annotations

import json
import sys
import time
from array import array
from pathlib import Path

from opentelemetry import trace

TICK = 0.01  # seconds between two bursts
LOW = (1 << 64) - 1


def make(rate: int, seconds: int) -> tuple[array[int], float]:
    """The ids of ``rate * seconds`` spans, three numbers each, and by how many seconds the latest burst was late.

    Each burst has its own time, whenever the one before was: what is late is caught up with.
    """
    start_span = trace.get_tracer("bench").start_as_current_span
    ids = array("Q")
    made, late = 0, 0.0
    begin = time.monotonic()
    for tick in range(1, round(seconds / TICK) + 1):
        early = begin + tick * TICK - time.monotonic()
        if early > 0:
            time.sleep(early)
        late = max(late, -early)
        due = round(rate * tick * TICK)
        for number in range(made, due):
            with start_span("load order") as span:
                span.set_attributes({"order.id": number, "order.state": "open", "order.amount": 9.5})
                context = span.get_span_context()
                ids.extend((context.trace_id >> 64, context.trace_id & LOW, context.span_id))
        made = due
    return ids, late


def main(file: Path, rate: int, seconds: int, *, hold: bool) -> None:
    """Make them and say so."""
    ids, late = make(rate, seconds)
    if hold:
        trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined,unused-ignore]
    if sys.byteorder == "little":
        ids.byteswap()  # as they are sent
    part = file.with_name(f"{file.name}.part")
    part.write_bytes(ids.tobytes())
    part.rename(file)
    if hold:
        sys.stdin.read()
    said = {"made": len(ids) // 3, "late": late, "ended": time.monotonic()}
    file.with_name(f"{file.name}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), hold=sys.argv[4:] == ["hold"])
