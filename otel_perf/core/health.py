"""Health: what parts of the program say of themselves, whether or not somebody asks.

The ``health`` feature asks. Features and the app register their checks here without knowing it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, TypeVar

from otel_perf.core.census import Metric
from otel_perf.core.events import Event
from otel_perf.core.records import entity
from otel_perf.core.settings import parse_duration

F = TypeVar("F", bound=Callable[[], Any])

HEALTHY, DEGRADED, UNHEALTHY = range(3)
WORDS: Final = ("healthy", "degraded", "unhealthy")
TIMEOUT: Final = 2.0  # seconds that a check has to answer
EVERY: Final = 10.0  # seconds between two answers of a check

STATUS: Final = Metric("perf.health.status", "1", "gauge", "0 healthy, 1 degraded, 2 unhealthy, by perf.health.check")
CHANGED: Final = Event("perf.health.changed", "A check's health changed: which, to what and from what, and why")


@entity
class Check:
    """Something that says how it is."""

    name: str
    call: Callable[[], Any]
    critical: bool  # the process is not ready while it is unhealthy
    live: bool  # the process had better be started anew while it is unhealthy
    timeout: float  # seconds
    every: float  # seconds from an answer to the next question
    quick: bool  # it answers at once, so that it needs no thread


checks: list[Check] = []
hiding: list[Callable[[str], str]] = []
"""What a check says goes through them before anybody sees it: secrets are left out."""
changed: list[Callable[[str], None]] = []
"""Called with the name of a check that is new, or has news."""


def register(
    name: str,
    call: Callable[[], Any],
    *,
    critical: bool = False,
    live: bool = False,
    timeout: float = TIMEOUT,
    every: float = EVERY,
    quick: bool = False,
) -> Callable[[], None]:
    """Have ``call`` asked how it is every so many seconds, until the returned function is called.

    It returns what :func:`check` describes. ``quick`` is for what never waits.
    """
    check = Check(name, call, critical, live, timeout, every, quick)
    checks.append(check)
    news(name)

    def remove() -> None:
        if check in checks:
            checks.remove(check)

    return remove


def news(name: str) -> None:
    """The check of that name has something else to say: it is asked now."""
    for tell in tuple(changed):
        tell(name)


def check(
    name: str,
    *,
    critical: bool = False,
    live: bool = False,
    timeout: float | str = TIMEOUT,
    every: float | str = EVERY,
) -> Callable[[F], F]:
    """Have a function say how a part of the program is; it is asked in the background, never by a request.

    It is well when it returns, and not when it raises or returns false. A text is the reason why it is not, unless it
    is a word like ``"healthy"``, ``"degraded"`` or ``"fail"``; ``("degraded", reason)`` has both, as has a mapping with
    ``"status"`` and ``"output"``. A function runs in a thread of its own; a coroutine function in the app's event loop,
    where its connections belong, else in one of its own. Without an answer within ``timeout`` it is unhealthy, and is
    not asked again before it has answered.

    While one that is ``critical`` is unhealthy the process is not ready; while one that is ``live`` is unhealthy it had
    better be started anew. Times are seconds, or like ``"30s"``. Raises ``ValueError`` for one that is none. A second
    one from the same place takes the place of the first. The function stays as it is.
    """
    most, period = _seconds(name, "timeout", timeout), _seconds(name, "every", every)

    def decorate(function: F) -> F:
        if not callable(function):
            raise TypeError(f"health.check({name!r}): {function!r} cannot be called; give it a function")
        if inspect.iscoroutinefunction(function):
            # Here, and not in a thread of ours: a child that is forked meanwhile could never import them.
            import asyncio  # noqa: F401
            import concurrent.futures  # noqa: F401
        place = _place(function)
        for known in tuple(checks):  # its module was loaded again
            if known.name == name and place is not None and _place(known.call) == place:
                checks.remove(known)
        register(name, function, critical=critical, live=live, timeout=most, every=period)
        return function

    return decorate


def remove(name: str) -> None:
    """Ask the checks of that name no more."""
    checks[:] = [check for check in checks if check.name != name]


def _place(function: Any) -> tuple[str, str] | None:
    name = getattr(function, "__qualname__", "")
    return (function.__module__, name) if name and inspect.isfunction(function) and "<lambda>" not in name else None


def _seconds(name: str, field: str, value: float | str) -> float:
    try:
        found = parse_duration(value)
    except ValueError:
        found = 0.0
    if not 0.0 < found < float("inf"):
        raise ValueError(f"health.check({name!r}): {field}={value!r} must be more than 0; write seconds or like '30s'")
    return found
