"""Does what the shop does not, again and again until SIGTERM, so that each metric has a series.

Two agents wait for one another's signals; functions are monitored, caches and collections overflow, memory is short
(``OTEL_PERF_MEMORY_LIMIT`` is set below what this takes), a check fails, the event loop is held up, a collection takes
long, and events are told, some of them wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import time

from opentelemetry import trace

import otel_perf as perf

log = logging.getLogger("everything")
tracer = trace.get_tracer("everything")
kept: list[object] = [{"row": number, "cells": [number]} for number in range(int(os.environ.get("KEPT") or 40_000))]
pages = perf.LRUCache("pages", max_entries=50)
recent = perf.BoundedDeque([], "recent", limit=20)
held = perf.LRUCache("held", max_entries=10**6)


@perf.health.check("stock", critical=False, every=1.0)
def stock() -> None:
    raise ConnectionError("no stock")


@perf.health.check("prices", critical=True, every=1.0)
def prices() -> None:
    pass


@perf.on_memory_pressure(priority=10)
def give_back(level: str, wanted: int) -> int:
    freed = sum(map(len, held.values()))
    held.clear()
    return freed


@perf.cleanup_task(every="1s")
def sweep():
    for _ in range(10):
        yield


@perf.cached(max_entries=30, ttl=60)
def price(number: int) -> int:
    return number * 7


@perf.monitored
def part(number: int) -> int:
    if number % 13 == 0:
        raise ValueError("thirteen is not sold")
    return sum(range(number * 20)) + price(number)


@perf.monitored(span="always")
def whole(number: int) -> None:
    if number % 10 == 0:
        time.sleep(0.06)
    for each in range(number, number + 5):
        with contextlib.suppress(ValueError):
            part(each)


def turn(number: int) -> None:
    """One piece of work."""
    with tracer.start_as_current_span("turn", kind=trace.SpanKind.SERVER, attributes={"http.route": "/turn"}) as span:
        whole(number % 40)
        pages[number % 200] = number
        pages.get(number % 60), pages.get(-1)
        recent.append(number)
        held[number] = bytes(200_000)
        log.info("turn %d", number)
        logging.getLogger("everything.chatty").info("dropped by a rule")
        perf.business_event("order.placed", order_id=number, amount=number * 1.5)
        if number % 5 == 0:
            perf.business_event("", order_id=number)  # not what an event is
            try:
                part(13)
            except ValueError as error:
                log.exception("turn %d failed", number)
                span.set_status(trace.StatusCode.ERROR, str(error))
        if number % 20 == 0:
            gc.collect()
            perf.audit_event("role.changed", actor="admin", target="user", outcome="success", number=number)


async def pack(number: int) -> None:
    """An agent that waits for the other one, and is not answered the tenth time."""
    with tracer.start_as_current_span("pack"):
        with contextlib.suppress(TimeoutError):
            await perf.signals.wait("PICKED" if number % 10 else "NEVER", key=str(number), timeout=0.5)
        perf.signals.emit("PACKED", key=str(number), agent="packer")


async def pick(number: int) -> None:
    with tracer.start_as_current_span("pick"):
        await asyncio.sleep(0.02)
        perf.signals.emit("PICKED", key=str(number), agent="picker")


async def hold_up() -> None:
    """A request that nothing else is served beside."""
    with tracer.start_as_current_span("hold up", kind=trace.SpanKind.SERVER, attributes={"http.route": "/hold"}):
        await asyncio.sleep(0)
        time.sleep(0.2)  # noqa: ASYNC251 - the loop is held up


async def main() -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    print("ready", flush=True)
    number = 0
    while not stopped.is_set():
        number += 1
        await asyncio.to_thread(turn, number)
        await asyncio.gather(pack(number % 100), pick(number % 100))
        if number % 10 == 0:
            await hold_up()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), 0.1)
    print(json.dumps({"turns": number}), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main())
