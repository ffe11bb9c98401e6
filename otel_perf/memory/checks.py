"""What memory says when it is asked how it is: the level of pressure, and the pings of the singletons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.finishing import finish
from otel_perf.memory.pressure import LEVELS, size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from otel_perf.memory.pressure import Monitor, Usage
    from otel_perf.memory.singletons import Singletons

PING_TIMEOUT: Final = 5.0  # seconds that all pings together have
PING_EVERY: Final = 15.0
_STATUS: Final = {"normal": "healthy", "moderate": "healthy", "high": "degraded", "critical": "unhealthy"}


def level(monitor: Monitor, read: Callable[[], Usage]) -> tuple[str, str]:
    """Degraded at a high level of pressure, unhealthy at a critical one."""
    name = LEVELS[monitor.level]
    if _STATUS[name] == "healthy":
        return "healthy", ""
    usage = read()
    return _STATUS[name], f"memory pressure is {name}: {size(usage.used)} of {size(usage.limit)} in use"


def pings(registry: Singletons) -> tuple[str, str]:
    """Unhealthy where a singleton that is there is not well. Waits for those whose ping is a coroutine function."""
    wrong = {name: error for name, error in registry.ping(run=_finished).items() if error is not None}
    return ("unhealthy", "; ".join(f"{name}: {error!r}" for name, error in wrong.items())) if wrong else ("healthy", "")


def _finished(result: Awaitable[Any]) -> tuple[Any, Exception | None]:
    try:
        return finish(result, PING_TIMEOUT), None
    except Exception as error:
        return None, error
