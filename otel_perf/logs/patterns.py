"""Which lines there are: counted by template, with the first, the last and an example; and errors by type and place.

A template is the place in the code that logs, with the text in which the arguments are put where there are any. The
place alone stands for messages that are put together before (f-strings), of which there may be any number.
"""

from __future__ import annotations

import os
import sys
from _thread import RLock  # of the operating system's threads, also where gevent has patched them
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.census import Metric
from otel_perf.core.owner import APP, owner
from otel_perf.logs.plain_values import fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from logging import LogRecord
    from types import TracebackType

    from otel_perf.core.census import Reading
    from otel_perf.logs.rules import Rate

    Key = tuple[str, int, int, object]  # file, line, level, template

PATTERNS: Final = Metric(
    "perf.log.patterns", "{record}", "counter", "Log lines that were asked for, by template, logger and level"
)
ERRORS: Final = Metric(
    "perf.log.errors", "{record}", "counter", "Log lines with an exception, by its type and the app's innermost line"
)
OVERFLOW: Final = "otel.metric.overflow"  # as the SDK names what has no series of its own

LIMIT: Final = 1_000  # templates; the lines of the others are counted by logger
LOGGERS: Final = 1_000  # that have a count for the lines of such templates
OF_ONE_PLACE: Final = 100  # templates; a place with more of them puts its templates together as it goes
TEXTS: Final = 16  # of one place, with a bucket each; a place with more has one for all
LONG: Final = 1_000  # characters; a longer text is not told from the others of its place
SERIES: Final = 100  # of each metric
GROUPS: Final = 1_000  # of errors
EXAMPLE: Final = 200  # characters
OUTWARD: Final = 16  # frames that are looked through for the place that logs, and for a text that is written there


class Pattern:
    """One template: its counts, and its bucket of tokens (see :class:`~otel_perf.logs.rules.Rate`)."""

    __slots__ = (
        "count", "example", "first", "full_at", "last", "level", "logger", "lost", "place", "template", "texts", "told",
        "various",
    )  # fmt: skip

    def __init__(self, template: str, place: str, logger: str, level: int, *, various: bool = False) -> None:
        self.template = template
        self.place = place
        self.logger = logger
        self.level = level
        self.various = various  # it may have several texts
        self.example = ""
        self.count = 0
        self.first = self.last = 0.0  # seconds since the epoch
        self.lost = [0, 0, 0, 0]  # by reason, see otel_perf.logs.accounts
        self.told = 0  # of those that were lost
        self.empty_bucket()

    def empty_bucket(self) -> None:
        """Forget which tokens were taken."""
        self.full_at = 0.0
        self.texts: dict[int, float] | None = {} if self.various else None

    def take(self, rate: Rate, text: object, now: float) -> bool:
        """Take a token for a line of a place with various texts. Not thread-safe: the filters hold their lock.

        A function that logs for others logs from one place: so long as a place has few texts, each has a bucket. The
        place's own is charged all along, so that one whose texts are all different keeps to the rate from the start.
        """
        texts = self.texts
        if texts is not None and type(text) is str and len(text) <= LONG:
            key = hash(text)
            full_at = texts.get(key)
            if full_at is not None or len(texts) < min(TEXTS, rate.burst):
                full_at = rate.take(full_at or 0.0, now)
                if full_at:
                    texts[key] = full_at
                    self.full_at = rate.charge(self.full_at, now)
                return full_at > 0.0
        self.texts = None
        full_at = rate.take(self.full_at, now)
        if full_at:
            self.full_at = full_at
        return full_at > 0.0

    def __str__(self) -> str:
        return f"{self.template!r} ({self.place})" if self.template != self.place else self.place


