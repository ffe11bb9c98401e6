"""A service whose otel-perf is turned on and off: it works, calls another one like it, and says what is in place."""

import _thread
import asyncio
import functools
import gc
import logging
import os
import urllib.request

import fastapi
from opentelemetry import trace

import otel_perf as perf

app = fastapi.FastAPI()
log = logging.getLogger("flipped")
OURS = ("otel_perf.gc_tuning", "otel_perf.memory")  # others come and go with the load
tracer = trace.get_tracer("flipped")
live = [[number] for number in range(200_000)]  # what takes a full collection some milliseconds


@functools.lru_cache(maxsize=100)
def known(number):
    return [number]


@perf.monitored
def priced(number):
    return known(number)


@app.get("/work/{number}")
@perf.monitored
async def work(number: int):
    priced(number % 200)
    for _ in range(50):
        ring = []
        ring.append(ring)
    log.debug("work %d", number)
    await asyncio.sleep(0.001)
    return {"number": number}


@app.get("/collect")
async def collect():
    return {"found": gc.collect()}


@app.get("/many")
async def many():
    """Six queries, one after the other, here and in the service that ``PEER`` names: a finding in both."""
    for _ in range(6):
        with tracer.start_as_current_span(
            "SELECT stock", kind=trace.SpanKind.CLIENT, attributes={"db.system.name": "sqlite"}
        ):
            await asyncio.sleep(0.012)
    if "PEER" in os.environ:
        await asyncio.to_thread(lambda: urllib.request.urlopen(os.environ["PEER"], timeout=30).read())
    return {}


@app.get("/state")
async def state():
    from otel_perf.core import cleaning, collector, executors, forks, lookups
    from otel_perf.memory import singletons

    return {
        "threads": _thread._count(),
        "thresholds": gc.get_threshold(),
        "frozen": gc.get_freeze_count(),
        "gc": [type(gc.freeze).__name__, type(gc.collect).__name__, len(gc.callbacks)],
        "lru_cache": repr(functools._lru_cache_wrapper),
        "lines": logging.Logger.callHandlers.__module__,
        "tasks": [task.name for task in cleaning.tasks if task.name.startswith(OURS)],
        "told": [
            len(group)
            for group in (
                cleaning.changed, collector.lookers, collector.between, lookups.sources, singletons.closed,
                executors._watchers, forks._subscribers,
            )
        ],
    }  # fmt: skip
