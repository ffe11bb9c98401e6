"""Folds lines that are alike: the first goes out, the others of its window become one line with their number."""

from __future__ import annotations

import logging
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context, attach, detach

from otel_perf.core.events import FOLDED, REPEATED
from otel_perf.core.served import request

if TYPE_CHECKING:
    from collections.abc import Hashable

WINDOWS: Final = 1_000  # open at once; the oldest is closed early
TEXT: Final = 500  # characters of a message that the line repeats


class Window:
    """A line that went out, and those like it that did not."""

    __slots__ = ("closed", "count", "first", "function", "last", "level", "logger", "place", "text", "until")

    def __init__(
        self, logger: str, level: int, text: str, place: tuple[str, int, str], time: float, until: float
    ) -> None:
        self.logger = logger
        self.level = level
        self.text = text
        self.place = place  # file, line, function
        self.until = until  # on the monotonic clock
        self.count = 0
        self.closed = False
        self.first = self.last = time  # seconds since the epoch

    def say(self) -> None:
        """Log it, where the lines would have gone."""
        logger = logging.getLogger(self.logger)
        path, line, function = self.place
        message = f"{self.text}{REPEATED}{self.count:,} more, {_clock(self.first)} to {_clock(self.last)})"
        extra = {FOLDED: self.count, "perf.log.first": _clock(self.first), "perf.log.last": _clock(self.last)}
        record = logger.makeRecord(self.logger, self.level, path, line, message, (), None, function, extra)
        # It is of no trace and of no request: the lines may have been of many.
        token, served = attach(Context()), request.set(None)
        try:
            logger.handle(record)
        finally:
            request.reset(served)
            detach(token)


def _clock(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Folding:
    """The open windows. Not thread-safe: the filters hold their lock, in which a signal handler may still log.

    Memory: about 1 kB a window, 1,000 of them.

    What a method returns has come to its end, and is to be said once the lock is free.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[Hashable, Window] = OrderedDict()

    def fold(self, key: Hashable, time: float, now: float) -> tuple[bool, Window | None]:
        """Whether a line is folded into an open window; and the window that it finds at its end."""
        window = self._open.get(key)
        # From here to the count there is no call, hence no signal handler that could close the window meanwhile.
        if window is None or window.closed:
            return False, None
        if now < window.until:
            window.count += 1
            window.last = max(window.last, time)
            return True, None
        return False, self._end(key)

    def open(self, key: Hashable, window: Window) -> list[Window]:
        """A line goes out, and stands for those like it from now on; what comes to its end for that."""
        ended = []
        if len(self._open) >= WINDOWS:
            ended.append(self._end(self._oldest()))
        while self._open.setdefault(key, window) is not window:  # a signal handler has just opened one
            ended.append(self._end(key))
        return [window for window in ended if window is not None]

    def _end(self, key: Hashable) -> Window | None:
        """Take a window away, once; it, if it has something to say."""
        window = self._open.pop(key, None)
        if window is None:
            return None
        window.closed = True
        return window if window.count else None

    def due(self, now: float) -> Window | None:
        """A window that is at its end and has something to say."""
        while (key := self._oldest()) is not None:
            window = self._open.get(key)
            if window is not None and now < window.until:
                break
            ended = self._end(key)
            if ended is not None:
                return ended
        return None

    def _oldest(self) -> Hashable:
        while True:
            try:
                return next(iter(self._open), None)
            except RuntimeError:  # a signal handler changed it between the two calls
                continue

    def close(self) -> list[Window]:
        """End them all."""
        ended = [self._end(key) for key in tuple(self._open)]
        return [window for window in ended if window is not None]
