"""What the distribution gives to this process's signals, which are imported when somebody uses them.

A program may use none, and its start would pay for them.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_perf.core.home import Home
    from otel_perf.signals.api import Signals
    from otel_perf.signals.telemetry import Telemetry

home: Home | None = None
telemetry: Telemetry | None = None


def give(at: Home, told: Telemetry | None) -> None:
    """To the signals that are there, and to those that come."""
    global home, telemetry
    home, telemetry = at, told
    signals = existing()
    if signals is not None:
        signals.home, signals.telemetry = at, told


def existing() -> Signals | None:
    """The process's signals, if they were ever used."""
    return getattr(sys.modules.get("otel_perf.signals.api"), "signals", None)


def waiting() -> int:
    """How many waits go on here."""
    signals = existing()
    return 0 if signals is None else signals.waiting


def has_left() -> bool:
    """Whether they have left their board for good."""
    signals = existing()
    return signals is not None and signals.ended


def leave() -> None:
    """The process ends in peace."""
    signals = existing()
    if signals is not None:
        signals.leave()
