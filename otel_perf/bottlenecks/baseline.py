"""How long operations usually take: online, from windows of a hundred, with bounded memory.

A window that is slower than the baseline is not learnt from, so that what has become slow does not become normal
while it is being reported; after :data:`ACCEPTED` such windows it does, since somebody has decided to live with it.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from contextlib import suppress
from importlib import import_module
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from otel_perf.bottlenecks.conventions import endpoint, is_url, raw
from otel_perf.core.records import record

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.bottlenecks.record import Record

WINDOW: Final = 100
LEARNT: Final = 2  # windows before anything is said
ABOVE_P90: Final = 28  # of a window: by chance (binomial, p = 0.1) once in 10⁷
ABOVE_MEDIAN: Final = 50  # of a window, above SLOWER × the median
SLOWER: Final = 1.25
RUNNING: Final = 2  # windows in a row
ACCEPTED: Final = 20
DECAY: Final = 0.9  # weight of what was learnt before, per window: half of it is from the last seven
LEAST: Final = 0.01  # weight of a bucket that is kept
NAMES: Final = 1_000  # operations that are remembered, of each kind
ALIASES: Final = 2_000  # addresses that are known to be one of them: each would otherwise be taken apart anew
LONGEST: Final = 10**13  # ns

_STEP: Final = 16 / math.log(2)  # buckets grow by 2^(1/16): a quantile is right within 4.4 %


def _learnt(
    buckets: dict[int, float], window: list[int], decay: float, least: float, longest: float, step: float
) -> dict[int, float]:
    """The buckets with a window added, and what was there before weighing less."""
    found = {bucket: kept for bucket, weight in buckets.items() if (kept := weight * decay) >= least}
    for duration in window:
        bucket = int(math.log(min(max(duration, 1), longest)) * step)
        found[bucket] = found.get(bucket, 0.0) + 1.0
    return found


learnt: Callable[[dict[int, float], list[int], float, float, float, float], dict[int, float]] = _learnt
with suppress(ImportError):
    learnt = import_module("otel_perf.bottlenecks._recorder").learnt


@record
class Regression:
    """An operation has become slower: medians in ns."""

    before: float
    now: float

    @property
    def rise(self) -> float:
        """By how much (ns)."""
        return self.now - self.before


class Durations:
    """The durations of one operation. A window is looked at in the thread that fills it: about 0.1 µs a span."""

    __slots__ = ("buckets", "count", "median", "p90", "p95", "recent", "regression", "slow", "windows")

    def __init__(self) -> None:
        self.recent: list[int] = []
        self.buckets: dict[int, float] = {}
        self.windows = 0  # learnt from
        self.count = 0
        self.slow = 0  # windows in a row that were slower
        self.median = 0.0
        self.p90 = 0.0
        self.p95 = 0.0
        self.regression: Regression | None = None

    @property
    def seen(self) -> int:
        """How often it was counted."""
        return self.count + len(self.recent)

    def add(self, duration: int) -> Regression | None:
        """Count one; the regression if this one completes a window that shows it."""
        self.recent.append(duration)
        return self.look() if len(self.recent) >= WINDOW else None

    def look(self) -> Regression | None:
        """Look at the window that is full."""
        window, self.recent = self.recent, []
        return self._window(sorted(window[:WINDOW])) if len(window) >= WINDOW else None

    def _window(self, window: list[int]) -> Regression | None:
        self.count += WINDOW
        if self.windows >= LEARNT and self._is_slower(window):
            self.slow += 1
            if self.slow <= ACCEPTED:
                if self.slow >= RUNNING:
                    self.regression = Regression(self.median, window[WINDOW // 2])
                return self.regression
            self.buckets.clear()
        self.slow = 0
        self.regression = None
        self._learn(window)
        return None

    def _is_slower(self, window: list[int]) -> bool:
        above_p90 = WINDOW - bisect_right(window, self.p90)
        return above_p90 >= ABOVE_P90 and WINDOW - bisect_right(window, SLOWER * self.median) > ABOVE_MEDIAN

    def _learn(self, window: list[int]) -> None:
        self.buckets = learnt(self.buckets, window, DECAY, LEAST, LONGEST, _STEP)
        self.windows += 1
        self.median, self.p90, self.p95 = self._quantiles((0.5, 0.9, 0.95))

    def _quantiles(self, wanted: tuple[float, ...]) -> list[float]:
        buckets = sorted(self.buckets)
        reached = list(accumulate(map(self.buckets.__getitem__, buckets)))
        places = [bisect_left(reached, share * reached[-1] - 1e-9) for share in wanted]
        return [math.exp((buckets[place] + 0.5) / _STEP) for place in places]


class Baselines:
    """Of local roots by name, and of client spans by name and statement; :data:`NAMES` of each. Thread-safe."""

    def __init__(self) -> None:
        self.roots: dict[str, Durations] = {}
        self.clients: dict[tuple[str, str], Durations] = {}  # several words may lead to one
        self._calls = 0

    def root(self, name: str, duration: int) -> Regression | None:
        """Count a local root that has ended."""
        known = self.roots.get(name)
        if known is None:
            if len(self.roots) >= NAMES:
                return None
            known = self.roots[name] = Durations()
        return known.add(duration)

    def client(self, span: Any, duration: int) -> None:
        """Count a client span that has ended."""
        known = self.clients.get((span._name, raw(span))) or self._meet(span)
        if known is not None:
            recent = known.recent
            recent.append(duration)
            if len(recent) >= WINDOW:
                known.look()

    def _meet(self, span: Any) -> Durations | None:
        """What belongs to a call that is asked for the first time under these words. About 5 µs."""
        text = raw(span)
        key = (span.name, endpoint(span) if is_url(text) else text)
        known = self.clients.get(key)
        if known is None:
            if self._calls >= NAMES:
                return None
            self._calls += 1
            known = self.clients[key] = Durations()
        if len(self.clients) < NAMES + ALIASES:
            self.clients[span.name, text] = known
        return known

    def of_root(self, record: Record) -> Durations | None:
        """What is known of the local root's operation."""
        return self.roots.get(record.name)

    def of_client(self, record: Record) -> Durations | None:
        """What is known of the call."""
        return None if record.span is None else self._meet(record.span)
