"""``signals.py wait HAND SIGNALS IDLE``, and ``signals.py emit HAND SIGNALS``, which it starts.

``HAND`` is empty for ``perf.signals`` (whose board the environment names), ``event`` or ``watch``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from typing import Any

WAITERS = 1000
NAMES = 50  # that these wait for
SETTLED = 3.0  # seconds until nothing of the beginning is left
APART = (0.02, 0.06)  # seconds between two signals
BUCKET = "by_hand"


class Ours:
    """``perf.signals``."""

    async def begin(self) -> None:
        """Be ready."""
        import otel_perf as perf

        self._signals = perf.signals

    async def wait(self, name: str) -> int:
        """Wait for a signal; when it was sent."""
        return int((await self._signals.wait(name))[name].value)

    def emit(self, name: str) -> None:
        """Send one."""
        import otel_perf as perf

        perf.signals.emit(name, payload=time.monotonic_ns())


class Event:
    """An event of asyncio for each name, set from a thread."""

    async def begin(self) -> None:
        """Be ready."""
        self._loop = asyncio.get_running_loop()
        self._events: dict[str, asyncio.Event] = {}
        self._stamps: dict[str, int] = {}

    async def wait(self, name: str) -> int:
        """Wait for a signal; when it was sent."""
        await self._events.setdefault(name, asyncio.Event()).wait()
        return self._stamps[name]

    def emit(self, name: str) -> None:
        """Send one."""
        self._stamps[name] = time.monotonic_ns()
        self._loop.call_soon_threadsafe(lambda: self._events.setdefault(name, asyncio.Event()).set())


class Watch:
    """A key-value bucket of NATS: one watch, and an event for each name."""

    async def begin(self) -> None:
        """Be ready."""
        import nats
        from nats.js.errors import BucketNotFoundError

        self._client = await nats.connect(os.environ["OTEL_PERF_SIGNALS_URL"])
        stream = self._client.jetstream()
        try:
            self._bucket = await stream.key_value(BUCKET)
        except BucketNotFoundError:
            self._bucket = await stream.create_key_value(bucket=BUCKET)
        self._events: dict[str, asyncio.Event] = {}
        self._values: dict[str, int] = {}

    async def watch(self) -> None:
        """Take what comes."""
        watcher = await self._bucket.watchall()
        async for entry in watcher:
            if entry is not None and entry.value:
                self._values[entry.key] = int(entry.value)
                self._events.setdefault(entry.key, asyncio.Event()).set()

    async def wait(self, name: str) -> int:
        """Wait for a signal; when it was sent."""
        await self._events.setdefault(name, asyncio.Event()).wait()
        return self._values[name]

    async def put(self, name: str) -> None:
        """Send one."""
        await self._bucket.put(name, str(time.monotonic_ns()).encode())


def rest() -> float:
    """Until the next signal."""
    return random.uniform(*APART)


async def wait(hand: str, signals: int, idle: float) -> None:
    """Wait for the signals one after the other, then have a thousand wait for what does not come."""
    made: Any = {"": Ours, "event": Event, "watch": Watch}[hand]()
    await made.begin()
    run = f"{os.getpid()}_{time.time_ns()}"
    others = [asyncio.create_task(made.watch())] if hand == "watch" else []
    first = asyncio.create_task(made.wait(f"S_{run}_0"))
    await asyncio.sleep(0.5)
    process = None
    if hand == "event" or os.environ["OTEL_PERF_SIGNALS_URL"] == "memory:":
        threading.Thread(target=emit_here, args=(made, run, signals)).start()
    else:
        process = await asyncio.create_subprocess_exec(sys.executable, "-P", __file__, "emit", hand, str(signals), run)
    latencies = []
    for number in range(signals):
        sent = await (made.wait(f"S_{run}_{number}") if number else first)
        latencies.append((time.monotonic_ns() - sent) / 1e9)
    if process is not None and await process.wait() != 0:
        raise SystemExit("the emitting program failed")
    waiting = [asyncio.create_task(made.wait(f"NEVER_{run}_{number % NAMES}")) for number in range(WAITERS)]
    await asyncio.sleep(SETTLED)
    before, began = time.process_time(), time.perf_counter()
    await asyncio.sleep(idle)
    share = (time.process_time() - before) / (time.perf_counter() - began)
    print(json.dumps({"latencies": latencies, "idle": share}), flush=True)
    for task in (*waiting, *others):
        task.cancel()
    await asyncio.wait(waiting)
    os._exit(0)


def emit_here(made: Any, run: str, signals: int) -> None:
    """From a thread of the program that waits."""
    for number in range(signals):
        time.sleep(rest())
        made.emit(f"S_{run}_{number}")


async def emit_by_hand(run: str, signals: int) -> None:
    """From a program of its own, with nats-py."""
    made = Watch()
    await made.begin()
    for number in range(signals):
        await asyncio.sleep(rest())
        await made.put(f"S_{run}_{number}")
    await made._client.close()


def main() -> None:
    """Either side."""
    role, hand, *others = sys.argv[1:]
    if role == "wait":
        asyncio.run(wait(hand, int(others[0]), float(others[1])))
    elif hand == "watch":
        asyncio.run(emit_by_hand(others[1], int(others[0])))
    else:
        emit_here(Ours(), others[1], int(others[0]))


main()
