"""``otel-perf health``: 0 healthy, 1 not, 2 wrong usage, 3 no answer in time. For container health checks."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from otel_perf.cli import BAD, GOOD, TIMEOUT, options, tell
from otel_perf.core.settings import load
from otel_perf.health import HealthSettings
from otel_perf.health.documents import aged, document
from otel_perf.health.server import reachable

if TYPE_CHECKING:
    import argparse

    Document = dict[str, Any]

PATIENCE: Final = 3.0  # seconds that the port has to answer
AGAIN: Final = 0.25  # seconds between questions, while it is waited for
_PROBES: Final = {"live": "livez", "ready": "readyz", "started": "startupz", "all": "healthz"}
_SIGNS: Final = {"pass": "healthy", "warn": "degraded", "fail": "UNHEALTHY"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking."""

    status: int
    document: Document


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of the subcommand."""
    options.add_home(parser)
    options.add_json(parser)
    parser.add_argument("--probe", choices=_PROBES, default="ready", help="what is asked (default: ready)")
    parser.add_argument(
        "--port", type=_port, help="ask this port (default: $OTEL_PERF_HEALTH_PORT, else the files at home)"
    )
    parser.add_argument("--service", help="only processes of this service; of the files at home")
    parser.add_argument(
        "--timeout", type=options.duration, default=PATIENCE, help="how long the port has to answer (default 3s)"
    )
    parser.add_argument("--wait", type=options.duration, metavar="TIME", help="ask again until it is well, for so long")


def execute(arguments: argparse.Namespace) -> int:
    """Ask, perhaps again, and print the answer."""
    ends = time.monotonic() + (arguments.wait or 0.0)
    asked = _ask(arguments)
    while asked.status != GOOD and time.monotonic() < ends:
        time.sleep(AGAIN)
        asked = _ask(arguments)
    shown = json.dumps(asked.document, ensure_ascii=False, indent=2) if arguments.json else render(asked.document)
    return tell(shown, TIMEOUT if asked.status != GOOD and arguments.wait else asked.status)


def _port(text: str) -> int:
    import argparse

    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port; use a number from 1 to 65535")


def _ask(arguments: argparse.Namespace) -> Asked:
    settings, problems = load(HealthSettings, "health", os.environ)
    for problem in problems:
        print(f"otel-perf health: {problem}", file=sys.stderr)
    port, probe = arguments.port or settings.port, _PROBES[arguments.probe]
    if port and not (arguments.home or arguments.service):
        return _of_port(reachable(settings.host), port, probe, arguments.timeout)
    return _of_files(arguments, probe)


def _of_port(host: str, port: int, probe: str, timeout: float) -> Asked:
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection(host, port, timeout=timeout)
    where = f"http://{host}:{port}/{probe}"
    try:
        connection.request("GET", f"/{probe}")
        answer = connection.getresponse()
        found = json.loads(answer.read())
        if isinstance(found, dict) and "status" in found:
            return Asked(GOOD if answer.status == 200 else BAD, found)
        return Asked(BAD, _failed(f"{where} is no health of otel-perf's"))
    except TimeoutError:
        return Asked(TIMEOUT, _failed(f"{where} does not answer within {timeout:g} s"))
    except (OSError, HTTPException, ValueError) as error:
        return Asked(
            BAD, _failed(f"{where} does not answer ({error}); does the program run, with OTEL_PERF_HEALTH_PORT?")
        )
    finally:
        connection.close()


def _of_files(arguments: argparse.Namespace, probe: str) -> Asked:
    from otel_perf.health import files

    home = options.home_of(arguments)
    found = [report for report in files.read(home) if arguments.service in {None, report["service"]}]
    if not found:
        whose = f" of service {arguments.service}" if arguments.service else ""
        return Asked(BAD, _failed(f"no process{whose} says in {home.path} how it is; --home names another folder"))
    made = document([aged(report, time.monotonic()) for report in found], probe)
    return Asked(BAD if made["status"] == "fail" else GOOD, made)


def _failed(output: str) -> Document:
    return {"status": "fail", "output": output}


def render(found: Document) -> str:
    """The answer as text for a terminal: a line for everything, and one for each check that is not well."""
    first = str(_SIGNS.get(found["status"], found["status"]))
    if found.get("serviceId"):
        first += f" {found['serviceId']}"
    lines = [f"{first}: {found['output']}" if found.get("output") else first]
    for name, entries in found.get("checks", {}).items():
        for entry in entries:
            if entry["status"] != "pass":
                why = f": {entry['output']}" if entry.get("output") else ""
                lines.append(f"  {_SIGNS[entry['status']]} {name} (process {entry['componentId']}){why}")
    return "\n".join([*lines, *(f"  note: {note}" for note in found.get("notes", ()))])
