"""Asks the checks of :mod:`otel_perf.core.health`, in the background, and keeps what they said.

One thread sees to all of them. One that may wait has a thread of its own for each question, so that it holds up
nothing but itself; one that hangs has one thread, however long it hangs.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from math import inf
from sys import modules
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core import health
from otel_perf.core.finishing import finish
from otel_perf.core.health import DEGRADED, HEALTHY, UNHEALTHY, WORDS
from otel_perf.core.threads import allocate_lock, start_new_thread
from otel_perf.health.answers import meaning, raised
from otel_perf.health.changes import Change, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_perf.core.census import Reading
    from otel_perf.core.guard import Guard
    from otel_perf.core.health import Check

    Report = dict[str, Any]

SETTLED: Final = 1.0  # seconds of being ready, after which it has started: checks come with the app's imports
# Who imports one of these forks workers: what a check opens there, a pool's connection, they would share.
_FORKING: Final = ("gunicorn.arbiter", "celery.concurrency.prefork")
LONGEST: Final = 1.0  # seconds between looks; who reads a report knows by its age whether somebody still looks


class Question:
    """A check was asked, in a thread of its own."""

    __slots__ = ("answer", "late", "took", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.answer: tuple[int, str] | None = None
        self.took = 0.0
        self.late = False


class State:
    """What is known of a check; the runner's thread writes it."""

    __slots__ = ("at", "due", "question", "reason", "since", "status", "told", "took")

    def __init__(self, due: float) -> None:
        self.due = due
        self.status: int | None = None  # it has not answered yet
        self.reason = self.at = self.since = ""
        self.took = 0.0
        self.question: Question | None = None
        self.told = Told()

    @property
    def next(self) -> float:
        """When there is something to do."""
        if self.question is None:
            return self.due
        return inf if self.question.late else self.question.until


