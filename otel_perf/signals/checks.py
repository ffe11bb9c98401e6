"""What health asks of signals: whether what the start waits for comes, and whether the board can be reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_perf.core.errors import SignalError
from otel_perf.core.sequence import NAMES, OFF

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.core.sequence import Sequence
    from otel_perf.signals.api import Signals


def check(sequence: Sequence, existing: Callable[[], Signals | None]) -> tuple[str, str]:
    """Degraded while a signal of the start is missing or has failed, or the board cannot be reached.

    A board that was made anew gets what this process has said.
    """
    missing = sequence.missing(NAMES)
    if missing:
        return "degraded", f"waits for {', '.join(missing)}"
    failed = [
        answer for answer in sequence.answers().values() if not answer.ready and not answer.reason.startswith(OFF)
    ]
    if failed:
        return "degraded", "; ".join(f"{answer.name} failed: {answer.reason}" for answer in failed)
    signals = existing()
    try:
        if signals is not None:
            signals.refresh()
    except SignalError as error:
        return "degraded", str(error)
    return "healthy", ""
