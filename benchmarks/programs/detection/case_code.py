"""Time in the program's own code, or in which it would have run if it had been let; and what only looks like it."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx
import requests
from case import DATABASE, TRUST, Case, bottleneck, connect, healthy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def compute(seconds: float) -> int:
    """Use so much CPU time of this thread in Python."""
    total, end = 0, time.thread_time() + seconds
    while time.thread_time() < end:
        total += sum(number * number % 7 for number in range(2000))
    return total


def compute_in_c(seconds: float) -> int:
    """The same, mostly in Python's own C code."""
    total, end = 0, time.thread_time() + seconds
    rows = [{"id": number, "name": f"item {number}", "tags": ["a", "b"]} for number in range(200)]
    while time.thread_time() < end:
        total += len(sorted(json.loads(json.dumps(rows)), key=lambda row: str(row["id"])))
    return total


def ask_uninstrumented(case: Case, seconds: float) -> bytes:
    """A protocol of one's own, that no instrumentor knows."""
    address = urlsplit(case.server)
    with socket.create_connection((address.hostname or "", address.port or 80)) as connection:
        connection.sendall(f"GET /legacy?ms={seconds * 1000:.0f} HTTP/1.1\r\n\r\n".encode())
        return connection.recv(4096)


@contextmanager
def module_on_disk(case: Case) -> Iterator[str]:
    """A large module that nobody has imported yet."""
    name = f"large_{case.id.replace('/', '_').replace('.', '_')}"
    folder = DATABASE.parent
    functions = int(1000 * case.over(1, at_most=4))
    (folder / f"{name}.py").write_text(
        "\n".join(
            f"def function_{n}(a, b=None):\n    return [a * {n} + i for i in range(b or 3)]\n" for n in range(functions)
        )
    )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield name


# --- self_time -----------------------------------------------------------------------------------------


@bottleneck("self_time")
def sleeps(case: Case) -> None:
    time.sleep(case.over(0.1))


@bottleneck("self_time")
def polls(case: Case) -> int:
    tries, end = 0, time.monotonic() + case.over(0.1)
    while time.monotonic() < end:
        tries += 1
        time.sleep(0.004)
    return tries


@bottleneck("self_time")
def waits_for_a_program(case: Case) -> None:
    subprocess.run(["sleep", str(case.over(0.1))], check=True)


@bottleneck("self_time", blame=(ask_uninstrumented,))
def asks_by_socket(case: Case) -> bytes:
    return ask_uninstrumented(case, case.over(0.1))


@bottleneck("self_time", blame=(compute,))
def half_computes(case: Case) -> None:
    compute(case.over(0.1) * 0.4)
    time.sleep(case.over(0.1) * 0.6)


@bottleneck("self_time", blame=(sleeps,))
async def hands_to_a_thread(case: Case) -> None:
    await asyncio.to_thread(sleeps, case)


@healthy("self_time", around=module_on_disk, first=True)
def first_import(case: Case) -> Any:
    return importlib.import_module(case.given)


@healthy("self_time")
async def only_awaits(case: Case) -> None:
    ready = asyncio.Event()
    asyncio.get_running_loop().call_later(case.over(0.1), ready.set)
    await ready.wait()
    await asyncio.sleep(case.over(0.02))


@healthy("self_time")
def short_sleep(case: Case) -> None:
    time.sleep(case.about(0.04))
    requests.get(case.url("profile", case.about(0.06)), timeout=30)


@healthy("self_time")
def mostly_asks(case: Case) -> Any:
    time.sleep(case.about(0.02))
    return requests.get(case.url("profile", case.over(0.1, at_most=0.4)), timeout=30).json()


# --- cpu_bound -----------------------------------------------------------------------------------------


@bottleneck("cpu_bound", blame=(compute,))
def computes(case: Case) -> int:
    return compute(case.over(0.1))


@bottleneck("cpu_bound", blame=(compute_in_c,))
def computes_in_c(case: Case) -> int:
    return compute_in_c(case.over(0.1))


@bottleneck("cpu_bound")
def sorts_inline(case: Case) -> int:
    end, chance = time.thread_time() + case.over(0.1), random.Random(case.seed)
    total = 0
    while time.thread_time() < end:
        total += len(sorted(chance.random() for _ in range(500)))
    return total


@bottleneck("cpu_bound", blame=(compute,))
def computes_and_asks(case: Case) -> Any:
    compute(case.over(0.1))
    return requests.get(case.url("profile", 0.03), timeout=30).json()


@bottleneck("cpu_bound", blame=(compute,))
async def computes_in_a_thread(case: Case) -> int:
    return await asyncio.to_thread(compute, case.over(0.1))


@healthy("cpu_bound")
def computes_briefly(case: Case) -> Any:
    compute(case.about(0.04))
    return requests.get(case.url("profile", case.over(0.03)), timeout=30).json()


