"""A script with processes of every kind; each task makes one span. ``python children.py fork|forkserver|spawn``.

Prints one JSON object: how many spans were made, by name, and the pids that made them.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from opentelemetry import trace

PROCESSES = 3
TASKS = 20


def task(name: str) -> int:
    """Make one span and return the pid."""
    with trace.get_tracer(__name__).start_as_current_span(name, attributes={"test.pid": os.getpid()}):
        return os.getpid()


def main(method: str) -> None:
    """Run tasks in single processes, in a pool that is terminated, and in an executor."""
    context: Any = multiprocessing.get_context(method)
    task("parent")

    processes = [context.Process(target=task, args=("process",)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode != 0 for process in processes):
        raise SystemExit(f"exit codes {[process.exitcode for process in processes]}")

    with context.Pool(2) as pool:  # its end is terminate(), a SIGTERM to each
        pool_pids = pool.map(task, ["pool"] * TASKS, chunksize=1)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        executor_pids = list(executor.map(task, ["executor"] * TASKS))

    made = {
        "parent": [os.getpid()],
        "process": [process.pid for process in processes],
        "pool": pool_pids,
        "executor": executor_pids,
    }
    print(json.dumps(made))


if __name__ == "__main__":
    main(sys.argv[1])
