"""What a check's answer means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from otel_perf.core import health
from otel_perf.core.health import DEGRADED, HEALTHY, UNHEALTHY

LONGEST: Final = 300  # characters of a reason
_MEANT: Final = {
    **dict.fromkeys(("healthy", "pass", "ok", "up", "passing", "serving"), HEALTHY),
    **dict.fromkeys(("degraded", "warn", "warning"), DEGRADED),
    **dict.fromkeys(("unhealthy", "fail", "error", "down", "critical", "not_serving"), UNHEALTHY),
}


@cache
def _credentials() -> re.Pattern[str]:
    # Of a URL, which drivers like to put into what they raise
    return re.compile(r"//[^/@\s]+@")


def meaning(answer: Any) -> tuple[int, str]:
    """Status and reason. What says nothing of health, as a row of a database, is healthy: the check returned."""
    if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], str):
        status = _status(answer[0])
        return (HEALTHY, "") if status is None else (status, reason(answer[1]))
    if isinstance(answer, Mapping) and isinstance(answer.get("status"), str):
        status = _status(answer["status"])
        output = str(answer.get("output") or answer.get("reason") or "")
        return (UNHEALTHY, reason(output or answer["status"])) if status is None else (status, reason(output))
    status = _status(answer)
    if status is not None:
        return status, "it returned False" if answer is False else ""
    if isinstance(answer, str) and answer.strip():
        return UNHEALTHY, reason(answer)
    return HEALTHY, ""


def raised(error: BaseException) -> tuple[int, str]:
    """Status and reason of what a check raised."""
    text = str(error)
    return UNHEALTHY, reason(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def reason(text: str) -> str:
    """One line, not too long, without secrets where there is somebody who hides them, and credentials of URLs."""
    text = _credentials().sub("//…@", text[: 4 * LONGEST])
    for hide in tuple(health.hiding):
        text = hide(text)
    line = " ".join(text.split())
    return line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"


def _status(value: Any) -> int | None:
    if isinstance(value, bool):
        return HEALTHY if value else UNHEALTHY
    return _MEANT.get(value.strip().lower()) if isinstance(value, str) else None
