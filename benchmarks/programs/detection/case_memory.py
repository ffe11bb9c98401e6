"""Memory that a process gets for one operation; and what only looks like it."""

from __future__ import annotations

import asyncio
import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import requests
from case import DATABASE, Case, bottleneck, healthy

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
LEAST = 64 * MIB
buffer = bytearray()  # used again and again


@contextmanager
def trimmed(case: Case) -> Iterator[None]:
    """What earlier operations have freed is the system's again, so that this one has to get its own."""
    ctypes.CDLL(None).malloc_trim(0)
    yield


@contextmanager
def large_file(case: Case) -> Iterator[Any]:
    """A file to be read at once."""
    ctypes.CDLL(None).malloc_trim(0)
    path = DATABASE.parent / f"large-{case.seed}"
    with path.open("wb") as file:
        file.truncate(int(case.over(LEAST)))
    yield path
    path.unlink()


@contextmanager
def kept_buffer(case: Case) -> Iterator[None]:
    """A buffer that is there already."""
    if len(buffer) < 4 * LEAST:
        buffer.extend(bytes(4 * LEAST - len(buffer)))
    yield


@bottleneck("memory_growth", around=large_file)
def reads_a_file_at_once(case: Case) -> int:
    data = case.given.read_bytes()
    requests.get(case.url("profile", 0.06), timeout=30)
    return len(data)


@bottleneck("memory_growth", around=trimmed)
def collects_answers(case: Case) -> int:
    parts, wanted = [], int(case.over(LEAST))
    while len(parts) * MIB < wanted:
        parts.append(b"x" * MIB)
        if len(parts) == 48:
            requests.get(case.url("profile", 0.04), timeout=30)
    return sum(map(len, parts))


@bottleneck("memory_growth", around=trimmed)
def builds_rows(case: Case) -> int:
    wanted = int(case.over(LEAST))
    rows = [f"row {number}" * 40 for number in range(wanted // 430)]
    requests.get(case.url("profile", 0.03), timeout=30)
    return len(rows)


@bottleneck("memory_growth", around=trimmed)
async def gathers_chunks(case: Case) -> int:
    parts, wanted = [], int(case.over(LEAST))
    while len(parts) * 4 * MIB < wanted:
        parts.append(bytearray(b"y" * (4 * MIB)))
        await asyncio.sleep(0.005)
    return len(parts)


@healthy("memory_growth")
def takes_little(case: Case) -> int:
    parts = [b"x" * MIB for _ in range(round(case.about(10)))]
    requests.get(case.url("profile", case.over(0.05, at_most=0.3)), timeout=30)
    return len(parts)


@healthy("memory_growth", around=kept_buffer)
def fills_its_buffer_again(case: Case) -> int:
    for start in range(0, int(case.over(LEAST, at_most=4 * LEAST - MIB)), MIB):
        buffer[start : start + MIB] = b"z" * MIB
    requests.get(case.url("profile", 0.06), timeout=30)
    return len(buffer)


@healthy("memory_growth")
async def a_chunk_at_a_time(case: Case) -> int:
    total = 0
    for _ in range(int(case.over(LEAST)) // (8 * MIB)):
        chunk = b"y" * (8 * MIB)
        total += len(chunk)
        del chunk
        await asyncio.sleep(0.005)
    return total
