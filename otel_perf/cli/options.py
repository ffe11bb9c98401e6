"""Options that several subcommands share."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from otel_perf.core.home import HOME_VARIABLE, STORE_FILE, Home
from otel_perf.core.settings import parse_duration
from otel_perf.store.database import StoreReader


def add_home(parser: argparse.ArgumentParser) -> None:
    """``--home``."""
    parser.add_argument("--home", type=Path, help="home folder (default: $OTEL_PERF_HOME or .otel-perf)")


def add_store(parser: argparse.ArgumentParser) -> None:
    """``--home`` and ``--since``."""
    add_home(parser)
    parser.add_argument("--since", type=duration, help="only what was stored within this time, like 10m or 2h")


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def duration(text: str) -> float:
    """An ``argparse`` type: seconds."""
    try:
        return parse_duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a duration; use a number with ms, s, m or h, like 10m"
        ) from None


def rows(text: str) -> int:
    """An ``argparse`` type: a number of rows."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows; use 1 or more")


def home_of(options: argparse.Namespace) -> Home:
    """The home folder that ``--home`` or the environment names."""
    return Home({HOME_VARIABLE: str(options.home)} if options.home else os.environ)


def open_store(options: argparse.Namespace) -> StoreReader:
    """The store; raises ``StoreError`` when there is none."""
    return StoreReader(home_of(options).with_file(STORE_FILE))


def since_ns(options: argparse.Namespace) -> int:
    """``--since`` as a point in time."""
    return int((time.time() - options.since) * 1e9) if options.since is not None else 0
