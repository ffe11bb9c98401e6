"""Copies stacks as fast as it can, of threads, tasks and contexts that never stand still; for some seconds."""

import asyncio
import faulthandler
import os
import sys
import threading
import time

from otel_perf.bottlenecks import frames
from otel_perf.bottlenecks.watchdog import _inherited

END = time.monotonic() + float(sys.argv[1])
looks = 0


def watch(tasks):
    global looks
    while time.monotonic() < END:
        frames.threads(200)
        os.stat("/")  # gives the interpreter away, as a heartbeat does
        for task in tasks.copy():
            frames.awaited(task.get_coro(), 200)
            _inherited(task, {})
        looks += 1
        time.sleep(0.0002)


def deep(levels):
    return levels and deep(levels - 1) + len(list(range(3)))


def numbers():
    for _ in range(5):
        yield deep(8)


async def leaf():
    await asyncio.sleep(0)
    return sum(numbers())


async def main(tasks):
    while time.monotonic() < END:
        started = [asyncio.ensure_future(leaf()) for _ in range(30)]
        tasks[:] = started
        await asyncio.gather(*started)


def work():
    while time.monotonic() < END:
        deep(30)
        sorted(range(20), key=lambda number: deep(number % 3))


faulthandler.enable()
sys.setswitchinterval(1e-5)
running = []
threads = [threading.Thread(target=watch, args=(running,)), *(threading.Thread(target=work) for _ in range(3))]
for thread in threads:
    thread.start()
asyncio.run(main(running))
for thread in threads:
    thread.join()
print(looks)
