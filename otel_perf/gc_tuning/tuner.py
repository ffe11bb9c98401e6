"""Shortens the pauses of the garbage collector, once one has been long.

A full collection looks at every object there is; most of a service's live as long as it does. ``gc.freeze`` puts those
that survived one out of its sight, in microseconds, right after it. What is frozen and becomes garbage still goes by
its reference count, but not if it is in a cycle. So a collection is the whole one again when the app asks for it by
``gc.collect()``, when there are half as many objects again, and in an hourly sweep when there is no active work. An app
that freezes by itself is left alone.
"""

from __future__ import annotations

import gc
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core import activity, collector
from otel_perf.core.events import Event
from otel_perf.core.records import record
from otel_perf.core.threads import get_ident, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from otel_perf.core.guard import Guard

OLDEST: Final = 2
IMMORTAL: Final = 1_000  # objects at most that CPython freezes by itself since 3.12 (375); an app has thousands
GROWTH: Final = 0.5  # of what there was after a whole collection may have come since
SHARED: Final = 2.0  # the same in a child that shares what its parent left
COUNT: Final = 0.5  # of a whole collection's time goes into others, before it is counted what there is
TELL: Final = 3600.0  # seconds in which a freeze is told once
SHORT: Final = 0.2  # of the pause that is too long: one of so much is, once there has been a long one
EVERY: Final = 3600.0  # seconds between sweeps of what is frozen
WINDOW: Final = 10.0  # seconds, of which the share of collecting is measured
BUSY: Final = 0.02  # share of the time that goes into collecting, above which it is done more rarely
MOST: Final = 50_000  # allocations between collections of the youngest
YOUNG: Final = 0.1  # of the pause that is too long: a collection of the young that takes longer is to be smaller
SETTLED: Final = 1.0  # seconds that a forked child lives before it says what was done in it

TUNED: Final = Event(
    "perf.gc.tuned", "The garbage collector was tuned: objects frozen or thresholds changed, with before and after"
)

Thresholds = tuple[int, int, int]


@record
class Act:
    """What was done; what a full collection takes (s), or the thresholds, before and after, where known."""

    action: str  # freeze, freeze_child or threshold
    pause: tuple[float | None, float | None] = (None, None)
    threshold: tuple[Thresholds | None, Thresholds | None] = (None, None)

    def sentence(self) -> str:
        """For a person."""
        if self.action == "threshold":
            often, rarely = (thresholds[0] if thresholds else 0 for thresholds in self.threshold)
            return f"garbage collection: the youngest are collected every {rarely:,} allocations, not every {often:,}"
        what = "what survived a full collection is frozen"
        if self.action == "freeze_child":
            what = "what the parent process left is frozen, so that its memory stays shared"
        before, after = (None if seconds is None else f"{seconds * 1e3:.2f} ms" for seconds in self.pause)
        took = f"; one takes {after}" if after else ""
        return f"garbage collection: {what}{took}{f', not {before}' if took and before else ''}"


