"""``otel-perf export``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from otel_perf.analysis.otlp import to_json
from otel_perf.cli import GOOD, options, progress
from otel_perf.store.database import SIGNALS

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    options.add_store(parser)
    parser.add_argument(
        "--signal", choices=SIGNALS, action="append", help="which signal; may be given again (default: all)"
    )
    parser.add_argument("--refused", action="store_true", help="what a receiver refused, and only that")
    parser.add_argument("--json", action="store_true", help="the only format there is: OTLP JSON lines")


def execute(arguments: argparse.Namespace) -> int:
    """Write one line a batch to standard output."""
    store = options.open_store(arguments)
    try:
        signals = arguments.signal or SIGNALS
        stored = store.batches(signals, since_ns=options.since_ns(arguments))
        wanted = store.refused_batches(signals) if arguments.refused else stored
        for batch in progress.watched(wanted, "batches written", 0 if arguments.refused else store.last_id()):
            sys.stdout.write(to_json(batch) + "\n")
        sys.stdout.flush()
    finally:
        store.close()
    return GOOD
