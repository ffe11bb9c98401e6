"""The correlation id of a piece of work, which ties its lines, spans and requests together.

It is the trace id, unless the work was given one: by the header ``X-Request-ID`` or ``X-Correlation-ID``, or by
:class:`correlation`.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from otel_perf.core.ids import LIMIT, SPAN_KEY, attach, checked, detach, explicit, given, now, span_of
from otel_perf.core.served import fallback

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from opentelemetry.context import Context

P = ParamSpec("P")
R = TypeVar("R")


def current(context: Context | None = None) -> str:
    """The correlation id of ``context`` (default: of the current one), ``""`` if there is none. 0.5 µs."""
    if context is None:
        context = now()
        if span_of(context) is None and (fallen := fallback()) is not None:
            context = fallen
    found = explicit(context)
    if found:
        return found
    ids: Any = context.get(SPAN_KEY)
    trace_id = ids.get_span_context().trace_id if ids is not None else 0
    return f"{trace_id:032x}" if trace_id else ""


class correlation:  # noqa: N801  used like a function
    """Give a piece of work its correlation id: a block (``with``, ``async with``), a function or coroutine function.

    Its log lines and the root spans that begin in it carry the id, and so do the requests and tasks that it sends.
    ``correlation_id`` becomes text; what is not printable ASCII becomes ``?``, what is beyond 128 characters is cut.
    About 2 µs a block. Any number may be nested; the innermost counts. Never raises, but a generator function cannot be
    decorated (TypeError): its body runs in the context of whoever takes from it.
    """

    __slots__ = ("_id", "_tokens")

    current = staticmethod(current)

    def __init__(self, correlation_id: object) -> None:
        self._id = _as_id(correlation_id)
        self._tokens: list[Any] = []

    def __enter__(self) -> Self:
        context = now()
        self._tokens.append(attach(given(self._id, context)) if self._id else None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        token = self._tokens.pop() if self._tokens else None
        if token is not None:
            detach(token)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Every call of ``function`` has the id."""
        correlation_id = self._id
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            name = getattr(function, "__qualname__", function)
            raise TypeError(f"correlation: {name} is a generator function; decorate the function that takes from it")
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
                with correlation(correlation_id):
                    return await function(*args, **kwargs)

            return awaited  # type: ignore[return-value]

        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            with correlation(correlation_id):
                return function(*args, **kwargs)

        return called


def _as_id(value: object) -> str:
    try:
        text = str(value).strip()[:LIMIT]
    except Exception:
        return ""
    if checked(text):
        return text
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text).strip()
