"""``otel-perf report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from otel_perf.analysis.changes import FAIL_OVER
from otel_perf.analysis.summary import summarize
from otel_perf.cli import BAD, GOOD, USAGE, comparison, options, terminal, text

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    options.add_store(parser)
    parser.add_argument("--service", default="", help="only this service.name")
    parser.add_argument("--top", type=options.rows, default=10, help="rows of each list (default 10)")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write the report as one HTML file that needs no other"
    )
    parser.add_argument(
        "--compare", metavar="BASE",
        help="what changed since BASE: a home folder, what otel-perf export wrote, or version=1.2.3 in the store",
    )  # fmt: skip
    parser.add_argument(
        "--fail-over", type=comparison.share, metavar="SHARE", default=FAIL_OVER,
        help="with --compare: exit with 1 if something is surely slower, or surely takes more memory, by more than this"
        " (default 10%%, at least 5%%), or surely fails in 1%% more of all cases; with 2 if nothing could be judged, as"
        " with fewer than 3 runs on each side",
    )  # fmt: skip
    options.add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    """Print the report, or the comparison."""
    if arguments.html and (arguments.json or arguments.compare):
        print("otel-perf report: --html goes with neither --json nor --compare", file=sys.stderr)
        return USAGE
    if arguments.compare:
        return comparison.run(arguments)
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
    if arguments.html:
        from otel_perf.cli import page

        try:
            arguments.html.write_text(page.render(report, asked=asked), encoding="utf-8")
        except OSError as error:
            print(f"otel-perf report: {arguments.html} cannot be written: {error}", file=sys.stderr)
            return BAD
        print(f"otel-perf report: {arguments.html} is written")
        return GOOD
    if arguments.json:
        print(report.model_dump_json(indent=2))
    else:
        terminal.show(report, asked=asked)
    return GOOD
