"""The command ``otel-perf``: one module per subcommand.

Exit codes, everywhere: 0 good, 1 the answer is bad, 2 wrong usage, 3 timeout. ``run`` passes on the
exit status of the program it ran.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Final

import otel_perf
from otel_perf.core.errors import OtelPerfError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

COMMANDS: Final = {
    "run": "run a program instrumented, then show the report",
    "report": "show what the store holds: bottlenecks, slow operations, errors, memory, logs",
    "view": "serve a page of what the store holds, live, on this machine",
    "analyze": "rank services and operations by what whole traces wait for, against a baseline",
    "export": "write stored telemetry as OTLP JSON lines",
    "audit": "verify, show and export the audit trail, rotate its key, remove what is old",
    "health": "ask how the processes are; for container health checks",
    "signals": "show, emit, wait for and watch readiness signals",
    "doctor": "show what is on and why, and what needs mending",
    "schema": "print the JSON Schema of what is written, a log line for instance",
}
GOOD, BAD, USAGE, TIMEOUT = range(4)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # it is closed; and the next file that is opened, a store, would be in its place
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    parser = argparse.ArgumentParser(
        prog="otel-perf", description="What is slow, why, and what it costs in memory.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"otel-perf {otel_perf.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
        )
        if name == chosen:  # the others are not imported: a command starts in the time of its own imports
            try:
                module = import_module(f"otel_perf.cli.{name}")
            except Exception as error:  # whatever a package that is too old or too new makes of it
                return _cannot_start(name, words, error)
            module.configure(command)
            command.set_defaults(execute=module.execute)
    options = parser.parse_args(words)
    status = GOOD
    try:
        as_json = options.command == "export" or getattr(options, "json", False)
        with _any_character(sys.stdout, as_json=as_json), _any_character(sys.stderr):
            status = int(options.execute(options))
        sys.stdout.flush()  # here, where a full disk can still be named
        return status
    except BrokenPipeError:  # the reader (head, a pager) has gone; leave nothing for the interpreter to flush
        _discard_output()
        return status  # the answer, where there was one: what is wrong is not well because nobody reads it
    except OtelPerfError as error:
        print(f"otel-perf {options.command}: {error}", file=sys.stderr)
        return BAD
    except OSError as error:
        _discard_output()
        print(f"otel-perf {options.command}: cannot go on: {error}", file=sys.stderr)
        return BAD
    except Exception as error:
        return _cannot_start(options.command, words, error)


def _cannot_start(command: str, words: Sequence[str], error: Exception) -> int:
    """Say which packages do not fit, where that is why; the doctor's answer, whatever the command."""
    from otel_perf.cli import requirements

    as_json = command == "doctor" and "--json" in words
    said = requirements.show(command, error, as_json=as_json)
    if not said:
        raise error
    print(said, file=sys.stdout if command == "doctor" else sys.stderr)
    return BAD


def tell(said: str, status: int) -> int:
    """Print an answer and return its status, also where the reader goes away before the end of it."""
    try:
        print(said, flush=True)
    except BrokenPipeError:
        _discard_output()
    return status


@contextmanager
def _any_character(stream: TextIO | None, *, as_json: bool = False) -> Iterator[None]:
    """A mark in place of what the stream's encoding does not have (a pipe on Windows, LC_ALL=C): no traceback.

    JSON is UTF-8 whatever the locale, as its standard has it: a mark in it would be a change of what is stored.
    """
    if not isinstance(stream, TextIOWrapper):
        yield  # it is closed
        return
    encoding, errors = stream.encoding, stream.errors
    if as_json:
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # of half a surrogate, as JSON writes it
    elif errors == "strict" or (errors == "surrogateescape" and encoding.lower() != "utf-8"):
        stream.reconfigure(errors="replace")
    try:
        yield
    finally:
        stream.flush()
        stream.reconfigure(encoding=encoding, errors=errors)


def _discard_output() -> None:
    """Leave nothing for the interpreter to flush at its end, where it would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
