"""Keeps eight processes writing, kills one after the other at random moments, and in the end all at once."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

import otel_perf as perf

PROCESSES = 8


def write(folder: Path, number: int) -> None:
    """Write until killed; what was acknowledged is written down."""
    chance = random.Random(number)
    with (folder / str(number)).open("wb", buffering=0) as file:
        while True:
            value = chance.random()
            text = "x" * chance.choice([1, 100, 20_000])
            seq = perf.audit_event("x", actor="a", target="t", outcome="ok", n=value, text=text)
            file.write(json.dumps([seq, value]).encode() + b"\n")


def main() -> None:
    """Kill so many."""
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    assert perf.audit_event  # what a child needs is imported before, so that a kill comes while it writes
    assert serialization
    assert ed25519
    chance = random.Random(11)
    running: list[tuple[int, Path]] = []
    for number in range(kills + PROCESSES):
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            write(folder, number)
        running.append((pid, folder / str(number)))
        if len(running) > PROCESSES:
            victim, written = running.pop(chance.randrange(PROCESSES))
            wait_for(lambda path=written: path.exists() and path.stat().st_size)  # it is at it
            time.sleep(chance.uniform(0.0, 0.05))
            end(victim)
    for pid, _ in running:
        os.kill(pid, signal.SIGKILL)
    for pid, _ in running:
        os.waitpid(pid, 0)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def end(pid: int) -> None:
    """Kill one; it must have lived until then."""
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status), f"{pid} ended by itself with {status}"


main()