class Tuner:
    """Called at each collection, in whatever thread it runs, one at a time. Takes no lock and allocates little."""

    def __init__(
        self,
        limit: float,
        tell: Callable[[Act], None],
        guard: Callable[[], Guard],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.frozen = False  # by us
        self.tunes = False  # there has been a long pause
        self._limit = limit
        self._tell = tell
        self._guard = guard
        self._clock = clock
        self._left_alone = False  # the app freezes by itself
        self._inherited = False  # from a parent, with which the memory is shared
        self._whole = self._added = 0.0  # seconds of the last whole collection, and of those since it was counted
        self._count = 0  # blocks of memory that were in use after the last whole collection
        self._asking: set[int] = set()  # threads that are in the app's gc.collect()
        self._quiet = 0.0  # until then no freeze is told
        self._last: float | None = None  # seconds that the last full collection took
        self._freezing = False
        self._probing: set[int] = set()  # threads that collect to see what it takes
        self._original = self._set = gc.get_threshold()
        self._begin_window()

    def _begin_window(self) -> None:
        self._window = self._clock()
        self._collecting = self._longest = 0.0

    # --- collections ---------------------------------------------------------------------------------

    def install(self, undo: ExitStack) -> None:
        """Notice when the app freezes and collects; leave the collector as it was found at the undo."""
        undo.callback(self.restore)
        original: Any = getattr(gc, "freeze", None)
        if original is None:
            return
        original_collect = gc.collect

        def freeze() -> None:
            """As :func:`gc.freeze`; what is frozen is the app's from now on."""
            if not self._freezing:
                self._left_alone, self.frozen = True, False
            original()

        def collect(generation: int = OLDEST) -> int:
            """As :func:`gc.collect`, also of what we have frozen."""
            thread = get_ident()
            if thread in self._asking:  # a finalizer of the collection that runs
                return original_collect(generation)
            try:
                self._asking.add(thread)
                return original_collect(generation)
            finally:
                self._asking.discard(thread)

        gc.freeze, gc.collect = freeze, collect
        collector.between.append(collect.__code__)

        def put_back() -> None:
            collector.between.remove(collect.__code__)
            if gc.freeze is freeze:
                gc.freeze = original
            if gc.collect is collect:
                gc.collect = original_collect

        undo.callback(put_back)

    def begins(self) -> None:
        """A full collection: a whole one, if the app asked for it or much was frozen since the last."""
        if not self.frozen:
            return
        thread = get_ident()
        if thread in self._probing:
            return
        # A whole collection writes to all that a child shares with its parent: not if only we want it, and rarely.
        wanted = (thread in self._asking or asked()) and not (self._inherited and thread in collector.collecting)
        if wanted or (self._added > COUNT * self._whole and self._has_grown()):
            gc.unfreeze()
            self.frozen = self._inherited = False

    def _has_grown(self) -> bool:
        """Whether much has come since the last whole collection, frozen or not.

        By the blocks that are in use: with five million objects that takes 0.4 ms, to count what is frozen takes 50.
        """
        self._added = 0.0
        return sys.getallocatedblocks() > (1 + (SHARED if self._inherited else GROWTH)) * self._count

    def ended(self, generation: int, seconds: float) -> None:
        """It took so long (s). Raises only what a signal handler raises meanwhile."""
        try:
            self._collecting += seconds
            if generation == 0:
                self._longest = max(self._longest, seconds)
            if generation >= OLDEST and get_ident() not in self._probing:
                self._full(seconds)
            elif self.tunes and self._clock() - self._window >= WINDOW:
                self._look_at_thresholds()
        except Exception as error:
            if collector.is_handlers(self.ended, error):
                raise
            self._guard().handle(error)

    def _full(self, seconds: float) -> None:
        self._last = seconds
        if self.frozen:
            self._added += seconds
        # Who turns the collector off and asks for collections knows what they take.
        if (
            not gc.isenabled()
            or seconds < (self._limit * SHORT if self.tunes else self._limit)
            or self._is_left_alone()
        ):
            return
        if not self.tunes:
            self.tunes = True
            self._begin_window()
        collector.look()
        if not self.frozen:  # it was a whole one
            self._whole, self._added, self._count = seconds, 0.0, sys.getallocatedblocks()
        self._freeze()
        now = self._clock()
        if now >= self._quiet:
            self._quiet = now + TELL
            self._start(lambda: self._say_frozen("freeze", seconds))

    def _freeze(self) -> None:
        self._freezing = True
        try:
            gc.freeze()
        finally:
            self._freezing = False
        self.frozen = True

    def _is_left_alone(self) -> bool:
        """Whether the app has frozen objects by itself: what both froze could not be thawed apart."""
        if not self.frozen and not self._left_alone:
            self._left_alone = gc.get_freeze_count() > IMMORTAL  # walks over them, once
        return self._left_alone

    def _look_at_thresholds(self) -> None:
        """Collect the young more rarely if it takes much of the time, and more often if one takes long."""
        share, longest = self._collecting / (self._clock() - self._window), self._longest
        self._begin_window()
        youngest, *others = before = gc.get_threshold()
        if before != self._set or not youngest:  # the app does it itself
            return
        wanted = youngest
        if longest > self._limit * YOUNG:
            wanted = max(youngest // 2, min(self._original[0], youngest))
        elif share > BUSY:
            wanted = max(min(2 * youngest, MOST), youngest)
        if wanted != youngest:
            gc.set_threshold(wanted, *others)
            self._set = gc.get_threshold()
            act = Act("threshold", threshold=(before, self._set))
            self._start(lambda: self._tell(act))

    # --- telling: not within a collection, which may run while the app holds any lock -----------------

    def _start(self, what: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # no more threads
            start_new_thread(self._run, (what,))

    def _run(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception as error:
            with suppress(Exception):  # raised again under test, where there is nobody to catch it
                self._guard().handle(error)

    def _say_frozen(self, action: str, before: float | None) -> None:
        if not gc.isenabled():  # meanwhile, by the app
            return
        self._probing.add(get_ident())
        try:
            began = time.thread_time()
            gc.collect()  # of what came after the freeze: next to nothing
            after = time.thread_time() - began
        finally:
            self._probing.discard(get_ident())
        self._tell(Act(action, pause=(before, after)))

    # --- forks, sweeps, and the end -----------------------------------------------------------------

    def before_fork(self) -> None:
        """What has to see the objects has to do so before they are frozen: a look in the child would copy them."""
        if gc.isenabled() and not self._is_left_alone():
            collector.look()

    def after_fork_in_child(self) -> None:
        """Freeze what the parent left: a collection would write to all of it, and the kernel copy each page."""
        self._probing, self._asking = set(), set()
        self._begin_window()
        if not gc.isenabled() or self._left_alone:
            return
        self._freeze()
        self._inherited = True
        self._whole, self._added, self._count = max(self._last or 0.0, self._limit), 0.0, sys.getallocatedblocks()
        before = self._last

        def say() -> None:
            time.sleep(SETTLED)
            self._say_frozen("freeze_child", before)

        self._start(say)

    def sweep(self) -> int:
        """Collect what is frozen and garbage, unless there is active work; how many objects it was."""
        if not self.frozen or self._inherited or activity.is_active() or not gc.isenabled():
            return 0
        return gc.collect()

    def restore(self) -> None:
        """Leave the collector as it was found."""
        if self.frozen:
            self.frozen = False
            gc.unfreeze()
        if self._set != self._original and gc.get_threshold() == self._set:
            gc.set_threshold(*self._original)


def asked() -> bool:
    """Whether the full collection that begins was asked for: one that comes by itself has reached the threshold.

    Not the threshold of the youngest: other threads may have freed some since.
    """
    return not (gc.isenabled() and gc.get_count()[OLDEST] > gc.get_threshold()[OLDEST])
