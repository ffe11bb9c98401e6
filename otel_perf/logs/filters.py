"""Decides of every line whether it is kept. All rules are off until asked for; then a line costs 0.5 µs here.

A line whose level is too low for its logger is dropped before its record is made: while there are rules for levels,
``logging.Logger.isEnabledFor`` asks them, after the app's own levels, whose lines are not counted. Every other rule
needs the record. Errors and the lines of audits are beyond all rules but those for levels.
"""

from __future__ import annotations

import logging
import time
from _thread import RLock  # re-entrant: a signal handler or a finalizer may log in the midst of a decision
from dataclasses import field
from typing import TYPE_CHECKING, Final

from otel_perf.core import cleaning
from otel_perf.core.clock import SYSTEM_CLOCK
from otel_perf.core.events import FOLDED
from otel_perf.core.forks import on_fork
from otel_perf.core.records import record
from otel_perf.logs import rules as read
from otel_perf.logs.accounts import DROPPED, FOLD, LEVEL, RATE, SAMPLE, Accounts
from otel_perf.logs.correlation import CORRELATION_ID, TRACE_ID, is_from_elsewhere
from otel_perf.logs.folding import TEXT, Folding, Window
from otel_perf.logs.lines import Line, identity_of, is_sampled, place_of, text_of
from otel_perf.logs.patterns import ERRORS, PATTERNS, Pattern, Patterns
from otel_perf.logs.settings import ADJUSTABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from contextlib import ExitStack

    from otel_perf.core.feature import Host
    from otel_perf.core.guard import Guard
    from otel_perf.logs.settings import LogsSettings

LOGGERS: Final = 10_000  # whose rules are remembered
MOST: Final = 3  # templates that the summing-up line names
SUM_UP: Final = 60.0  # seconds between summing-up lines
CLOSE: Final = 1.0  # seconds between looks for windows that have come to their end
PATIENCE: Final = 0.1  # seconds that the last words wait for a lock: a signal may have interrupted its holder

_ERROR: Final = logging.ERROR
_log = logging.getLogger("otel_perf")
_active: Filters | None = None


def keep(record: logging.LogRecord) -> bool:
    """Whether a record goes to the app's handlers and to the export. One that came from elsewhere was decided there."""
    filters = _active
    if filters is None:
        return True
    fields = record.__dict__
    if FOLDED in fields or ((CORRELATION_ID in fields or TRACE_ID in fields) and is_from_elsewhere(fields)):
        return True
    text: object = None
    if record.args:
        text = record.msg
        if type(text) is not str:  # it may not be hashable, or be compared by the app's own code
            text = type(text).__name__
    key = record.pathname, record.lineno, record.levelno, text
    try:
        pattern = filters.by_key[key]
    except KeyError:
        pattern = filters.patterns.add(key, record)
    pattern.count += 1
    pattern.last = record.created
    if record.exc_info:
        filters.patterns.add_error(record.exc_info)
    rules = filters.rules
    return rules is None or filters.decide(rules, pattern, record)


def keep_line(logger: str, levelno: int, template: str, place: tuple[str, int], message: str | None = None) -> bool:
    """The same for a line of another library, in the span that is current.

    ``template`` is the text before anything is put into it, ``place`` the file and line that log. Lines are folded
    only with a ``message``: all of the line but its time, in which they have to be alike.
    """
    filters = _active
    if filters is None:
        return True
    now = time.time()
    pattern = filters.patterns.at(place, logger, levelno, template, now)
    pattern.count += 1
    pattern.last = now
    rules = filters.rules
    return rules is None or filters.decide(rules, pattern, Line(logger, levelno, template, place, message, now))


def last_words() -> None:
    """Say what would else be lost with the process. Waits for nobody for long."""
    if _active is not None:
        _active.last_words()


class _Logger:
    """What the rules say of one logger."""

    __slots__ = ("exempt", "least", "lost", "ours", "told")

    def __init__(self, name: str, levels: read.Levels) -> None:
        self.least = levels.least(name)
        self.exempt = read.is_exempt(name)
        self.ours = read.is_ours(name)  # no line of the app's
        self.lost = self.told = 0  # before a record was made


@record
class Rules:
    """All that is in force, and what it says of the loggers that were seen."""

    levels: read.Levels
    rate: read.Rate | None
    fold: float
    shares: read.Sample | None
    loggers: dict[str, _Logger] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: LogsSettings) -> Rules | None:
        """From settings that were checked; ``None`` where nothing is asked for."""
        rate, shares = read.rate(settings.rate), read.sample(settings.sample)
        rules = cls(read.levels(settings.levels), rate, settings.fold, shares or None)
        return rules if rules.levels or rate or settings.fold or shares else None

    def of_logger(self, name: str) -> _Logger:
        """What they say of a logger."""
        found = self.loggers.get(name)
        if found is None:
            found = _Logger(name, self.levels)
            if len(self.loggers) < LOGGERS:
                self.loggers[name] = found
        return found


