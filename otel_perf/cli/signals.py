"""``otel-perf signals``: 0 ready, 1 failed or the board cannot be used, 2 wrong usage, 3 timeout."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from otel_perf.cli import BAD, GOOD, TIMEOUT, USAGE, options, text
from otel_perf.core.errors import SettingError, SignalFailedError, SignalTimeoutError
from otel_perf.core.home import HOME_VARIABLE
from otel_perf.signals.api import Signals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_perf.signals.signal import Signal

POLL: Final = 1.0  # seconds that ``watch`` waits for news at most, so that Ctrl+C is heard
_WE: Final = "otel-perf-signals"
_URL: Final = "OTEL_PERF_SIGNALS_URL"
_SCOPE: Final = "OTEL_PERF_SIGNALS_SCOPE"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        made = actions.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", allow_abbrev=False
        )
        made.add_argument("--home", type=Path, help="home folder (default: $OTEL_PERF_HOME or .otel-perf)")
        made.add_argument("--url", help=f"the board, if it is not in the home folder (default: ${_URL})")
        made.add_argument("--scope", help=f"which signals (default: ${_SCOPE})")
        options.add_json(made)
        return made

    action("ls", "show the signals that are current, who emitted them, and who waits")
    emit = action("emit", "emit a signal")
    emit.add_argument("name", metavar="NAME")
    emit.add_argument("--key", default="", help="tells signals of one name apart")
    emit.add_argument("--payload", type=_payload, help="JSON")
    emit.add_argument("--failed", metavar="REASON", help="it failed, and why")
    emit.add_argument("--ttl", type=options.duration, help="how long it is current, like 10m")
    emit.add_argument("--idempotency", metavar="KEY", help="what is emitted twice with it is one signal")
    emit.add_argument("--agent", default="", help="who says it (default: $OTEL_PERF_SIGNALS_AGENT)")
    wait = action("wait", "wait until signals are ready")
    wait.add_argument("names", metavar="NAME", nargs="+")
    wait.add_argument("--key", default="", help="of which key")
    wait.add_argument("--any", action="store_true", help="until one of them is")
    wait.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="and no longer (default: without a bound)")
    wait.add_argument("--accept-failed", action="store_true", help="failed is an answer as well")
    watch = action("watch", "show signals as they come, until interrupted")
    watch.add_argument("names", metavar="NAME", nargs="*", help="only these")
    watch.add_argument("--after", type=int, default=None, metavar="SEQ", help="replay from there (default: what comes)")
    watch.add_argument("--for", dest="seconds", type=options.duration, help="end after this time, like 30s")


def execute(arguments: argparse.Namespace) -> int:
    """Run one action."""
    actions = {"ls": _ls, "emit": _emit, "wait": _wait, "watch": _watch}
    signals = Signals(_environ(arguments))
    try:
        return actions[arguments.action](signals, arguments)
    except SettingError as error:
        print(f"otel-perf signals: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return GOOD if arguments.action == "watch" else BAD
    finally:
        signals.close()


def _environ(arguments: argparse.Namespace) -> Mapping[str, str]:
    environ = {"OTEL_SERVICE_NAME": _WE, **os.environ}  # a name of its own: an unnamed app is somebody else
    if arguments.home is not None:
        environ[HOME_VARIABLE] = str(arguments.home)
    given = {_URL: arguments.url, _SCOPE: arguments.scope}
    return environ | {name: value for name, value in given.items() if value is not None}


def _payload(given: str) -> Any:
    try:
        return json.loads(given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{given!r} is not JSON ({error}); text needs quotes: '\"text\"'") from None


def _seconds(given: str) -> float:
    value = options.duration(given)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{given!r}: it must be 0 or more")
    return value


def _emit(signals: Signals, arguments: argparse.Namespace) -> int:
    signal = signals.emit(
        arguments.name,
        payload=arguments.payload,
        key=arguments.key,
        failed=arguments.failed,
        ttl=arguments.ttl,
        idempotency=arguments.idempotency,
        agent=arguments.agent,
    )
    print(json.dumps(_row(signal)) if arguments.json else _line(signal))
    return GOOD


def _wait(signals: Signals, arguments: argparse.Namespace) -> int:
    try:
        found = signals.wait_sync(
            *arguments.names,
            timeout=arguments.timeout,
            any_of=arguments.any,
            key=arguments.key,
            accept_failed=arguments.accept_failed,
        )
    except SignalTimeoutError as error:
        print(f"otel-perf signals: {error}", file=sys.stderr)
        return TIMEOUT
    except SignalFailedError as error:
        print(f"otel-perf signals: {error}", file=sys.stderr)
        return BAD
    rows = list(found.values())
    print(json.dumps([_row(s) for s in rows]) if arguments.json else "\n".join(map(_line, rows)))
    return GOOD


def _ls(signals: Signals, arguments: argparse.Namespace) -> int:
    current, waits = signals.current(), signals.waits()
    if arguments.json:
        rows = [
            {"who": str(w.producer), "names": w.names, "then": w.then, "since_ns": w.since_ns, "scope": w.scope}
            for w in waits
        ]
        print(json.dumps({"signals": [_row(s) for s in current], "waits": rows}))
        return GOOD
    if not current:
        print(f"No signals on {signals.place()}.")
    else:
        rows_of = [
            [str(s.seq), s.name, s.key, s.state, _at(s.made_ns), str(s.producer), text.clip(_what(s), 48)]
            for s in current
        ]
        headings = ["SEQ", "SIGNAL", "KEY", "STATE", "AT", "BY", "WHAT"]
        print("\n".join(text.table(headings, rows_of, left=(1, 2, 3, 4, 5, 6))))
    for wait in waits:
        ago = text.seconds(max(0.0, (time.time_ns() - wait.since_ns) / 1e9))
        print(f"  {wait.producer} waits for {', '.join(wait.names)}, since {ago}")
    return GOOD


def _watch(signals: Signals, arguments: argparse.Namespace) -> int:
    ends = None if arguments.seconds is None else time.monotonic() + arguments.seconds
    for signal in signals.follow(arguments.after, ends, POLL):
        if not arguments.names or signal.name in arguments.names:
            print(json.dumps(_row(signal)) if arguments.json else _line(signal), flush=True)
    return GOOD


def _row(signal: Signal) -> dict[str, Any]:
    who = signal.producer
    return {
        "seq": signal.seq, "name": signal.name, "key": signal.key, "scope": signal.scope, "state": signal.state,
        "reason": signal.reason, "payload": signal.value, "made_ns": signal.made_ns, "ttl": signal.ttl,
        "agent": who.agent, "identity": who.identity, "service": who.service, "host": who.host, "pid": who.pid,
        "generation": who.generation,
    }  # fmt: skip


def _line(signal: Signal) -> str:
    key = f" [{signal.key}]" if signal.key else ""
    what = _what(signal)
    said = f": {text.clip(what, 80)}" if what else ""
    return f"{_at(signal.made_ns)} #{signal.seq} {signal.name}{key} {signal.state} by {signal.producer}{said}"


def _what(signal: Signal) -> str:
    if not signal.ready:
        return signal.reason
    return "" if signal.payload == "null" else signal.payload


def _at(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns / 1e9):%Y-%m-%d %H:%M:%S}"
