"""Requests at a steady rate beside a cache of expired entries, and what drops these; prints JSON.

Arguments: HOW (slices, one-go), ENTRIES, RATE, SECONDS. Latencies count from when a request was due: one that was held
up holds up those after it, and theirs count, too. ``slices``: pairs of SECONDS without and with what the feature
``cleanup`` does, in turn, until all have been dropped. ``one-go``: a thread drops all without a rest.
"""

from __future__ import annotations

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
NOT_COUNTED: Final = 0.25  # seconds at the beginning of each slice
LONGEST: Final = 120.0  # seconds that a sweep without a rest may take
PAYLOAD: Final = json.dumps({"items": [{"id": number, "name": f"item {number}"} for number in range(16)]})


def request(cache: TTLCache[Any, Any], number: int) -> None:
    """What a small service does: parse, look up, change, store, encode; about 0.1 ms."""
    found = json.loads(PAYLOAD)
    for item in found["items"]:
        item["known"] = cache.get(("hot", (number + item["id"]) % HOT))
    cache["new", number] = number
    json.dumps(found)


def load(cache: TTLCache[Any, Any], rate: float, seconds: float, over: threading.Event | None = None) -> list[float]:
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
        if over is not None and over.is_set():
            break
    return latencies


def in_turn(cache: TTLCache[Any, Any], entries: int, rate: float, seconds: float) -> dict[str, Any]:
    """Slices of time without a sweep and with it, until all is dropped, without the pair in which that happens."""
    errors: list[str] = []

    def tell(run: Any) -> None:
        if run.error is not None:
            errors.append(str(run.error))

    def is_over() -> bool:
        return cache.cache_info().expirations - before >= entries

    def part(*, sweep: bool) -> list[float]:
        if sweep:
            made.start()
        began = time.perf_counter()
        load(cache, rate, NOT_COUNTED)
        latencies = load(cache, rate, seconds)
        swept[sweep] += time.perf_counter() - began
        made.end()
        return latencies

    made, before, swept = scheduler.Scheduler(tell), cache.cache_info().expirations, [0.0, 0.0]
    cleaning.register("expired entries", expired, 0.01, deadline=inf)  # as the feature does it, only sooner
    made.end()
    pairs: list[list[list[float]]] = []
    while not errors:
        first = len(pairs) % 2 == 1
        halves = {sweep: part(sweep=sweep) for sweep in (first, not first)}
        if is_over():
            break
        pairs.append([halves[False], halves[True]])
    dropped = cache.cache_info().expirations - before
    return {"pairs": pairs, "swept": dropped, "seconds": swept[True], "errors": errors}


def in_one_go(cache: TTLCache[Any, Any], rate: float) -> dict[str, Any]:
    """The same work by a thread without a rest."""
    over, before, began = threading.Event(), cache.cache_info().expirations, time.perf_counter()

    def at_once() -> None:
        for _ in expired():
            pass
        over.set()

    threading.Thread(target=at_once, daemon=True).start()
    latencies = load(cache, rate, LONGEST, over)
    took = time.perf_counter() - began
    return {"latencies": latencies, "swept": cache.cache_info().expirations - before, "seconds": took, "errors": []}


def main(how: str, entries: int, rate: float, seconds: float) -> None:
    """One process."""
    now = 0.0
    cache: TTLCache[Any, Any] = TTLCache("swept", ttl=1e9, max_entries=2 * entries, clock=lambda: now)
    for number in range(entries):
        cache.put(number, str(number), 1.0 + number / entries)
    for number in range(HOT):
        cache["hot", number] = number
    load(cache, rate, WARM_UP)
    now = 10.0
    found = in_turn(cache, entries, rate, seconds) if how == "slices" else in_one_go(cache, rate)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))