class Filters:
    """The rules in force, and what became of the lines. Thread-safe, also under signals and finalizers.

    Counts and the moments of buckets are raised without a lock: between reading one and writing it back there is no
    call and no loop, and only at these does CPython with its GIL change threads (see :mod:`otel_perf.calls.pure`).
    """

    def __init__(self, patterns: Patterns, guard: Guard, monotonic: Callable[[], float]) -> None:
        self.patterns = patterns
        self.by_key = patterns.by_key
        self.rules: Rules | None = None
        self.accounts = Accounts(patterns)
        self._monotonic = monotonic
        self._guard = guard
        self._folding = Folding()
        self._unsaid: list[Window] = []
        self._lock = RLock()
        self._undo: list[Callable[[], object]] = []

    # --- rules that come and go -------------------------------------------------------------------

    def apply(self, settings: LogsSettings) -> None:
        """Have other rules from now on. Raises ``ValueError`` for settings that nobody checked."""
        before, rules = self.rules, Rules.of(settings)
        with self._lock:
            self.rules = rules
            if (before and before.rate) != (rules and rules.rate):
                self.patterns.empty_buckets()
            windows = [] if before and rules and before.fold == rules.fold else self._folding.close()
        for undo in self._undo:
            undo()
        self._undo = []
        for window in windows:
            window.say()
        if rules is None:
            self.sum_up()
            return
        self._undo.append(cleaning.register("otel_perf.logs: what was dropped", self.sum_up, SUM_UP))
        if rules.levels:
            self._undo.append(self._ask_for_levels())
        if rules.fold:
            self._undo.append(cleaning.register("otel_perf.logs: folded lines", self.close_due, CLOSE))

    def _ask_for_levels(self) -> Callable[[], None]:
        original = logging.Logger.isEnabledFor
        active = [True]

        def is_enabled_for(self_: logging.Logger, level: int) -> bool:
            if not original(self_, level):  # with logging's own cache
                return False
            try:
                return not active or self.is_level_kept(self_.name, level)
            except Exception as error:
                self._guard.handle(error)
                return True

        logging.Logger.isEnabledFor = is_enabled_for  # type: ignore[method-assign, assignment]

        def restore() -> None:
            active.clear()
            if logging.Logger.isEnabledFor is is_enabled_for:
                logging.Logger.isEnabledFor = original  # type: ignore[method-assign]

        return restore

    def is_level_kept(self, name: str, level: int) -> bool:
        """Whether the rules let a logger's level pass; a line that they do not is counted."""
        rules = self.rules
        if rules is None:
            return True
        logger = rules.loggers.get(name) or rules.of_logger(name)
        if level >= logger.least:
            return True
        logger.lost += 1
        with self._lock:
            self.accounts.unmade[level] += 1
        return False

    # --- one line -----------------------------------------------------------------------------------

    def decide(self, rules: Rules, pattern: Pattern, line: logging.LogRecord | Line) -> bool:  # noqa: PLR0911  one return a rule
        """Whether a line is kept."""
        level = line.levelno
        try:
            logger = rules.loggers[line.name]
        except KeyError:
            logger = rules.of_logger(line.name)
        if level < logger.least:
            pattern.lost[LEVEL] += 1
            return False
        if level >= _ERROR or logger.exempt:
            self.accounts.kept += not logger.ours
            return True
        if rules.shares is not None and not is_sampled(rules.shares.bound(level), line):
            pattern.lost[SAMPLE] += 1
            return False
        if rules.fold:
            return self._fold(rules, pattern, line)
        rate = rules.rate
        if rate is not None:
            now = self._monotonic()
            if pattern.texts is None and pattern.full_at - now > rate.ahead:  # as _take says, without a call
                pattern.lost[RATE] += 1
                return False
            if not self._take(rate, pattern, line, now):
                return False
        self.accounts.kept += 1
        return True

    def _fold(self, rules: Rules, pattern: Pattern, line: logging.LogRecord | Line) -> bool:
        alike = identity_of(line)
        key: Hashable = None if alike is None else (pattern, line.name, alike[0])
        now, ended = self._monotonic(), []
        with self._lock:
            if alike is not None:
                folded, window = self._folding.fold(key, line.created, now)
                if folded:
                    pattern.lost[FOLD] += 1
                    return False
                ended = [] if window is None else [window]
            kept = rules.rate is None or self._take(rules.rate, pattern, line, now)
            if kept:
                self.accounts.kept += 1
            if kept and alike is not None:
                until = now + rules.fold
                window = Window(line.name, line.levelno, alike[1][:TEXT], place_of(line), line.created, until)
                ended += self._folding.open(key, window)
        for window in ended:  # not under the lock: handlers have locks of their own
            window.say()
        return kept

    def _take(self, rate: read.Rate, pattern: Pattern, line: logging.LogRecord | Line, now: float) -> bool:
        """Take a token, if there is one."""
        if pattern.texts is not None:
            with self._lock:
                taken = pattern.take(rate, text_of(line), now)
            if not taken:
                pattern.lost[RATE] += 1
            return taken
        full_at = pattern.full_at
        if full_at - now > rate.ahead:
            pattern.lost[RATE] += 1
            return False
        pattern.full_at = (full_at if full_at > now else now) + rate.interval  # noqa: FURB136  max() is a call
        return True

    # --- what is said of them ---------------------------------------------------------------------

    def sum_up(self) -> None:
        """Say in a line what was kept back since the last one, if anything was."""
        with self._lock:
            found = self.accounts.sum_up()
            if found is None:
                return
            most = self._most()
        _log.disabled = False  # dictConfig's default disables every logger it does not name
        _log.warning("%s", found.line(most), extra=found.attributes())

    def _most(self) -> list[str]:
        found: list[tuple[int, str]] = []
        for pattern in self.patterns.all():
            lost = sum(pattern.lost)
            found.append((lost - pattern.told, str(pattern)))
            pattern.told = lost
        for name, logger in () if self.rules is None else tuple(self.rules.loggers.items()):
            found.append((logger.lost - logger.told, name))
            logger.told = logger.lost
        return [f"{what} {number:,}" for number, what in sorted(found, reverse=True)[:MOST] if number]

    def close_due(self) -> Iterator[None]:
        """Say what was folded in windows that have come to their end. A cleanup task."""
        while True:
            with self._lock:
                window = self._folding.due(self._monotonic())
            if window is None:
                return
            window.say()
            yield

    def last_words(self, *, wait: bool = False) -> None:
        """Say all that is left to say, or what can be said without waiting for a handler that is at work."""
        if not self._lock.acquire(timeout=-1 if wait else PATIENCE):
            return
        try:
            windows, self._unsaid = [*self._unsaid, *self._folding.close()], []
        finally:
            self._lock.release()
        for window in windows:
            if wait or _can_log(logging.getLogger(window.logger)):
                window.say()
            else:
                self._unsaid.append(window)
        if wait or _can_log(_log):
            self.sum_up()

    def end(self) -> None:
        """Take the patch and the tasks back."""
        for undo in self._undo:
            undo()
        self._undo = []
        self.rules = None

    def after_fork_in_child(self) -> None:
        """Begin every count anew: what the parent counted and folded, the parent says."""
        self._lock = RLock()
        self.accounts.begin()
        self._folding, self._unsaid = Folding(), []
        self.patterns.forget()
        for logger in () if self.rules is None else self.rules.loggers.values():
            logger.told = logger.lost