class Patterns:
    """All of them. Thread-safe. Counts are the caller's to raise."""

    def __init__(self, redact: Callable[[str], str] = str) -> None:
        self._redact = redact
        self.by_key: dict[Key, Pattern] = {}  # for the filters, which look into it themselves
        self.forget()

    def forget(self) -> None:
        """Begin anew, as a forked child does: what the parent counted, the parent reports."""
        self._lock = RLock()
        self.by_key.clear()
        self._texts: Counter[tuple[str, int]] = Counter()
        self._by_logger: dict[tuple[str, int], Pattern] = {}
        self._others: dict[int, Pattern] = {}
        self._series = Series(SERIES)
        self.errors = Errors()

    def add(self, key: Key, record: LogRecord) -> Pattern:
        """The pattern of a record that is not among ``by_key``: another thread's by now, a new one, or a shared one.

        Its key is the file, line and level, and the message if there are arguments: its type's name if it is no text.
        """
        return self._add(key, record.name, record.msg, record.created, record)

    def at(self, place: tuple[str, int], logger: str, level: int, template: str, now: float) -> Pattern:
        """The pattern of a line of another library, by its place."""
        key = place[0], place[1], level, None
        return self.by_key.get(key) or self._add(key, logger, template, now, None)

    def add_error(self, exc_info: object) -> None:
        """Count the exception of a record."""
        if isinstance(exc_info, tuple) and len(exc_info) == 3:
            self.errors.add(exc_info[1], exc_info[2])

    def all(self) -> list[Pattern]:
        """Every one that has counted."""
        with self._lock:
            found = [*self.by_key.values(), *self._by_logger.values(), *self._others.values()]
        return [pattern for pattern in found if pattern.count]

    def top(self, number: int) -> list[Pattern]:
        """Those with the most lines first."""
        return sorted(self.all(), key=lambda pattern: -pattern.count)[:number]

    def empty_buckets(self) -> None:
        """The rate is another one from now on."""
        for pattern in self.all():
            pattern.empty_bucket()

    def readings(self) -> Iterable[Reading]:
        """As a metric."""
        return self._series.readings([(pattern, pattern.count) for pattern in self.all()], _attributes)

    def error_readings(self) -> Iterable[Reading]:
        """The errors as a metric."""
        return self.errors.readings()

    def _add(self, key: Key, logger: str, message: object, now: float, record: LogRecord | None) -> Pattern:
        path, line, level, _ = key
        text = None if key[3] is None else str(key[3])
        place = f"{os.path.basename(path)}:{line}" if line else logger  # noqa: PTH119  it may be no path
        with self._lock:
            if text is not None and self._texts[path, line] >= OF_ONE_PLACE:
                key, text = (path, line, level, None), None
            found = self.by_key.get(key)
            if found is not None:
                return found
            if len(self.by_key) >= LIMIT:
                return self._shared(logger, level, now)
            if text is None:
                text = message if type(message) is str and _is_written(message, path, line) else place
            template = self._clean(text)  # it may be put together as well
            found = self.by_key[key] = Pattern(template, place, logger, level, various=key[3] is None)
            found.first = now
            self._texts[path, line] += 1
        # Not under the lock: the app's own str() may wait for one that a thread holds which logs.
        found.example = self._clean(_message(record, message))
        return found

    def _clean(self, text: str) -> str:
        try:
            return fit(text, EXAMPLE, self._redact)[:EXAMPLE]
        except Exception:  # what cannot be looked through is not shown; where it is exported it is told
            return ""

    def _shared(self, logger: str, level: int, now: float) -> Pattern:
        shared: dict[Any, Pattern] = self._by_logger
        key: Any = (logger, level)
        if key not in shared and len(shared) >= LOGGERS:
            shared, logger, level = self._others, "", min(max(level // 10, 1), 5) * 10
            key = level
        found = shared.get(key)
        if found is None:
            found = shared[key] = Pattern("", "(others)", logger, level)
            found.first = now
        return found


def _attributes(pattern: Pattern) -> dict[str, Any]:
    from logging import getLevelName

    return {
        "perf.log.template": pattern.template or pattern.place or "(others)",
        "perf.log.logger": pattern.logger,
        "perf.log.level": getLevelName(pattern.level),
    }


def _message(record: LogRecord | None, message: object) -> str:
    try:
        return str(message) if record is None else record.getMessage()
    except Exception:  # wrong arguments, or a broken str(): logging says so itself
        return ""


def _is_written(message: str, path: str, line: int) -> bool:
    """Whether a message stands in the code as it is, at the place that logs or just outside of it."""
    frame, near = sys._getframe(1), 0
    for _ in range(OUTWARD):
        code = frame.f_code
        near += bool(near) or (code.co_filename == path and frame.f_lineno == line)
        if near and any(type(value) is str and value == message for value in code.co_consts):
            return True
        if near > 4 or frame.f_back is None:  # a function that logs for others has its text from its caller
            return False
        frame = frame.f_back
    return False


class Series:
    """Series of their own for some of many counters, and one for the rest; none of them ever falls.

    Each time half of the places that are left go to those that grew most, so that a flood that comes late finds one.
    What a counter had before is in the rest, and stays there.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = RLock()
        self._seen: dict[Any, int] = {}
        self._own: dict[Any, int] = {}  # and what it had before

    def readings(
        self, counted: Iterable[tuple[Any, int]], attributes: Callable[[Any], dict[str, Any]]
    ) -> list[Reading]:
        """Of the counters as they are now."""
        with self._lock:
            counts = dict(counted)
            grown = sorted(
                (item for item in counts if item not in self._own),
                key=lambda item: self._seen.get(item, 0) - counts[item],
            )
            for item in grown[: (self._limit - len(self._own) + 1) // 2]:
                self._own[item] = self._seen.get(item, 0)
            self._seen = counts
            found: list[Reading] = [
                (counts[item] - before, attributes(item)) for item, before in self._own.items() if item in counts
            ]
            rest = sum(counts.values()) - sum(int(value) for value, _ in found)
        return [*found, (rest, {OVERFLOW: True})] if rest else found


class Errors:
    """Exceptions that were logged, by type and place. Thread-safe; about 2 µs for a record with an exception."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = RLock()
        self._series = Series(SERIES)

    def add(self, error: BaseException | None, trace: TracebackType | None) -> None:
        """Count one."""
        if error is None:
            return
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        key = name, place_of(trace)
        with self._lock:
            if key not in self._counts and len(self._counts) >= GROUPS:
                key = "", ""
            self._counts[key] += 1

    def readings(self) -> Iterable[Reading]:
        """As a metric."""
        with self._lock:
            counted = list(self._counts.items())
        return self._series.readings(counted, lambda key: {"exception.type": key[0], "perf.error.place": key[1]})


def place_of(trace: TracebackType | None) -> str:
    """``file.py:12 in function`` of the app's innermost frame, else of the innermost; empty without a traceback."""
    last = of_app = None
    while trace is not None:
        last = trace
        if owner(trace.tb_frame.f_code.co_filename) == APP:
            of_app = trace
        trace = trace.tb_next
    found = of_app or last
    if found is None:
        return ""
    code = found.tb_frame.f_code
    return f"{os.path.basename(code.co_filename)}:{found.tb_lineno} in {code.co_qualname}"  # noqa: PTH119
