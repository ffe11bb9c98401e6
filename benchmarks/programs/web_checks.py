"""The application of benchmarks/health.py: that of benchmarks/requests.py, with checks, some of which hang or raise."""

import asyncio
import time

import web
from sqlalchemy import text

import otel_perf as perf

app = web.app


@perf.health.check("db", critical=True, every=1)
def db() -> None:
    """A query."""
    with web.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


@perf.health.check("queue", every=1)
async def queue() -> None:
    """In the loop of the app."""
    await asyncio.sleep(0.01)


@perf.health.check("hangs", timeout=0.5, every=1)
def hangs() -> None:
    """For the length of a measurement."""
    time.sleep(3600)


@perf.health.check("raises", every=1)
def raises() -> None:
    """Each time."""
    raise ConnectionError("no route to host")
