"""``otel-perf run``: the same as ``opentelemetry-instrument``, with our distro, then the report."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_perf.cli import USAGE, options
from otel_perf.core.home import HOME_VARIABLE
from otel_perf.core.settings import variable
from otel_perf.distro import switched_off

if TYPE_CHECKING:
    import argparse

    from otel_perf.core.home import Home

_PATIENCE = 10.0  # seconds that a program has to end
_FORWARDED = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    parser.add_argument("--home", type=Path, help="home folder (default: $OTEL_PERF_HOME or .otel-perf)")
    parser.add_argument("--output", type=Path, help="write the report to this file and not to standard error")
    parser.add_argument(
        "--for", type=options.duration, metavar="TIME", dest="limit", help="stop the program after this, like 60s"
    )
    parser.add_argument("--no-report", action="store_true", help="do not show the report")
    options.add_json(parser)
    parser.add_argument("program", help="the program to run, e.g. python")
    parser.add_argument("arguments", nargs="...", help="its arguments")


def execute(arguments: argparse.Namespace) -> int:
    """Run the program, then report on what this run stored. Returns the program's exit status."""
    program = shutil.which(arguments.program)
    if program is None:
        name = arguments.program
        print(f"otel-perf run: {name!r} is not a program on the PATH; a script is run by python", file=sys.stderr)
        return USAGE
    home = options.home_of(arguments)
    before = _last_id(home)
    status = _run([program, *arguments.arguments], environment(os.environ, home.path), arguments.limit)
    if not arguments.no_report:
        try:
            _report(arguments, home, before)
            sys.stderr.flush()
        except Exception as error:  # the status is the program's, whatever becomes of the report
            _say_last(f"otel-perf run: there is no report, or not all of it: {error!r}")
    return status


def _say_last(line: str) -> None:
    """On standard error, if anybody reads it and its disk has room; else leave nothing that a later flush fails on."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def environment(environ: Any, home: Path) -> dict[str, str]:
    """``environ`` with auto-instrumentation switched on and ours chosen, whatever else is installed."""
    from opentelemetry.instrumentation import auto_instrumentation

    folder = str(Path(auto_instrumentation.__file__).parent)
    rest = [part for part in environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != folder]
    here = os.getcwd()  # as opentelemetry-instrument does, for programs with an executable of their own
    paths = [folder, *([] if here in rest else [here]), *rest]
    return {
        **environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OTEL_PYTHON_DISTRO": "otel_perf",
        "OTEL_PYTHON_CONFIGURATOR": "otel_perf",
        variable("store", "keep"): environ.get(variable("store", "keep"), "on"),  # else what was sent is not reported
        HOME_VARIABLE: str(home),
    }


def _run(command: list[str], environ: dict[str, str], limit: float | None) -> int:
    """Its exit status; 0 if it ran until the ``limit`` and then ended when it was asked to."""
    child = subprocess.Popen(command, env=environ)

    def forward(number: int, _frame: Any) -> None:
        child.send_signal(number)

    # The terminal sends Ctrl-C to the program as well; we wait for it to end.
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    for name in _FORWARDED:
        if hasattr(signal, name):
            number = getattr(signal, name)
            before[number] = signal.signal(number, forward)
    try:
        status = child.wait() if limit is None else _wait(child, limit)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status  # as a shell reports a death by signal


def _wait(child: subprocess.Popen[bytes], limit: float) -> int:
    try:
        return child.wait(limit)
    except subprocess.TimeoutExpired:
        print(f"otel-perf run: stopped after {limit:g} s, as --for says", file=sys.stderr)
        child.terminate()  # as a service manager does; on Windows nothing is gentler than this
    try:
        status = child.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        print(f"otel-perf run: the program did not end within {_PATIENCE:.0f} s of SIGTERM: killed", file=sys.stderr)
        child.kill()
        return child.wait()
    return 0 if status == -signal.SIGTERM or os.name == "nt" else status


def _last_id(home: Home) -> int:
    from otel_perf.core.errors import StoreError
    from otel_perf.core.home import STORE_FILE
    from otel_perf.store.database import StoreReader

    try:
        store = StoreReader(home.with_file(STORE_FILE))
    except StoreError:
        return 0
    try:
        return store.last_id()
    finally:
        store.close()


def _report(arguments: argparse.Namespace, home: Home, after: int) -> None:
    from otel_perf.analysis.summary import summarize
    from otel_perf.cli import terminal, text
    from otel_perf.core.errors import StoreError
    from otel_perf.core.home import STORE_FILE
    from otel_perf.store.database import StoreReader

    off = switched_off()
    if off:
        print(f"otel-perf run: nothing was stored: switched off by {off}", file=sys.stderr)
        return
    folder = home.with_file(STORE_FILE)
    if not (folder / STORE_FILE).exists():
        print("otel-perf run: the program made nothing that is stored: no span, log record or call", file=sys.stderr)
        return
    try:
        store = StoreReader(folder)
    except StoreError as error:
        print(f"otel-perf run: {error}", file=sys.stderr)
        return
    try:
        report = summarize(store, after=after)
    finally:
        store.close()
    if arguments.output is not None:
        shown = report.model_dump_json(indent=2) if arguments.json else text.render(report)
        try:
            arguments.output.write_text(shown + "\n", encoding="utf-8")
        except OSError as error:
            print(f"otel-perf run: the report cannot be written to {arguments.output}: {error}", file=sys.stderr)
    elif arguments.json:  # standard output is the program's alone: it may be piped into something
        print(report.model_dump_json(indent=2), file=sys.stderr)
    else:
        print(file=sys.stderr)
        terminal.show(report, to=sys.stderr)
