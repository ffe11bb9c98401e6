"""Tasks that clean up in the background: who has one says so here, whether or not somebody runs them.

The ``cleanup`` feature runs them. Features and the app register theirs without knowing it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final, TypeVar

from otel_perf.core.records import entity
from otel_perf.core.settings import parse_duration

F = TypeVar("F", bound=Callable[[], Any])

DEADLINE: Final = 60.0  # seconds that a run may take


@entity
class Task:
    """Something to do every now and then."""

    name: str
    run: Callable[[], Any]  # a generator function, a coroutine function, or a plain function
    every: float  # seconds from the end of a run to the beginning of the next
    deadline: float  # seconds
    exclusive: bool  # it stops the program: wait for a moment without active work


tasks: list[Task] = []
changed: list[Callable[[], None]] = []
"""Called when there is a new task."""


def register(
    name: str, run: Callable[[], Any], every: float, *, deadline: float = DEADLINE, exclusive: bool = False
) -> Callable[[], None]:
    """Have ``run`` called every so many seconds, until the returned function is called."""
    task = Task(name, run, every, deadline, exclusive)
    tasks.append(task)
    for tell in tuple(changed):
        tell()

    def remove() -> None:
        if task in tasks:
            tasks.remove(task)

    return remove


def cleanup_task(
    *, every: float | str, name: str = "", deadline: float | str = DEADLINE, exclusive: bool = False
) -> Callable[[F], F]:
    """Have a function clean up in the background, in slices that active work does not feel.

    A generator function is advanced for 0.1 ms at a time, 2 % of the time: it yields after each small step. It may
    yield a number, which is summed up in the event ``perf.cleanup.run``. A coroutine function runs in a loop of its own
    and is sliced where it awaits ``asyncio.sleep(0)``; a plain function runs in one go. A run that takes longer than
    ``deadline`` is ended. One that fails is tried again, later and later, and given up after five times; that is said
    in a line. With ``exclusive`` it starts when no span is active, or when it has waited for ``every`` in vain.

    Times are seconds, or like ``"30s"``. Raises ``ValueError`` for one that is none. The function stays as it is.
    """
    period, most = _seconds("every", every), _seconds("deadline", deadline)

    def decorate(function: F) -> F:
        if inspect.isasyncgenfunction(function):
            raise TypeError(f"@cleanup_task: {function!r} is an asynchronous generator; write a coroutine function")
        title = name or f"{function.__module__}.{function.__qualname__}"
        register(title, function, period, deadline=most, exclusive=exclusive)
        return function

    return decorate


def _seconds(field: str, value: float | str) -> float:
    try:
        found = parse_duration(value)
    except ValueError:
        found = 0.0
    if not 0.0 < found < float("inf"):
        raise ValueError(f"@cleanup_task: {field}={value!r} must be more than 0; write seconds or like '30s'")
    return found
