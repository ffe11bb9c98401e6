"""``otel-perf report``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_perf.analysis.summary import summarize
from otel_perf.cli import GOOD, options, text

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    options.add_store(parser)
    parser.add_argument("--service", default="", help="only this service.name")
    parser.add_argument("--top", type=options.rows, default=10, help="rows of each list (default 10)")
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the report."""
    store = options.open_store(arguments)
    try:
        report = summarize(store, since_ns=options.since_ns(arguments), service=arguments.service, top=arguments.top)
    finally:
        store.close()
    chosen = {
        "--service": arguments.service,
        "--since": "" if arguments.since is None else text.seconds(arguments.since),
    }
    asked = " ".join(f"{option} {value}" for option, value in chosen.items() if value)
    print(report.model_dump_json(indent=2) if arguments.json else text.render(report, asked=asked))
    return GOOD
