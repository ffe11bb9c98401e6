"""What became of the lines that were made: kept + dropped + folded = made, exactly."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.census import Metric
from otel_perf.core.numerals import digits
from otel_perf.core.records import record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_perf.core.census import Reading
    from otel_perf.logs.patterns import Patterns

DROPPED: Final = Metric(
    "perf.log.dropped", "{record}", "counter", "Log lines that a rule kept back, by reason (level, rate, sample, fold)"
)
REASONS: Final = ("level", "rate", "sample", "fold")
LEVEL, RATE, SAMPLE, FOLD = range(4)
_NAMES: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")  # bounded, whatever levels an app has


@record
class Sum:
    """What there was in some time."""

    seconds: float
    kept: int
    dropped: dict[str, int]  # by reason, without what was folded
    folded: int

    @property
    def made(self) -> int:
        """All of them."""
        return self.kept + sum(self.dropped.values()) + self.folded

    def line(self, most: list[str]) -> str:
        """As a sentence; ``most`` is of what there was the most."""
        reasons = ", ".join(f"{number:,} by {reason}" for reason, number in self.dropped.items())
        dropped = f"{sum(self.dropped.values()):,} dropped{f' ({reasons})' if reasons else ''}"
        rest = f"; most of {', '.join(most)}" if most else ""
        return (
            f"otel-perf: {self.made:,} log lines in {digits(self.seconds)} s:"
            f" {self.kept:,} kept, {dropped}, {self.folded:,} folded{rest}"
        )

    def attributes(self) -> dict[str, Any]:
        """As extras of the line."""
        numbers = {"made": self.made, "kept": self.kept, "folded": self.folded}
        numbers |= {f"dropped.{reason}": number for reason, number in self.dropped.items()}
        return {f"perf.log.{name}": number for name, number in numbers.items()}


class Accounts:
    """The counts: of lines with a record with their pattern, of others here."""

    def __init__(self, patterns: Patterns) -> None:
        self._patterns = patterns
        self.begin()

    def begin(self) -> None:
        """Anew, as in a forked child: what the parent counted, the parent reports."""
        self.kept = 0
        self.unmade: Counter[int] = Counter()  # by level: dropped before their record was made
        self._told_kept = 0
        self._told: Counter[str] = Counter()
        self._since = time.monotonic()

    def lost(self) -> Counter[tuple[str, int]]:
        """What rules kept back, by reason and level."""
        found = Counter({(REASONS[LEVEL], level): number for level, number in self.unmade.copy().items()})
        for pattern in self._patterns.all():
            for reason, number in zip(REASONS, pattern.lost, strict=True):
                if number:
                    found[reason, pattern.level] += number
        return found

    def readings(self) -> Iterable[Reading]:
        """As a metric."""
        found: Counter[tuple[str, str]] = Counter()
        for (reason, level), number in self.lost().items():
            found[reason, _NAMES[min(max(level // 10, 1), 5) - 1]] += number
        return [
            (number, {"perf.log.reason": reason, "perf.log.level": level}) for (reason, level), number in found.items()
        ]

    def sum_up(self) -> Sum | None:
        """What there was since it was last asked; ``None`` where nothing was kept back."""
        now, total = time.monotonic(), Counter[str]()
        for (reason, _level), number in self.lost().items():
            total[reason] += number
        kept, new = self.kept - self._told_kept, total - self._told
        seconds = now - self._since
        self._since, self._told, self._told_kept = now, total, self.kept
        if not new:
            return None
        folded = new.pop(REASONS[FOLD], 0)
        return Sum(seconds, kept, dict(sorted(new.items())), folded)
