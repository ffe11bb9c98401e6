"""A priority queue that stays within a limit, for threads and tasks."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
import weakref
from collections import deque
from contextlib import contextmanager, suppress
from math import isnan
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from otel_perf.core.forks import on_fork
from otel_perf.memory.collections import Bounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
_PLACE: Final = itemgetter(0, 1)  # of an entry: its priority, and when it came


class BoundedPriorityQueue(Bounded, Generic[T]):
    """At most ``limit`` items, of which the smallest ``priority`` is got first, and the first put among equals.

    When it is full, ``drop_oldest`` drops the one that would be got last; ``drop_newest`` the one that is put.
    Items need no order of their own. Threads wait in ``get``, tasks in ``aget``.
    """

    def __init__(
        self,
        name: str = "",
        *,
        limit: int,
        overflow: str = "drop_oldest",
        on_drop: Callable[[T], object] | None = None,
    ) -> None:
        super().__init__(name, limit, overflow, on_drop)
        self._heap: list[tuple[float, int, T]] = []
        self._disturbed = False  # it may be no heap: the last one was just taken out of the midst
        self._number = itertools.count().__next__
        self._waiting: deque[Any] = deque()  # what wakes a thread or a task
        self._lock = threading.RLock()
        _queues.add(self)
        self._register()

    def put(self, item: T, priority: float = 0) -> None:
        """Put it in; costs O(log n), and O(n) when it is full. Raises ``TypeError`` if ``priority`` is no number."""
        if not isinstance(priority, int | float) or isnan(priority):
            raise TypeError(f"{self.name}: priority={priority!r} must be a number")
        entry = priority, self._number(), item
        dropped = []
        with self._lock:
            if self.overflow != "drop_oldest" and len(self._heap) >= self.limit:
                if self.overflow == "raise":
                    raise self._full()
                dropped.append(entry)
            else:
                heapq.heappush(self._heap, entry)
                self._shed(dropped)
        for _, _, left in dropped:
            self._drop(left)
        self._wake()

    def _shed(self, dropped: list[tuple[float, int, T]]) -> None:
        # The garbage collector and signal handlers may use the queue between any two steps, or raise.
        while len(self._heap) > self.limit:
            last = max(self._heap.copy(), key=_PLACE, default=None)
            self._disturbed = True
            with suppress(ValueError):  # somebody was quicker
                self._heap.remove(last)  # type: ignore[arg-type]
                dropped.append(last)  # type: ignore[arg-type]
            heapq.heapify(self._heap)
            self._disturbed = False

    def _wake(self) -> None:
        while self._waiting:
            try:
                wake = self._waiting.popleft()
            except IndexError:
                return
            if wake():
                return

    def get_nowait(self) -> T:
        """The first one. Raises ``IndexError`` when there is none."""
        with self._lock:
            if self._disturbed:
                heapq.heapify(self._heap)
                self._disturbed = False
            return heapq.heappop(self._heap)[2]

    def get(self, timeout: float | None = None) -> T:
        """The first one; waits for one, ``timeout`` seconds at most. Raises ``TimeoutError``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            came = threading.Event()

            def wake(came: threading.Event = came) -> bool:
                came.set()
                return True

            with self._waits(wake):
                with suppress(IndexError):
                    return self.get_nowait()
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not came.wait(left):
                    raise TimeoutError(f"{self.name} was empty for {timeout:g} s")

    async def aget(self) -> T:
        """The first one; waits for one, no longer than an ``asyncio.timeout`` around it allows."""
        loop = asyncio.get_running_loop()
        while True:
            came: asyncio.Future[None] = loop.create_future()

            def wake(came: asyncio.Future[None] = came) -> bool:
                try:
                    loop.call_soon_threadsafe(lambda: None if came.done() else came.set_result(None))
                except RuntimeError:  # the loop was closed
                    return False
                return True

            with self._waits(wake):
                with suppress(IndexError):
                    return self.get_nowait()
                await came

    @contextmanager
    def _waits(self, wake: Callable[[], bool]) -> Iterator[None]:
        """Be woken by the next item. Who goes without having waited for it wakes the next one in its place."""
        self._waiting.append(wake)
        went = True
        try:
            yield
            went = False  # it was woken, and will look again
        finally:
            try:
                self._waiting.remove(wake)
            except ValueError:
                if went:
                    self._wake()

    def clear(self) -> None:
        """Take all out; they are not counted as dropped."""
        with self._lock:
            self._heap, gone = [], self._heap
        del gone

    def __len__(self) -> int:
        return len(self._heap)


_queues: weakref.WeakSet[BoundedPriorityQueue[Any]] = weakref.WeakSet()


def _child() -> None:
    for queue in list(_queues):
        queue._lock = threading.RLock()
        queue._waiting.clear()


on_fork(child=_child)
