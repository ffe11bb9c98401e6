"""Runs the tasks of :mod:`otel_perf.core.cleaning` in one thread, in slices that nobody feels.

A thread that computes takes the interpreter from the others for up to the switch interval (5 ms), each time that it
wakes up. So a slice is short, 0.1 ms, and is followed by a rest of ninety-nine times as long; the rests are jittered,
so that they do not fall into step with the app.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import suppress
from types import coroutine
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core import activity, cleaning
from otel_perf.core.chance import chance
from otel_perf.core.records import entity, record
from otel_perf.core.threads import allocate_lock, start_new_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from otel_perf.core.cleaning import Task

SLICE: Final = 0.0001  # seconds
DUTY: Final = 0.01  # share of the time
JITTER: Final = 0.2  # of a rest and of a period
IDLE: Final = 0.05  # seconds between looks for a moment without active work
TRIES: Final = 5  # failures in a row, after which a task is parked
LONGEST: Final = 3600.0  # seconds that are waited after a failure


@entity
class State:
    """How a task fares."""

    due: float
    failures: int = 0
    parked: bool = False
    runs: int = 0


@record
class Run:
    """One run, as it is told."""

    task: Task
    seconds: float  # from beginning to end
    busy: float  # in slices
    slices: int
    longest: float
    amount: float  # of what it yielded
    failures: int  # in a row
    outcome: str  # done, failed, parked or late
    error: BaseException | None = None


class TooLateError(Exception):
    """A run took longer than its deadline."""


class Scheduler:
    """One thread; :meth:`start` and :meth:`end` are thread-safe, and a child of ``fork`` has to start its own."""

    def __init__(self, tell: Callable[[Run], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._clock = clock
        self._states: dict[Task, State] = {}
        self._bell: Any = None
        self._ended = True

    def start(self) -> None:
        """Begin, or begin anew in a child; the thread is there as long as there are tasks."""
        self._ended = False
        self._bell = None
        if cleaning.tasks:
            self._begin()

    def _begin(self) -> None:
        self._bell = bell = allocate_lock()
        bell.acquire()
        with suppress(RuntimeError):  # no more threads
            start_new_thread(self._loop, (bell,))

    def end(self) -> None:
        """Stop; a run that is under way ends at its next step."""
        bell, self._bell, self._ended = self._bell, None, True
        if bell is not None:
            with suppress(RuntimeError):  # it is awake
                bell.release()

    def wake(self) -> None:
        """There is a new task."""
        bell = self._bell
        if bell is not None:
            with suppress(RuntimeError):  # it is awake
                bell.release()
        elif not self._ended:
            self._begin()

    def troubles(self) -> dict[str, bool]:
        """The tasks that fail, by name, and whether they are parked."""
        states = self._states.copy()
        return {
            task.name: state.parked for task in tuple(cleaning.tasks) if (state := states.get(task)) and state.failures
        }

    def _loop(self, bell: Any) -> None:
        while bell is self._bell:
            wait = self.step()
            bell.acquire(timeout=min(wait, 60.0))

    def step(self) -> float:
        """Run the task that is due, if one is; seconds until the next is."""
        now = self._clock()
        for task in tuple(cleaning.tasks):
            self._states.setdefault(task, State(now + _jittered(task.every)))
        for task in set(self._states) - set(cleaning.tasks):
            del self._states[task]
        wait = 60.0
        waiting = [(state.due, task) for task, state in self._states.items() if not state.parked]
        for due, task in sorted(waiting, key=lambda pair: pair[0]):
            if due > now:
                return min(wait, due - now)
            if task.exclusive and activity.is_active() and now < due + task.every:
                wait = IDLE
                continue
            self._run(task, self._states[task])
            return 0.0
        return wait

    def _run(self, task: Task, state: State) -> None:
        began, bell = self._clock(), self._bell  # after an end and a start, another thread has another one
        slices = _Slices(task, self._clock, lambda: bell is None or self._bell is not bell)
        error: BaseException | None = None
        try:
            slices.run()
        except Exception as raised:
            error = raised
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as raised:  # a task does not end the program
            error = raised
        state.runs += 1
        outcome = "done"
        if error is None:
            state.failures = 0
            state.due = self._clock() + _jittered(task.every)
        else:
            state.failures += 1
            state.parked = state.failures >= TRIES
            state.due = self._clock() + _jittered(min(task.every * 2**state.failures, max(task.every, LONGEST)))
            outcome = "parked" if state.parked else "late" if isinstance(error, TooLateError) else "failed"
        took = self._clock() - began
        numbers = slices.busy, slices.number, slices.longest, slices.amount
        self._tell(Run(task, took, *numbers, state.failures, outcome, error))


class _Slices:
    """One run of a task, slice by slice."""

    def __init__(self, task: Task, clock: Callable[[], float], ended: Callable[[], bool]) -> None:
        self.busy = self.longest = self.amount = 0.0
        self.number = 0
        self._task = task
        self._clock = clock
        self._ended = ended
        self._until = clock() + task.deadline

    def run(self) -> None:
        run = self._task.run
        if inspect.iscoroutinefunction(run):
            asyncio.run(self._awaited(run()))
            return
        began = time.perf_counter()
        found: Any = run()
        if not inspect.isgenerator(found):
            self._count(time.perf_counter() - began)
            self._add(found)
            return
        generator: Any = found
        try:
            self._advance(generator)
        finally:
            generator.close()

    def _advance(self, generator: Generator[Any, None, Any]) -> None:
        perf_counter = time.perf_counter
        while not self._ended():
            began = perf_counter()
            until = began + SLICE
            try:
                while perf_counter() < until:
                    self._add(next(generator))
            except StopIteration:
                self._count(perf_counter() - began)
                return
            spent = perf_counter() - began
            self._count(spent)
            time.sleep(_jittered(spent * (1 / DUTY - 1)))
            self._check()

    async def _awaited(self, task: Any) -> None:
        remaining = self._until - self._clock()
        try:
            async with asyncio.timeout(remaining):
                await self._driven(task)
        except TimeoutError as error:
            raise self._too_late() from error

    @coroutine
    def _driven(self, task: Any) -> Generator[Any, Any, None]:
        """Step a coroutine; where it only lets others go on, rest when a slice is full."""
        spent, steps = 0.0, task.__await__()
        answer, error = None, None
        while True:
            began = time.perf_counter()
            try:
                waited = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as ended:
                self._count(spent + time.perf_counter() - began)
                self._add(ended.value)
                return
            spent += time.perf_counter() - began
            answer, error = None, None
            try:
                answer = yield waited
                if spent >= SLICE:
                    self._count(spent)
                    rest, spent = _jittered(spent * (1 / DUTY - 1)), 0.0
                    yield from asyncio.sleep(rest).__await__()
            except BaseException as raised:  # the deadline, for one: it is the task's to end by it
                error = raised

    def _count(self, seconds: float) -> None:
        self.number += 1
        self.busy += seconds
        self.longest = max(self.longest, seconds)

    def _add(self, amount: Any) -> None:
        if isinstance(amount, int | float):
            self.amount += amount

    def _check(self) -> None:
        if self._clock() > self._until:
            raise self._too_late()

    def _too_late(self) -> TooLateError:
        return TooLateError(f"it took longer than its deadline of {self._task.deadline:g} s")


def _jittered(seconds: float) -> float:
    return seconds * chance.uniform(1 - JITTER, 1 + JITTER)
