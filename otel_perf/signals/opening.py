"""A board whose server is away is waited for as long as a signal on it: it often starts beside those who wait."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from otel_perf.core.errors import SignalAwayError
from otel_perf.signals.request import checked_timeout, too_late

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.signals.hub import Hub

    Attempt = Callable[[float | None], Hub]  # for so many seconds; 5 if it is not said

LEAST: Final = 1.0  # seconds of an attempt: a server that is there has then answered, however short the timeout is
MOST: Final = 5.0


class _Patience:
    def __init__(self, timeout: float | None, names: tuple[str, ...]) -> None:
        self._timeout = checked_timeout(timeout)
        self._names = names
        self._begin = time.monotonic()
        self._failed = False

    @property
    def left(self) -> float | None:
        """What remains of the timeout; all of it if the first attempt opened the board."""
        if self._timeout is None or not self._failed:
            return self._timeout
        return max(0.0, round(self._timeout - (time.monotonic() - self._begin), 2))

    @property
    def attempt(self) -> float | None:
        """How long the next attempt may take."""
        left = self.left
        return None if left is None else min(MOST, max(LEAST, left))

    def failed(self, error: SignalAwayError) -> None:
        """Go on, or raise ``error`` or that it is too late."""
        self._failed = True
        if self._timeout is None:
            raise error
        if not self.left:
            raise too_late(self._timeout, error, self._names) from error


def opened(attempt: Attempt, timeout: float | None, names: tuple[str, ...]) -> tuple[Hub, float | None]:
    """What ``attempt`` opens, and what is left of ``timeout``; without one the first error is raised."""
    patience = _Patience(timeout, names)
    while True:
        try:
            return attempt(patience.attempt), patience.left
        except SignalAwayError as error:
            patience.failed(error)


async def opened_async(
    attempt: Attempt,
    timeout: float | None,  # noqa: ASYNC109
    names: tuple[str, ...],
    known: Hub | None,
) -> tuple[Hub, float | None]:
    """As :func:`opened`, with the event loop free meanwhile; ``known`` at once where there is one."""
    patience = _Patience(timeout, names)
    while known is None:
        try:
            known = await asyncio.to_thread(attempt, patience.attempt)
        except SignalAwayError as error:
            patience.failed(error)
    return known, patience.left
