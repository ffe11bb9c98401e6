"""A board that is not there yet is waited for as long as a signal on it: a server often starts beside who waits."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from otel_perf.core.errors import SignalError, SignalTimeoutError
from otel_perf.signals.request import checked_timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.signals.hub import Hub

AGAIN: Final = 0.2  # seconds between two attempts


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

    def pause(self, error: SignalError) -> float:
        """How long to rest before the next attempt. Raises ``error``, or that it is too late."""
        self._failed = True
        left = self.left
        if left is None:
            raise error
        if not left:
            raise SignalTimeoutError(f"after {self._timeout:g} s: {error}", self._names) from error
        return min(AGAIN, left)


def opened(attempt: Callable[[], Hub], timeout: float | None, names: tuple[str, ...]) -> tuple[Hub, float | None]:
    """What ``attempt`` opens, and what is left of ``timeout``; without one the first error is raised.

    An attempt takes 5 s where nobody answers, and begins while any time is left.
    """
    patience = _Patience(timeout, names)
    while True:
        try:
            return attempt(), patience.left
        except SignalError as error:
            time.sleep(patience.pause(error))


async def opened_async(
    attempt: Callable[[], Hub],
    timeout: float | None,  # noqa: ASYNC109
    names: tuple[str, ...],
    known: Hub | None,
) -> tuple[Hub, float | None]:
    """As :func:`opened`, with the event loop free meanwhile; ``known`` at once where there is one."""
    patience = _Patience(timeout, names)
    while known is None:
        try:
            known = await asyncio.to_thread(attempt)
        except SignalError as error:
            await asyncio.sleep(patience.pause(error))
    return known, patience.left
