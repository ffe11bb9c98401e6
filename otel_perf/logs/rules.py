"""What users say of which lines are to be kept, read into rules that are quick to ask.

======== ============================================ ==================================================
levels   ``uvicorn.access=WARNING,shop.*=INFO``       the least level of a logger and those beneath it
rate     ``100/s``, ``5/min``, ``20/10s``             most lines of one template, and so many at once
fold     ``10s``                                      how long a line stands for others like it
sample   ``INFO=10%,DEBUG=1%``                        share of the traces whose lines of a level are kept
======== ============================================ ==================================================
"""

from __future__ import annotations

import logging
import re
import sys
from fnmatch import translate
from functools import cache
from typing import Final

from otel_perf.core.records import record
from otel_perf.core.settings import parse_duration

OFF: Final = frozenset({"", "off", "none"})
NEVER: Final = sys.maxsize  # a level that no line has
OURS: Final = "otel_perf"
AUDIT: Final = "audit"  # a logger with this part in its name is for audits
BAND: Final = 10  # levels from one of logging's own to the next
ROUNDING: Final = 1e-3  # of a token, that sums of floats may be off by
TRACE_BITS: Final = (1 << 64) - 1  # of a trace id, by which OpenTelemetry's TraceIdRatioBased decides

_LEVELS: Final = {"WARN": logging.WARNING, "FATAL": logging.CRITICAL, "OFF": NEVER}


@cache
def _rate() -> re.Pattern[str]:
    return re.compile(r"\s*([0-9]*\.?[0-9]+)\s*/\s*([0-9]*\.?[0-9]*)\s*(us|µs|ms|s|sec|m|min|h|d)\s*", re.ASCII)


def level_of(text: str) -> int:
    """A level's number, from its name (also one that the app added) or number. Raises ``ValueError``."""
    name = text.strip().upper()
    if name.isdecimal():
        return int(name)
    known = _LEVELS.get(name)
    level: int | str = logging.getLevelName(name) if known is None else known
    if isinstance(level, int):
        return level
    raise ValueError(f"is wrong at {text.strip()!r}, which is not a level")


@record
class LevelRule:
    """The least level of the loggers that ``pattern`` names."""

    pattern: str
    least: int
    matches: re.Pattern[str]

    @property
    def weight(self) -> int:
        """How much of a name it says: of two rules for a logger the one that says more counts."""
        return len(self.pattern.replace("*", ""))


class Levels:
    """The rules for levels: which is the least that a logger's lines need. Immutable."""

    def __init__(self, rules: tuple[LevelRule, ...] = ()) -> None:
        self._rules = tuple(sorted(rules, key=lambda rule: rule.weight))

    def __bool__(self) -> bool:
        return bool(self._rules)

    def least(self, name: str) -> int:
        """0 where no rule is for it. About 0.3 µs a rule: for a cache to ask.

        Lines of audits, and our own, which say what was dropped, need a rule that names them.
        """
        needs = OURS if is_ours(name) else AUDIT if is_exempt(name) else ""
        for rule in reversed(self._rules):
            if needs in rule.pattern and rule.matches.match(name) is not None:
                return rule.least
        return logging.NOTSET


def _pairs(text: str, what: str) -> list[tuple[str, str]]:
    pairs = []
    for item in text.split(","):
        name, equals, value = item.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise ValueError(f"is wrong at {item.strip()!r}, which is not {what}")
        pairs.append((name.strip(), value.strip()))
    return pairs


def levels(text: str) -> Levels:
    """From ``logger=LEVEL,…``. A name is for the logger and all beneath it; ``shop.*`` for those beneath only."""
    if text.strip().lower() in OFF:
        return Levels()
    rules = []
    for pattern, level in _pairs(text, "logger=LEVEL"):
        form = translate(pattern) if "*" in pattern else rf"{re.escape(pattern)}(\.|\Z)"
        rules.append(LevelRule(pattern, level_of(level), re.compile(form)))
    return Levels(tuple(rules))


@record
class Rate:
    """So many lines in so many seconds, and as many at once: a token bucket.

    Kept as the moment at which the bucket would be full again (the generic cell rate algorithm, ITU-T I.371,
    "virtual scheduling"): one number for each bucket, and no thread that refills it. In any window of w seconds at
    most ``burst + w / interval`` are let through.
    """

    interval: float  # seconds for one token
    burst: int  # tokens of a full bucket
    ahead: float = 0.0  # seconds that a bucket may be from being full, so that a token is in it; derived

    def __post_init__(self) -> None:
        object.__setattr__(self, "ahead", (self.burst - 1 + ROUNDING) * self.interval)

    def take(self, full_at: float, now: float) -> float:
        """The moment at which the bucket is full again once a token is taken; 0.0 when there is none."""
        if full_at - now > self.ahead:
            return 0.0
        return max(full_at, now) + self.interval

    def charge(self, full_at: float, now: float) -> float:
        """Take a token that another bucket gave; the debt is at most an empty bucket."""
        return min(max(full_at, now) + self.interval, now + self.burst * self.interval)


def rate(text: str) -> Rate | None:
    """From ``100/s``."""
    if text.strip().lower() in OFF:
        return None
    match = _rate().fullmatch(text)
    if match is None:
        raise ValueError("is not a rate")
    unit = "s" if match[3] == "sec" else match[3]
    number, seconds = float(match[1]), parse_duration(f"{match[2] or 1}{unit}")
    if not number or not seconds:
        raise ValueError("is not a rate above 0")
    return Rate(seconds / number, max(1, int(number)))


class Sample:
    """Which share of the traces keeps its lines of a level. Immutable."""

    def __init__(self, shares: dict[int, float] | None = None) -> None:
        self._shares = shares or {}

    def __bool__(self) -> bool:
        return bool(self._shares)

    def bound(self, level: int) -> int:
        """A trace's lines of ``level`` are kept if the low 64 bits of its id are less.

        As for upstream's ``TraceIdRatioBased``: a trace that a smaller ratio keeps has all of them. A level between
        logging's own belongs to the one beneath; one beneath DEBUG to DEBUG.
        """
        share = self._shares.get(level)
        if share is None:
            share = self._shares.get(max(level // BAND * BAND, logging.DEBUG), 1.0)
        return round(share * (TRACE_BITS + 1))


def sample(text: str) -> Sample:
    """From ``LEVEL=share,…``; a share is ``10%`` or ``0.1``."""
    if text.strip().lower() in OFF:
        return Sample()
    shares: dict[int, float] = {}
    for name, share in _pairs(text, "LEVEL=share"):
        level = level_of(name)
        if level >= logging.ERROR:
            raise ValueError(f"is wrong at {name!r}: errors are never dropped by chance")
        shares[level] = _share(share)
    return Sample(shares)


def _share(text: str) -> float:
    try:
        number = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise ValueError(f"is wrong at {text!r}, which is not a share like 10% or 0.1")
    return number


def fold(value: object) -> float:
    """Seconds from ``10s``; 0 is off."""
    return 0.0 if str(value).strip().lower() in OFF else parse_duration(value)


def is_exempt(name: str) -> bool:
    """Whether lines of a logger are beyond rates, folding and sampling: those of audits, and what we say ourselves."""
    return is_ours(name) or AUDIT in name.split(".")


def is_ours(name: str) -> bool:
    """Whether it is what we say ourselves, and no line of the app's."""
    return name == OURS or name.startswith(f"{OURS}.")
