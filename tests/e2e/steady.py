"""Workers that make spans at a steady pace and write down which, for tests that kill them or what they send to.

They make none while there is a file ``quiet`` in their folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e import programs
from tests.e2e.support import Running

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = """
import sys, time
from pathlib import Path
from opentelemetry import trace
tracer = trace.get_tracer("t")
made = Path(sys.argv[1]).open("a", buffering=1)
quiet = Path(sys.argv[1]).with_name("quiet")
attributes = {"note": "x" * int(sys.argv[3])}
while True:
    if quiet.exists():
        time.sleep(0.1)
        continue
    span = tracer.start_span("work", attributes=attributes); span.end()
    context = span.get_span_context()
    made.write(f"{context.trace_id:032x} {context.span_id:016x}\\n")
    time.sleep(float(sys.argv[2]))
"""


def worker(home: Path, folder: Path, number: int, pause: float = 0.002, note: int = 0, **variables: str) -> Running:
    """Worker ``number``, a span with ``note`` characters every ``pause`` seconds; to be entered with ``with``."""
    command = programs.command(PROGRAM, str(folder / f"made-{number}"), str(pause), str(note))
    environ = programs.environment(home, OTEL_PERF_STORE_DELAY="50ms", **variables)
    return Running(command, environ, folder, folder / f"worker-{number}.log")


def made_in_order(folder: Path, number: int) -> list[tuple[str, ...]]:
    """Trace and span ids that the worker has written down; a line cut short is left out."""
    file = folder / f"made-{number}"
    lines = file.read_text().splitlines() if file.exists() else []
    return [tuple(line.split()) for line in lines if len(line) == 49]


def made_by(folder: Path, number: int) -> set[tuple[str, ...]]:
    """The same, as a set."""
    return set(made_in_order(folder, number))
