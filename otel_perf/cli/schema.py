"""``otel-perf schema``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from otel_perf.cli import GOOD

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    parser.add_argument("what", choices=["log"], help="log: a line of OTEL_PERF_LOGS_FORMAT=json")
    parser.add_argument(
        "--fields", choices=["otel", "ecs"], default="otel", help="the names, as OTEL_PERF_LOGS_FIELDS (default otel)"
    )
    parser.add_argument("--json", action="store_true", help="the only format there is: JSON Schema")


def execute(arguments: argparse.Namespace) -> int:
    """Print the JSON Schema."""
    from otel_perf.logs.record import schema

    print(json.dumps(schema(arguments.fields), indent=2))
    return GOOD
