"""What can be set of the logs. Everything that changes what the app prints is off until asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from otel_perf.core.settings import Parsed

if TYPE_CHECKING:
    from collections.abc import Callable


def _checked(parse: str) -> Callable[[object], str]:
    """Text that ``rules.<parse>`` can read."""

    def check(value: object) -> str:
        from otel_perf.logs import rules

        getattr(rules, parse)(str(value))
        return str(value).strip()

    return check


def _seconds(value: object) -> Any:
    from otel_perf.logs import rules

    return rules.fold(value)


@dataclass(frozen=True, slots=True)
class LogsSettings:
    """Settings of the logs."""

    levels: Annotated[
        str, Parsed(_checked("levels"), "logger=LEVEL,… like uvicorn.access=WARNING,shop.*=INFO, or off")
    ] = field(
        default="", metadata={"doc": "The least level of loggers, and of those beneath them; what is less is dropped."}
    )
    rate: Annotated[str, Parsed(_checked("rate"), "a number of lines for a time, like 100/s or 5/min, or off")] = field(
        default="", metadata={"doc": "Most lines of one template, errors and audit records aside; the rest is dropped."}
    )
    fold: Annotated[float, Parsed(_seconds, "a number with ms, s, m or h, like 10s, or off", 0.0, 86_400.0)] = field(
        default=0.0,
        metadata={
            "doc": "For how long a line stands for others like it, which are then one line with their number (s)."
        },
    )
    sample: Annotated[str, Parsed(_checked("sample"), "LEVEL=share,… like INFO=10%,DEBUG=1%, or off")] = field(
        default="", metadata={"doc": "Share of the traces whose lines of a level are kept, by the trace's id."}
    )


ADJUSTABLE = ("levels", "rate", "fold", "sample")
"""Fields that a flag may change while the program runs: ``perf.logs.levels`` and so on."""