class Runner:
    """One thread; :meth:`start` and :meth:`end` are thread-safe.

    Who forks workers (gunicorn with ``--preload``, celery) leaves the checks of the app to them. ``tell`` gets the
    changes, ``publish`` the report after each look, both in that thread.
    """

    def __init__(
        self,
        service: str,
        critical: Iterable[str],
        tell: Callable[[Change], None],
        publish: Callable[[Report], None],
        guard: Callable[[], Guard],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.report: Report = {}
        self._service = service
        self._critical = frozenset(critical)
        self._tell = tell
        self._publish = publish
        self._guard = guard
        self._clock = clock
        self._bell: Any = None
        self._is_child = False
        # A worker that begins with us, in a hook or the app's module, has its master's modules, and forks nobody.
        self._inherited = frozenset() if _forks_here() else frozenset(name for name in _FORKING if name in modules)
        self._forget()

    def _forget(self) -> None:
        self._states: dict[Check, State] = {}
        self._asked: deque[str] = deque()
        self._ready_since: float | None = None
        self._started = self._leaves = False
        self.report = self._made(self._clock())

    def after_fork_in_child(self) -> None:
        """Begin anew, and know nothing yet."""
        self._is_child = True
        self.start()

    def start(self) -> None:
        """Begin."""
        self._forget()
        self._bell = bell = allocate_lock()
        bell.acquire()
        with suppress(RuntimeError):  # no more threads
            start_new_thread(self._loop, (bell,))

    def end(self) -> None:
        """Ask no more."""
        bell, self._bell = self._bell, None
        _ring(bell)

    def news(self, name: str) -> None:
        """Ask the check of that name at once."""
        self._asked.append(name)
        _ring(self._bell)

    def _loop(self, bell: Any) -> None:
        while bell is self._bell:
            try:
                wait = self.step()
            except Exception as error:
                wait = LONGEST
                self._failed(error)
            bell.acquire(timeout=wait)

    def step(self) -> float:
        """Ask who is due, take the answers that are there; seconds until there is more to do."""
        now = self._clock()
        asked = {self._asked.popleft() for _ in range(len(self._asked))}
        self._leaves = not self._is_child and any(name in modules for name in _FORKING if name not in self._inherited)
        wanted = [check for check in tuple(health.checks) if check.quick or not self._leaves]
        self._states = {check: self._states.get(check) or State(now) for check in wanted}
        for check, state in self._states.items():
            if check.name in asked:
                state.due = now
            try:
                self._look(check, state, now)
            except Exception as error:  # the others are asked all the same
                self._failed(error)
        try:
            self.report = self._made(now)
        except Exception as error:  # what is known is told on; by its age it would be taken for dead
            self.report = {**self.report, "made": now}
            self._failed(error)
        self._publish(self.report)
        following = min((state.next for state in self._states.values()), default=inf)
        return min(LONGEST, max(0.0, following - self._clock()))

    def _failed(self, error: Exception) -> None:
        """Stepping down would close the port, and have the app started anew because of us."""
        self._guard().handle(error, steps_down=False)

    def _look(self, check: Check, state: State, now: float) -> None:
        question = state.question
        if question is not None and question.answer is not None:
            state.question, state.due = None, now + check.every
            if question.late:  # it hung: what it says now is of long ago
                state.due = now
            else:
                self._settle(check, state, question.answer, question.took)
        elif question is not None and now >= question.until and not question.late:
            question.late = True
            self._settle(check, state, (UNHEALTHY, f"no answer within {check.timeout:g} s"), check.timeout)
        if state.question is None and now >= state.due:
            self._ask(check, state, now)
        before = None if state.status is None else state.told.look(state.status, now)
        if before is not None and state.status is not None:
            critical = self._is_critical(check)
            self._tell(Change(check.name, state.status, before, state.reason, critical, state.told.flapping))

    def _ask(self, check: Check, state: State, now: float) -> None:
        if check.quick:
            began = time.perf_counter()
            answer = answered(check)
            state.due = now + check.every
            self._settle(check, state, answer, time.perf_counter() - began)
            return
        question = Question(now + check.timeout)
        try:
            start_new_thread(_ask_in_thread, (check, question, self._bell))
            state.question = question
        except RuntimeError:  # no more threads
            state.due = now + check.every
            self._settle(check, state, (DEGRADED, "it could not be asked: no thread is to be had"), 0.0)

    def _settle(self, check: Check, state: State, answer: tuple[int, str], took: float) -> None:
        state.at, state.took = _now(), took
        if answer[0] != state.status:
            state.since = state.at
        state.status, state.reason = answer

    # --- what is known ------------------------------------------------------------------------------

    def _is_critical(self, check: Check) -> bool:
        return check.critical or check.name in self._critical

    def _made(self, now: float) -> Report:
        """How the process is, as plain data. About 5 µs, and 3 µs a check."""
        states = self._states.items()
        gates = [state.status for check, state in states if self._is_critical(check)]
        live = not any(check.live and state.status == UNHEALTHY for check, state in states)
        ready = live and bool(states) and not any(status in {None, UNHEALTHY} for status in gates)
        self._ready_since = (now if self._ready_since is None else self._ready_since) if ready else None
        self._started |= self._ready_since is not None and now - self._ready_since >= SETTLED
        worst = max((DEGRADED if state.status is None else state.status for _, state in states), default=DEGRADED)
        status = UNHEALTHY if UNHEALTHY in gates or not live else min(worst, DEGRADED)
        return {
            "status": WORDS[status],
            "live": live,
            "ready": ready,
            "started": self._started,
            "leaves": self._leaves,  # the app's checks to workers
            "service": self._service,
            "pid": os.getpid(),
            "made": now,
            "checks": [
                {
                    "name": check.name,
                    "status": "unknown" if state.status is None else WORDS[state.status],
                    "reason": state.reason,
                    "critical": self._is_critical(check),
                    "live": check.live,
                    "time": state.at,
                    "since": state.since,
                    "took": state.took,
                }
                for check, state in states
            ],
        }

    def readings(self) -> Iterable[Reading]:
        """The status of each check that has answered; of those of one name the worst."""
        found: dict[str, int] = {}
        for check in self.report["checks"]:
            if check["status"] != "unknown":
                name = check["name"]
                found[name] = max(found.get(name, HEALTHY), WORDS.index(check["status"]))
        return [(status, {"perf.health.check": name}) for name, status in found.items()]


def _forks_here() -> bool:
    """Whether this process is gunicorn's master (``--preload`` runs the app's module in it), or celery's."""
    billiard = modules.get("billiard.process")
    if billiard is not None and _FORKING[1] in modules and type(billiard.current_process()).__name__ == "_MainProcess":
        return True
    frame, names = sys._current_frames().get(threading.main_thread().ident or 0), set()
    while frame is not None:
        if frame.f_code.co_filename.endswith("gunicorn/arbiter.py"):
            names.add(frame.f_code.co_name)
        frame = frame.f_back
    return bool(names) and "spawn_worker" not in names  # beneath that everything is the worker's


def answered(check: Check) -> tuple[int, str]:
    """What the check says. Never raises."""
    try:
        if inspect.iscoroutinefunction(check.call):
            return meaning(finish(check.call, check.timeout))
        answer = check.call()
        return meaning(finish(answer, check.timeout) if inspect.isawaitable(answer) else answer)
    except BaseException as error:  # a check does not end the program
        return raised(error)


def _ask_in_thread(check: Check, question: Question, bell: Any) -> None:
    from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

    attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # a question every ten seconds is no trace
    began = time.perf_counter()
    answer = answered(check)
    question.took = time.perf_counter() - began
    question.answer = answer
    _ring(bell)


def _ring(bell: Any) -> None:
    if bell is not None:
        with suppress(RuntimeError):  # it is awake
            bell.release()


def _now() -> str:
    """The time by ISO 8601; ``datetime`` would take a millisecond of every start."""
    seconds = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(seconds * 1000) % 1000:03}Z"