def _can_log(logger: logging.Logger | None) -> bool:
    """Whether the handlers are free: a signal may have come while one of them was at work."""
    while logger is not None:
        for handler in logger.handlers:
            lock = handler.lock
            if lock is not None:
                if not lock.acquire(timeout=PATIENCE):
                    return False
                lock.release()
        logger = logger.parent if logger.propagate else None
    return True


def install(
    settings: LogsSettings, host: Host, guard: Guard, undo: ExitStack, redact: Callable[[str], str] = str
) -> None:
    """Count every line, and keep to the rules, also to those that flags bring later. ``redact``: of the examples."""
    global _active
    filters = Filters(Patterns(redact), guard, SYSTEM_CLOCK.monotonic)

    def deactivate() -> None:
        global _active
        filters.last_words(wait=True)
        filters.end()
        if _active is filters:
            _active = None

    _active = filters
    undo.callback(deactivate)
    undo.callback(on_fork(child=filters.after_fork_in_child))
    undo.callback(host.census.add(PATTERNS, filters.patterns.readings))
    undo.callback(host.census.add(ERRORS, filters.patterns.error_readings))
    undo.callback(host.census.add(DROPPED, filters.accounts.readings))
    undo.callback(host.adjust("logs", settings, ADJUSTABLE, filters.apply))