@healthy("cpu_bound", around=module_on_disk, first=True)
def first_import_of_it(case: Case) -> Any:
    return importlib.import_module(case.given)


@healthy("cpu_bound")
def waits_for_the_database(case: Case) -> Any:
    with closing(connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*), pause(?) FROM item", (case.over(0.1, at_most=0.4),))
        return cursor.fetchone()


@healthy("cpu_bound")
async def awaits_an_answer(case: Case) -> Any:
    compute(0.01)
    async with httpx.AsyncClient(verify=TRUST) as client:
        return (await client.get(case.url("profile", case.over(0.08, at_most=0.4)))).json()


# --- cpu_starved ---------------------------------------------------------------------------------------

# (burning processes on the one CPU, their nice value): the thread waits for about 29, 50 and 75 % of its time.
STARVING = {1.5: (1, 4), 2.5: (1, 0), 5.0: (3, 0)}


@contextmanager
def one_cpu_with_others(case: Case) -> Iterator[None]:
    """This process and others that compute share one CPU."""
    allowed = os.sched_getaffinity(0)
    one = {sorted(allowed)[case.seed % len(allowed)]}
    number, nice = STARVING[case.strength]
    code = f"import os\nos.nice({nice})\nprint(flush=True)\nwhile 1: pass"
    _pin(one)
    burners = [subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) for _ in range(number)]
    try:
        for burner in burners:
            assert burner.stdout is not None
            burner.stdout.readline()
        time.sleep(0.1)
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.communicate()
        _pin(allowed)


def _pin(cpus: set[int]) -> None:
    for thread in os.listdir("/proc/self/task"):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread), cpus)


@bottleneck("cpu_starved", around=one_cpu_with_others, blame=("CPU",))
def computes_starved(case: Case) -> int:
    return compute(case.about(0.08))


@bottleneck("cpu_starved", around=one_cpu_with_others, blame=("CPU",))
def computes_in_c_starved(case: Case) -> int:
    return compute_in_c(case.about(0.08))


@healthy("cpu_starved")
def sleeps_a_little(case: Case) -> None:
    requests.get(case.url("profile", case.over(0.05, at_most=0.4)), timeout=30)
    time.sleep(case.about(0.04))


@healthy("cpu_starved")
def computes_alone(case: Case) -> int:
    return compute(case.about(0.07))


@healthy("cpu_starved", around=one_cpu_with_others)
def asks_while_others_compute(case: Case) -> Any:
    with closing(connect()) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT count(*), pause(?) FROM item", (case.over(0.1, at_most=0.4),))
        return cursor.fetchone()


# --- gil_wait ------------------------------------------------------------------------------------------


COMPUTED: Final = 0.08  # seconds, at most: 0.1 s would be a bottleneck by itself


def hog(stop: threading.Event) -> int:
    """Keep the interpreter busy."""
    total = 0
    while not stop.is_set():
        total += sum(number * number for number in range(500))
    return total


def hash_much(stop: threading.Event) -> None:
    """Keep a CPU busy without the interpreter."""
    data = bytes(2**24)
    while not stop.is_set():
        hashlib.sha256(data).digest()


@contextmanager
def _threads(run: Any, number: int) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=run, args=(stop,)) for _ in range(number)]
    for thread in threads:
        thread.start()
    time.sleep(0.03)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _hogs(case: Case) -> int:
    return {1.5: 2, 2.5: 2, 5.0: 3}[case.strength]  # so many that little computing waits for long


def hogs(case: Case) -> Any:
    case.prefaced = False  # a request would wait for them too
    return _threads(hog, _hogs(case))


def hashing(case: Case) -> Any:
    return _threads(hash_much, 1)


def _until_it_waited(step: Callable[[float], int], seconds: float) -> int:
    """Compute until it has waited so long: the interpreter is not shared evenly."""
    total, began, cpu, used = 0, time.perf_counter(), time.thread_time(), 0.0
    while used < COMPUTED and time.perf_counter() - began - used < seconds:
        total += step(0.005)
        used = time.thread_time() - cpu
    return total


@bottleneck("gil_wait", around=hogs, blame=(hog,))
def computes_among_hogs(case: Case) -> int:
    return _until_it_waited(compute, case.over(0.05))


@bottleneck("gil_wait", around=hogs, blame=(hog,))
def computes_in_c_among_hogs(case: Case) -> int:
    return _until_it_waited(compute_in_c, case.over(0.05))


@healthy("gil_wait", around=hashing)
def computes_beside_hashing(case: Case) -> int:
    return compute(case.about(0.07))


@healthy("gil_wait", around=hogs)
async def awaits_among_hogs(case: Case) -> None:
    await asyncio.sleep(case.over(0.05))


@healthy("gil_wait")
def computes_without_hogs(case: Case) -> int:
    return compute(case.about(0.07))
