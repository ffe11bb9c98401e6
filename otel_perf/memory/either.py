"""Calls what may be a function or a coroutine function, from code of either kind."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def method(given: Any) -> Any:
    """A function of an instance, from a function or the name of a method."""
    return (lambda instance: getattr(instance, given)()) if isinstance(given, str) else given


def called(function: Callable[[Any], Any] | None, value: Any) -> tuple[Any, Exception | None]:
    """What it returned, or raised; nothing where there is none."""
    try:
        return (None if function is None else function(value)), None
    except Exception as error:
        return None, error


async def awaited(result: Awaitable[Any]) -> tuple[Any, Exception | None]:
    """What it gave, or raised."""
    try:
        return await result, None
    except Exception as error:
        return None, error


def run(result: Awaitable[Any]) -> tuple[Any, Exception | None]:
    """The same in a loop of its own."""
    if asyncio._get_running_loop() is not None:
        if inspect.iscoroutine(result):
            result.close()
        return None, RuntimeError("it is a coroutine function, and a loop runs here; use: await aclose() or aping()")
    return asyncio.run(awaited(result))


def verdict(name: str, answer: Any, error: Exception | None) -> Exception | None:
    """What a ping says: what it raised, or that it returned ``False``."""
    return RuntimeError(f"the ping of {name} returned False") if error is None and answer is False else error


def raise_all(message: str, errors: list[Exception]) -> None:
    """Raise them together, if there are any."""
    if errors:
        raise ExceptionGroup(message, errors)
