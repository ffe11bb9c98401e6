"""Writes audit records from a given moment on for some seconds; prints how many, and what a call took."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
import threading
import time
from pathlib import Path

from otel_perf.logs.audit import events

FIELDS = {
    "actor": "alice@example.org",
    "target": "role:admin",
    "outcome": "success",
    "reason": "on call",
    "ticket": 4711,
}


def floor(until: float) -> list[float]:
    """One row a transaction, nothing else."""
    home = Path(os.environ["OTEL_PERF_HOME"])
    home.mkdir(exist_ok=True)
    connection = sqlite3.connect(home / "floor.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)")
    body, took = b"x" * 300, []
    while (began := time.time()) < until:
        connection.execute("INSERT INTO t(body) VALUES (?)", (body,))
        took.append(time.time() - began)
    return took


def alone(until: float) -> list[float]:
    """One call after the other."""
    took = []
    while (began := time.time()) < until:
        events.audit_event("role.changed", **FIELDS)
        took.append(time.time() - began)
    return took


def threads(until: float) -> list[float]:
    """Twenty threads, one call after the other in each."""
    took: list[float] = []
    running = [threading.Thread(target=lambda: took.extend(alone(until))) for _ in range(20)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return took


def tasks(until: float, count: int = 1000) -> list[float]:
    """So many tasks at a time."""
    took: list[float] = []

    async def work() -> None:
        while (began := time.time()) < until:
            await events.audit_event_async("role.changed", **FIELDS)
            took.append(time.time() - began)

    async def main() -> None:
        await asyncio.gather(*(work() for _ in range(count)))

    asyncio.run(main())
    return took


def main() -> None:
    """Wait for the moment, then write."""
    mode, start, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    modes = {
        "floor": floor,
        "alone": alone,
        "threads": threads,
        "tasks": tasks,
        "some": lambda until: tasks(until, 100),
    }
    time.sleep(max(0.0, start - time.time()))
    took = sorted(modes[mode](start + seconds))
    print(json.dumps({"made": len(took), "median": took[len(took) // 2], "p99": took[int(len(took) * 0.99)]}))


main()
