"""Gives memory back before the kernel takes it: caches first, then what the app offers, then Python's own.

A thread reads what is used against the limit, and sets a level: moderate from 70 %, high from 80 %, critical from 90 %
of the limit, each left 10 points lower; where tasks wait for memory (PSI), it is one higher. At each level it does what
that level allows, in the order of what it costs the app, until enough is free. What does not help is not repeated soon.
It never ends anything but entries of caches.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from otel_perf.core import collector
from otel_perf.core.census import Metric
from otel_perf.core.events import Event
from otel_perf.core.records import record
from otel_perf.core.threads import allocate_lock, start_new_thread
from otel_perf.core.weak import alive_in
from otel_perf.memory import limits
from otel_perf.memory.gauges import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_perf.core.guard import Guard

LEVELS: Final = ("normal", "moderate", "high", "critical")
FROM: Final = (0.0, 0.7, 0.8, 0.9)  # of the limit
LEAVE: Final = 0.1  # of the limit, lower
STALLED: Final = (0.05, 0.15, 0.4)  # of the last 10 s, from which on a level is one higher
QUIET: Final = 1.0  # seconds between looks, far from the limit,
CLOSE: Final = 0.05  # and near it
NEAR: Final = 0.5  # of the limit
HELPED: Final = 2**20  # bytes: what gave less back did not help
LONGEST: Final = 60.0  # seconds that are waited after what did not help
COLLECTING: Final = 0.05  # share of the time that collections may take
TRIM_AFTER: Final = 64 * 2**20  # bytes that were freed
TRIM_EVERY: Final = 30.0  # seconds
FLAT: Final = 0.25  # share of what caches gave back by which resident memory has to fall
F = TypeVar("F", bound="Callable[[str, int], int | None]")

LIMIT: Final = Metric("perf.memory.limit", "By", "gauge", "Memory that the process may use")
UTILIZATION: Final = Metric("perf.memory.utilization", "1", "gauge", "Memory in use, of the limit")
LEVEL: Final = Metric("perf.memory.level", "1", "gauge", "0 normal, 1 moderate, 2 high, 3 critical")
RECLAIMED: Final = Metric("perf.memory.reclaimed", "By", "counter", "Bytes given back under pressure, by action")


@record
class Callback:
    """What the app gives back by itself. Its errors are the app's, and end nothing but its own turn."""

    function: Callable[[str, int], int | None]
    priority: int
    name: str

    def freed(self, level: str, wanted: int) -> int:
        """Bytes, by its own account; 0 if it fails, which is logged."""
        try:
            return int(self.function(level, wanted) or 0)
        except Exception:
            _log.warning("otel-perf: %s, called because memory is short, failed", self.name, exc_info=True)
            return 0


_callbacks: list[Callback] = []
_log = logging.getLogger("otel_perf")


def on_memory_pressure(*, priority: int = 0) -> Callable[[F], F]:
    """Have a function called when memory is short: ``shrink(level, bytes_to_free)`` returns how many bytes it freed.

    ``level`` is ``"high"`` or ``"critical"``. Those of the lowest priority are asked first, and no more when enough is
    free. It is called in a thread of ours, at most once in a second; what it raises is logged. Raises ``TypeError`` for
    a ``priority`` that is no whole number.
    """
    if not isinstance(priority, int):
        raise TypeError(f"on_memory_pressure: priority={priority!r} must be a whole number")

    def register(function: F) -> F:
        name = f"{function.__module__}.{function.__qualname__}"
        _callbacks.append(Callback(function, priority, name))
        _callbacks.sort(key=lambda callback: callback.priority)
        return function

    return register


@record
class Usage:
    """What is used of what (bytes), and which share of the time tasks waited for memory."""

    used: int
    limit: int
    stalled: float = 0.0

    @property
    def share(self) -> float:
        """Of the limit."""
        return self.used / self.limit


