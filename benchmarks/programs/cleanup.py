"""Requests at a steady rate beside a cache of expired entries, and what drops these; prints JSON.

Arguments: HOW (none, slices, one-go), ENTRIES, RATE, SECONDS. Latencies count from when a request was due: one that
was held up holds up those after it, and theirs count, too. It ends when the time is up, or when all have been dropped.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from math import inf
from typing import Any, Final

from otel_perf import TTLCache
from otel_perf.cleanup import scheduler
from otel_perf.core import cleaning
from otel_perf.memory import expired

HOT: Final = 1_000  # entries that the requests use
WARM_UP: Final = 1.0  # seconds
PAYLOAD: Final = json.dumps({"items": [{"id": number, "name": f"item {number}"} for number in range(16)]})


def request(cache: TTLCache[Any, Any], number: int) -> None:
    """What a small service does: parse, look up, change, store, encode; about 0.1 ms."""
    found = json.loads(PAYLOAD)
    for item in found["items"]:
        item["known"] = cache.get(("hot", (number + item["id"]) % HOT))
    cache["new", number] = number
    json.dumps(found)


def load(cache: TTLCache[Any, Any], rate: float, seconds: float, over: threading.Event) -> list[float]:
    """Requests, each when it is due or as soon after that as can be; how late each was done (s)."""
    latencies: list[float] = []
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        early = due - time.perf_counter()
        if early > 0:
            time.sleep(early)
        request(cache, number)
        latencies.append(time.perf_counter() - due)
        if over.is_set():
            break
    return latencies


def begin(how: str, over: threading.Event) -> list[Any]:
    """Have the expired entries dropped, or not; where the finished run is told."""
    told: list[Any] = []

    def tell(run: Any) -> None:
        if run.amount or run.error is not None:
            told.append(run)
            over.set()

    def at_once() -> None:
        for _ in expired():
            pass
        over.set()

    if how == "slices":  # as the feature "cleanup" does it, only sooner
        made = scheduler.Scheduler(tell)
        cleaning.register("expired entries", expired, 0.01, deadline=inf)
        made.start()
    elif how == "one-go":
        threading.Thread(target=at_once, daemon=True).start()
    return told


def main(how: str, entries: int, rate: float, seconds: float) -> None:
    """One round."""
    now = 0.0
    cache: TTLCache[Any, Any] = TTLCache("swept", ttl=1e9, max_entries=2 * entries, clock=lambda: now)
    for number in range(entries):
        cache.put(number, str(number), 1.0 + number / entries)
    for number in range(HOT):
        cache["hot", number] = number
    gc.collect()
    gc.freeze()  # as the feature gc_tuning does after the first long pause: else those are most of what is measured
    over = threading.Event()
    load(cache, rate, WARM_UP, over)
    now = 10.0
    before, cpu, wall = cache.cache_info().expirations, time.process_time(), time.perf_counter()
    told = begin(how, over)
    latencies = load(cache, rate, seconds, over)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    swept = cache.cache_info().expirations - before
    errors = [str(run.error) for run in told if run.error is not None]
    print(json.dumps({"latencies": latencies, "swept": swept, "seconds": wall, "cpu": cpu, "errors": errors}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
