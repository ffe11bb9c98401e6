"""Suspects a leak from the course of resident memory, long before the limit is reached.

Memory that is taken and given back shows above a floor: the least of each 100 s. A leak raises the floors, evenly and
without an end. Tests for a trend (t, Mann–Kendall) find one in any warm-up; here it takes more:

- at the slope of the floors (Theil–Sen: the median of the slopes between any two of them; Sen 1968) the limit is
  reached within 6 h;
- what is free is at most twice what they grew: more than a third of what was free is gone;
- they grow in each eighth of that time, and in its second half not slower than in its first;
- they are higher than ever in the last 25 h, by at least half of what they grew.

So what fills up to a level is told from a leak as long as that level leaves two thirds of the free memory alone, or
is approached more and more slowly. A cache of a known limit that is still filling is waited for, once. What cannot be
told from a leak: anything else that takes more than a third of the free memory, evenly, for more than 20 minutes.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from contextlib import suppress
from itertools import islice, pairwise
from math import inf
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.events import Event
from otel_perf.core.records import record
from otel_perf.core.threads import allocate_lock, start_new_thread
from otel_perf.memory.gauges import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from otel_perf.core.guard import Guard
    from otel_perf.memory.cache_metrics import Numbers
    from otel_perf.memory.leak_evidence import Evidence
    from otel_perf.memory.pressure import Usage

WINDOW: Final = 100.0  # seconds, of which the least counts
SAMPLES: Final = 100  # in a window
GAP: Final = 100.0  # seconds without a sample after which the floors begin anew
WARM_UP: Final = 900.0  # seconds from the start that do not count
HORIZON: Final = 6 * 3600.0  # seconds within which the limit has to be reached
AHEAD: Final = 2.0  # times what it has grown is the most that may be free
SPANS: Final = (12, 18, 27, 36, 54, 72, 96, 132)  # windows for which it may have grown: 20 min to 3 h 40 min
KEPT: Final = 900  # windows: 25 h, so that each day is compared with the one before
POINTS: Final = 66  # floors of which slopes are made, at most: 2,145 slopes
PARTS: Final = 8  # of the time for which it has grown,
EVEN: Final = 0.4  # each with so much of the growth of the mean one
LASTING: Final = 0.8  # of the slope of the first half is the least of that of the second
NEW: Final = 0.5  # of the growth is above what was there before
AGAIN: Final = 3600.0  # seconds until the next alarm, if it still grows; then twice as long, and so on
CRITICAL: Final = 0.9  # of the limit, from which on what grows is not looked into: that takes memory

LEAK_SUSPECTED: Final = Event(
    "perf.memory.leak_suspected",
    "Memory grows evenly towards its limit: how fast, until when, which types and lines, and what holds them",
)


@record
class Growth:
    """How resident memory grows."""

    rate: float  # bytes a second
    lasted: float  # seconds, so far
    left: float  # seconds until the limit


class Trend:
    """The floors, and what they say. Fed by one thread; keeps :data:`KEPT` numbers."""

    def __init__(self) -> None:
        self._floors: deque[float] = deque(maxlen=KEPT)
        self._floor = inf
        self._opens: float | None = None  # when the window began or begins
        self._last = 0.0

    def add(self, now: float, resident: float) -> bool:
        """What is resident at a time (bytes, s); whether a window was completed. Below 1 µs."""
        if self._opens is None:
            self._opens = now + WARM_UP
        elif now - self._last > GAP:  # asleep: what is before the gap does not adjoin what is after it
            self._floors.clear()
            self._opens, self._floor = max(now, self._opens), inf
        self._last = now
        if now < self._opens:
            return False
        closed = now >= self._opens + WINDOW
        if closed:
            self._floors.append(resident if self._floor == inf else self._floor)
            self._opens, self._floor = self._opens + WINDOW, inf
        self._floor = min(self._floor, resident)
        return closed

    def judge(self, free: float) -> Growth | None:
        """Whether memory leaks, with ``free`` bytes until the limit. Mostly some µs; 1 ms where it grows."""
        known = len(self._floors)
        for count in SPANS:
            if count > known:
                break
            floors = list(islice(self._floors, known - count, None))
            before = max(islice(self._floors, known - count), default=0.0)
            growth = _growth(floors, before, free)
            if growth is not None:
                return growth
        return None


def _growth(floors: list[float], before: float, free: float) -> Growth | None:
    lasted = len(floors) * WINDOW
    size = len(floors) / PARTS
    levels = [min(floors[round(part * size) : round((part + 1) * size)]) for part in range(PARTS)]
    grown = levels[-1] - levels[0]
    if grown <= 0 or levels[-1] - max(levels[0], before) < NEW * grown:
        return None
    if free > AHEAD * grown:
        return None
    if min(after - ahead for ahead, after in pairwise(levels)) < EVEN * grown / (PARTS - 1):
        return None
    if len(floors) > POINTS:
        floors = [min(pair) for pair in zip(floors[::2], floors[1::2], strict=True)]
    middle = len(floors) // 2
    if slope(floors[middle:]) < LASTING * slope(floors[:middle]):
        return None
    rate = slope(floors) * len(floors) / lasted
    left = max(free, 0.0) / rate if rate > 0 else inf
    return Growth(rate, lasted, left) if left <= HORIZON else None


def slope(values: Sequence[float]) -> float:
    """The median of the slopes between any two of ``values`` at equal distances, which must be two or more."""
    slopes = sorted(
        (later - value) / distance
        for start, value in enumerate(values)
        for distance, later in enumerate(values[start + 1 :], 1)
    )
    middle = len(slopes) // 2
    return slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2


class LeakWatch:
    """Feeds the trend, and has a suspicion looked into by a thread of its own, which ends within a minute.

    :meth:`look` is for one thread, often; it returns at once. Errors of the other thread go to ``guard``.
    """

    def __init__(
        self,
        read: Callable[[], Usage],
        tell: Callable[[dict[str, Any], str], None],
        guard: Callable[[], Guard],
        caches: Callable[[], Mapping[str, Numbers]],
        *,
        trace: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._tell = tell
        self._guard = guard
        self._caches = caches
        self._trace = trace
        self._clock = clock
        self.start()

    def start(self) -> None:
        """From the beginning; also in a child, which has none of the parent's threads."""
        if tracing := _tracing():
            tracing.after_fork_in_child()
        self._trend = Trend()
        self._due = 0.0
        self._quiet = 0.0  # nothing is said until then,
        self._pause = AGAIN  # and for so long after the next alarm
        self._waited = False  # for a cache to be full
        self._busy = False
        self._bell: Any = allocate_lock()
        self._bell.acquire()

    def end(self) -> None:
        """Stop what is being looked into, and the tracing of allocations with it."""
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.release()
        if tracing := _tracing():
            tracing.stop()

    def look(self) -> None:
        """Take a sample when it is time; about 15 µs a second."""
        now, bell = self._clock(), self._bell
        if now < self._due or bell is None:
            return
        self._due = now + WINDOW / SAMPLES
        if not self._trend.add(now, memory()[0]) or self._busy or now < self._quiet:
            return
        usage = self._read()
        growth = self._trend.judge(usage.limit - usage.used)
        if growth is None:
            self._waited, self._pause = False, AGAIN
        elif usage.share >= CRITICAL:
            self._say(growth, usage, None)
        else:
            self._busy = True
            try:
                start_new_thread(self._investigate, (growth, usage, bell))
            except RuntimeError:  # no more threads
                self._busy = False
                self._say(growth, usage, None)

    def _investigate(self, growth: Growth, usage: Usage, bell: Any) -> None:
        def wait(seconds: float) -> bool:
            if bell.acquire(timeout=seconds):
                bell.release()
                return True
            return False

        try:
            from otel_perf.memory import leak_evidence  # not by a start: it is seldom needed, and brings tracemalloc

            found = leak_evidence.gather(wait, self._caches, trace=self._trace)
            if found is not None and bell is self._bell:
                self._conclude(growth, usage, found)
        except Exception as error:
            with suppress(Exception):  # raised again under test, where there is nobody to catch it
                self._guard().handle(error)
            if bell is self._bell:
                self._say(growth, usage, None)
        finally:
            if bell is self._bell:
                self._busy = False

    def _conclude(self, growth: Growth, usage: Usage, found: Evidence) -> None:
        full = max((cache.full for cache in found.caches if cache.full < growth.left), default=0.0)
        if full and not self._waited:
            self._waited = True
            self._quiet = self._clock() + min(1.2 * full, growth.left / 2)
        else:
            self._say(growth, usage, found)

    def _say(self, growth: Growth, usage: Usage, found: Evidence | None) -> None:
        self._quiet, self._pause = self._clock() + self._pause, 2 * self._pause
        numbers = {
            "perf.memory.leak.rate": growth.rate,
            "perf.memory.leak.duration": growth.lasted,
            "perf.memory.leak.time_to_limit": growth.left,
            "perf.memory.leak.used": usage.used,
            "perf.memory.leak.limit": usage.limit,
        }
        self._tell({**numbers, **(found.attributes() if found else {})}, sentence(growth, usage, found))


def sentence(growth: Growth, usage: Usage, found: Evidence | None) -> str:
    """What is suspected and why, for a person."""
    from otel_perf.memory.leak_evidence import amount, duration

    course = (
        f"memory leak suspected: {amount(60 * growth.rate)}/min more for {duration(growth.lasted)}, "
        f"{amount(usage.used)} of {amount(usage.limit)} in use, full in {duration(growth.left)}"
    )
    return f"{course}; {found.words() if found else 'what grows could not be looked into'}"


def _tracing() -> Any:
    """The tracing of allocations, if it was ever needed."""
    return getattr(sys.modules.get("otel_perf.memory.leak_looks"), "tracing", None)
