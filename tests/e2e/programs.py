"""Runs small programs as a user would, under opentelemetry-instrument and without it."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.support import default_signals

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    status: int
    out: str
    err: str


def environment(home, **variables):
    """The machine's environment without its OTEL variables, with our home."""
    # Pytest changes the environment between tests, while threads of ours start programs.
    found = {name: os.environ.get(name) for name in list(os.environ)}
    kept = {
        name: value for name, value in found.items() if value is not None and not name.startswith(("OTEL_", "PYTHON"))
    }
    # Upstream's threading instrumentor puts a frame of its own into the tracebacks of threads.
    ours = {
        "OTEL_PERF_HOME": str(home),
        "OTEL_PERF_STORE_PROBE": "off",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "threading",
    }
    return {**kept, **ours, **{name: str(value) for name, value in variables.items()}}


def command(program, *arguments, instrumented=True):
    """The command line for a Python program text."""
    start = [str(BIN / "opentelemetry-instrument")] if instrumented else []
    return [*start, sys.executable, "-c", program, *arguments]


def run(program, home, *arguments, instrumented=True, timeout=60, cwd=None, **variables):
    """Run a program text to its end."""
    done = subprocess.run(
        command(program, *arguments, instrumented=instrumented),
        env=environment(home, **variables), capture_output=True, text=True, timeout=timeout, cwd=cwd, check=False,
        preexec_fn=default_signals,
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, re.sub(r"0x[0-9a-f]+", "0x…", done.stderr))


def both(program, home, *arguments, **options):
    """The program with us and without us."""
    return run(program, home, *arguments, **options), run(program, home, *arguments, instrumented=False, **options)


@contextmanager
def started(program, home, *arguments, **variables):
    """A program that goes on beside the test, with pipes; killed at the end if it has not ended."""
    process = subprocess.Popen(
        command(program, *arguments), env=environment(home, **variables), cwd=home.parent, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            with suppress(OSError):
                pipe.close()