class Monitor:
    """The level, and what is done at it. One thread calls :meth:`look`; what it reads may be asked for by any."""

    def __init__(
        self,
        read: Callable[[], Usage],
        tell: Callable[[dict[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.level = 0
        self.reclaimed = {action: 0 for action, _, _ in self._steps()}  # bytes
        self._read = read
        self._tell = tell
        self._clock = clock
        self._resume = 0.0  # when the next actions may be taken
        self._pause = 1.0
        self._collect_after = self._trim_after = 0.0
        self._freed = 0  # since the last trim

    def look(self) -> float:
        """Read, act; seconds until the next look."""
        usage = self._read()
        level = self._level_of(usage)
        if level != self.level:
            before, self.level = self.level, level
            self._tell({"action": "level", "level": LEVELS[level], "before": LEVELS[before], **_numbers(usage)})
            self._resume, self._pause = 0.0, 1.0
            if level == 0:
                self.release()
        if level and self._clock() >= self._resume:
            self._act(usage)
        return CLOSE if usage.share >= NEAR else QUIET

    def _level_of(self, usage: Usage) -> int:
        level = max(number for number in range(4) if usage.share >= FROM[number])
        if level < self.level:  # left later than it was entered
            level = next(number for number in range(self.level, -1, -1) if usage.share >= FROM[number] - LEAVE)
        if level < 3 and usage.stalled >= STALLED[level]:
            level += 1
        return level

    def _act(self, usage: Usage) -> None:
        """Take the steps of the level, until what is used would be under the lowest level again."""
        goal = int((FROM[1] - LEAVE) * usage.limit)
        helped = 0
        for action, least, act in self._steps():
            if self.level < least:
                continue
            wanted = usage.used - goal
            if wanted <= 0:
                break
            resident, began = memory()[0], self._clock()
            more = act(wanted)
            if more is None:
                continue
            usage, cost = self._read(), self._clock() - began
            fallen = max(0, resident - memory()[0])
            freed = max(int(more.pop("freed", 0)), 0)
            self.reclaimed[action] += max(freed, fallen)
            self._freed += freed
            helped += max(freed, fallen)
            told = {
                "action": action,
                "level": LEVELS[self.level],
                "freed": freed,
                "resident_fell": fallen,
                "cost": cost,
            }
            self._tell({**told, **_numbers(usage), **more})
        if helped < HELPED:
            self._resume, self._pause = self._clock() + self._pause, min(2 * self._pause, LONGEST)
        else:
            self._resume, self._pause = self._clock() + 1.0, 1.0

    # --- the steps, each with what it freed; None where there was nothing to do ----------------------

    def _steps(self) -> tuple[tuple[str, int, Callable[[int], dict[str, Any] | None]], ...]:
        """Name, the level from which on it is taken, and the step, in their order."""
        return (
            ("expire", 1, self._expire),
            ("shrink_caches", 2, self._halve),
            ("shrink_caches_to_floor", 3, self._floor),
            ("callbacks", 2, self._call),
            ("collect", 3, self._collect),
            ("trim", 2, self._trim),
        )

    def _expire(self, _wanted: int) -> dict[str, Any] | None:
        freed = entries = 0
        for store in _caches():
            before = store.expirations
            freed += sum(store.expire())
            entries += store.expirations - before
        return {"freed": freed, "entries": entries} if entries else None

    def _halve(self, wanted: int) -> dict[str, Any] | None:
        return self._shrink(wanted, lambda store: len(store.entries) // 2)

    def _floor(self, wanted: int) -> dict[str, Any] | None:
        return self._shrink(wanted, lambda _store: 0)

    def _shrink(self, wanted: int, size: Callable[[Any], int]) -> dict[str, Any] | None:
        freed, names = 0, []
        resident = memory()[0]
        for store in _caches():
            target = max(size(store), store.floor)
            if len(store.entries) <= target:
                continue
            store.squeezed = max(target, 1)
            freed += store.shrink(target)
            names.append(store.name)
            if max(freed, resident - memory()[0]) >= wanted:
                break
        return {"freed": freed, "caches": tuple(dict.fromkeys(names))} if names else None

    def _call(self, wanted: int) -> dict[str, Any] | None:
        freed, names = 0, []
        for callback in tuple(_callbacks):
            if freed >= wanted:
                break
            names.append(callback.name)
            freed += callback.freed(LEVELS[self.level], wanted - freed)
        return {"freed": freed, "callbacks": tuple(names)} if names else None

    def _collect(self, _wanted: int) -> dict[str, Any] | None:
        began = self._clock()
        if began < self._collect_after:
            return None
        collected = collector.collect()
        took = self._clock() - began
        self._collect_after = began + took / COLLECTING
        return {"objects": collected}

    def _trim(self, _wanted: int) -> dict[str, Any] | None:
        now = self._clock()
        if self._freed < TRIM_AFTER or now < self._trim_after:
            return None
        self._trim_after, freed, self._freed = now + TRIM_EVERY, self._freed, 0
        trim = _malloc_trim()
        if trim is None:
            return None
        resident = memory()[0]
        trim(0)
        more: dict[str, Any] = {}
        if resident - memory()[0] < FLAT * freed and self.level:
            more["fragmentation_suspected"] = True
        return more

    def release(self) -> None:
        """Caches may grow again."""
        for store in _caches():
            store.squeezed = None

    # --- metrics ------------------------------------------------------------------------------------

    def readings(self) -> Iterable[tuple[float, dict[str, str | int]]]:
        """Bytes given back, by action."""
        return [(freed, {"action": action}) for action, freed in list(self.reclaimed.items())]


class Watcher:
    """The thread that looks; daemonic, ended by :meth:`end`, and started again in a forked child.

    ``also`` is called after each look, and has to return at once.
    """

    def __init__(self, monitor: Monitor, guard: Callable[[], Guard], also: Callable[[], None] | None = None) -> None:
        self._monitor = monitor
        self._guard = guard
        self._also = also
        self.start()

    def start(self) -> None:
        """Also in a child, where there is no thread yet."""
        self._bell: Any = allocate_lock()
        self._bell.acquire()
        with suppress(RuntimeError):  # no more threads
            start_new_thread(self._run, (self._bell,))

    def end(self) -> None:
        """Stop; the thread notices at once."""
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.release()

    def _run(self, bell: Any) -> None:
        wait = QUIET
        while not bell.acquire(timeout=wait):
            try:
                wait = self._monitor.look()
                if self._also is not None:
                    self._also()
            except Exception as error:
                wait = QUIET
                self._guard().handle(error)


def reader(setting: int | None) -> Callable[[], Usage] | None:
    """Reads what is used of the limit; ``None`` where no limit is known."""
    limit = limits.find(setting)
    if limit is None:
        return None
    file = limits.pressure_file()

    def read() -> Usage:
        stalled = 0.0
        if file is not None:
            with suppress(OSError, ValueError):
                stalled = limits.stalled(file)
        return Usage(limits.used(limit), limit.size, stalled)

    return read


def _caches() -> list[Any]:
    """Those that can be had again, of the lowest priority first; of equals, the largest."""
    caches = [store for store in alive_in("otel_perf.memory.limited", "stores") if store.is_cache]
    return sorted(caches, key=lambda store: (store.priority, -store.weight, -len(store.entries)))


def _numbers(usage: Usage) -> dict[str, Any]:
    return {"used": usage.used, "limit": usage.limit, "stalled": usage.stalled}


def _malloc_trim() -> Any:
    """glibc's; ``None`` with another C library, or with an allocator in its place, which gives back by itself."""
    import ctypes  # 5 ms, for few

    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


def sentence(what: dict[str, Any]) -> str:
    """What was done, for a person."""
    state = f"{size(what['used'])} of {size(what['limit'])} in use"
    if what["action"] == "level":
        return f"memory pressure is {what['level']}, after {what['before']}: {state}"
    freed = max(what["freed"], what["resident_fell"])
    whom = ", ".join(what.get("caches", what.get("callbacks", ())))
    done = f"{what['action'].replace('_', ' ')}{f' ({whom})' if whom else ''}"
    advice = "; memory is fragmented: recycle the process when it suits" if "fragmentation_suspected" in what else ""
    return f"memory pressure: {done} gave {size(freed)} back in {what['cost'] * 1e3:.0f} ms; {state}{advice}"


def size(number: float) -> str:
    """Bytes, for a person."""
    return f"{number / 2**20:,.0f} MiB"


PRESSURE: Final = Event(
    "perf.memory.pressure", "The level of memory pressure changed, or memory was given back: what was done, freed, cost"
)
