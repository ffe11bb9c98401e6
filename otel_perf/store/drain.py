"""The thread that sends what is stored, in order, and takes it out of the store once it was taken.

One process at a time sends what waits for one destination (:mod:`~otel_perf.store.lease`). The app never
waits for it: a receiver that hangs holds up this thread alone, and at the exit it gets ``exit_budget`` seconds.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, TypeVar

from otel_perf.core.chance import chance
from otel_perf.core.home import STORE_FILE
from otel_perf.core.threads import allocate_lock, get_ident, start_new_thread
from otel_perf.store.adoption import take_over
from otel_perf.store.database import is_busy, is_corrupt
from otel_perf.store.lease import Lease
from otel_perf.store.outbox import Outbox
from otel_perf.store.pace import SHORTEST, Pace
from otel_perf.store.route import Route
from otel_perf.store.sender import Answer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from otel_perf.store.committer import Owner
    from otel_perf.store.database import Batch
    from otel_perf.store.destination import Destination
    from otel_perf.store.writer import Writer

START: Final = 1.0  # seconds after which a process looks for what to send: most short programs have ended
IDLE: Final = 1.0  # seconds between looks for what other processes stored
LEASE_RETRY: Final = 2.0  # seconds between tries to become the one that sends, ±50 %
COUNT_EVERY: Final = 5.0  # seconds between counts of what waits
ADOPT_EVERY: Final = 30.0  # seconds between looks for what nobody sends any more
SPEAK_AGAIN: Final = 600.0  # seconds after which the same trouble is told again
T = TypeVar("T")

_log = logging.getLogger("otel_perf")


class Drain:
    """Sends for one process. Every method may be called from any thread."""

    def __init__(
        self,
        writer: Writer,
        folder: Callable[[], Path],
        destinations: Callable[[], Sequence[Destination]],
        *,
        owner: Owner,
        keep: bool,
        fsync: bool,
        problem: Callable[[str], None],
        find: Callable[[], bool] | None = None,
    ) -> None:
        self.delivered: Counter[str] = Counter()  # items by signal that a receiver took from this process
        self.waiting: Counter[str] = Counter()  # items by signal in the store, when they were last counted
        self._writer = writer
        self._folder = folder
        self._destinations = destinations
        self._find = find  # looks for a receiver where none is named; True once there is one
        self._owner = owner
        self._keep = keep
        self._fsync = fsync
        self._problem = problem
        self._told: dict[str, float] = {}
        self._stopped = False
        self._unusable = False  # SQLite cannot be used in this process, see after_fork_in_child
        self._inherited: list[Outbox] = []
        self._outbox: Outbox | None = None
        self._lease: Lease | None = None
        self.routes: list[Route] = []  # made when there is something to send
        self._forking: dict[int, bool] = {}  # thread that forks → whether it holds the lock
        self._reset()

    def _reset(self) -> None:
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._lock = allocate_lock()  # held for every use of SQLite, and over a fork
        self._start_lock = allocate_lock()
        self._running = False
        self._poked = False
        self._leave_by: float | None = None  # by the monotonic clock: send what can be sent until then
        self._pace = Pace(lambda: self._stopped or self._leave_by is not None)
        self._left: list[Any] = []  # locks of those who wait for that
        self._counted = self._adopted = 0.0  # when that was done last, by the monotonic clock
        self._idle = False  # the thread waits for something to send, not for a receiver
        self._noted: dict[str, str] = {}  # by signal, what the store's file says about how sending goes

    # --- for the feature -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send, a little later. Idempotent."""
        if self._running or self._stopped or not self._start_lock.acquire(blocking=False):
            return
        try:
            if not self._running:
                start_new_thread(self._run, ())
                self._running = True
        except RuntimeError:  # the interpreter is ending; the next start sends
            pass
        finally:
            self._start_lock.release()

    def poke(self) -> None:
        """Something was stored: called by the store's thread."""
        self.start()
        if not self._poked:
            self._poked = True
            self._wake.put(None)

    def leave(self, budget: float) -> None:
        """Send what can be sent within ``budget`` seconds; returns earlier when all is sent or nothing can be.

        Safe in a signal handler: waits for the thread, with a bound.
        """
        if self._stopped or budget <= 0:
            return
        if not self._running:
            if self._poked:  # Python 3.12 starts no thread once its end has begun: it is done here
                self._leave_by = time.monotonic() + budget
                self._turn_in_context()
                self._leave_by = None
            return
        gone = allocate_lock()
        gone.acquire()
        self._leave_by = time.monotonic() + budget  # first: the thread may look at any moment
        self._left.append(gone)
        self._wake.put(None)
        gone.acquire(timeout=budget)

    def end(self) -> None:
        """Send no more. A request under way ends by itself, as the interpreter or the receiver will have it."""
        self._stopped = True
        self._wake.put(None)
        if self._lock.acquire(timeout=1.0):
            try:
                self._disconnect()
            finally:
                self._lock.release()

    # --- fork ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Close the connection, and hold the lock over the fork; see ``Writer.before_fork``."""
        locked = self._forking[get_ident()] = self._lock.acquire(timeout=1.0)
        if locked:
            self._close_outbox()

    def after_fork_in_parent(self) -> None:
        """Let the thread go on."""
        if self._forking.pop(get_ident(), False):
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """The parent goes on sending; this process sends when the lease becomes free."""
        if not self._forking.pop(get_ident(), False) and self._outbox is not None:
            self._inherited.append(self._outbox)
            self._outbox, self._unusable = None, True
        self._forking.clear()
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        for route in self.routes:
            route.forget()
        self.routes = []
        self.delivered.clear()
        self.waiting.clear()
        self._reset()

    # --- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        pause = START
        while True:
            self._sleep(pause)
            if self._stopped:
                break
            self._poked = False
            pause = self._turn_in_context()
            self._tell_those_who_wait()
        self._tell_those_who_wait()
        with self._lock:
            self._disconnect()  # once more: a turn under way may have connected again

    def _turn_in_context(self) -> float:
        """A turn that nobody traces, and that never raises."""
        from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value

        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            return self._turn()
        except Exception as error:  # whatever it is, the next turn may do better
            self._trouble(error)
            return IDLE
        finally:
            detach(token)

    def _sleep(self, pause: float) -> None:
        """Until the pause is over or somebody leaves; a poke ends it only where there was nothing to do."""
        deadline = time.monotonic() + pause
        while self._leave_by is None and not self._stopped:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            try:
                self._wake.get(timeout=left)
            except queue.Empty:
                return
            if self._poked and self._idle:
                return

    def _turn(self) -> float:
        """Send what waits; returns seconds until there may be more to do."""
        self._idle = False
        if self._unusable or not self._have_lease():
            return LEASE_RETRY * chance.uniform(0.5, 1.5)
        if not self.routes and not self._make_routes():
            return LEASE_RETRY
        while not self._stopped:
            now = time.monotonic()
            sent = [self._advance(route) for route in self.routes if route.until <= now]
            self._count()
            if not any(sent) or self._is_over():
                break
        now = time.monotonic()
        blocked = [route.until - now for route in self.routes if route.until > now]
        self._idle = len(blocked) < len(self.routes)
        return max(SHORTEST, min([IDLE, *blocked]))

    def _advance(self, route: Route) -> bool:
        """Send one request of ``route``; ``False`` if there was nothing to send, or it has to wait."""
        self._pace.begin()
        batches = self._with_outbox(lambda outbox: route.next(outbox, keep=self._keep))
        if not batches and route.until > time.monotonic():  # all that is left was refused
            self._failed(route, Answer("refused", route.error))
        if not batches or self._is_over() or self._stopped:
            return False
        self._pace.rest()
        with self._lock:  # which a fork waits for: a child cannot go on with its parent's import
            route.connect()
        self._pace.begin()  # what was imported is no reason to rest
        payload = route.pack(batches, self._pace.rest)
        if self._is_over() or self._stopped:
            return False
        answer = route.send(payload, self._budget())
        if answer.verdict == "accepted":
            guilty = route.accepted(batches)
            self._took(route, batches, answer)
            self._with_outbox(lambda outbox: route.settle(outbox, keep=self._keep))
        else:
            guilty = route.not_accepted(batches, answer)
            if route.until > time.monotonic():
                self._failed(route, answer)
        for batch, reason in guilty:
            self._set_aside(route, batch, reason)
        self._pace.rest()
        return route.until <= time.monotonic()

    def _set_aside(self, route: Route, batch: Batch, reason: str) -> None:
        self._with_outbox(lambda outbox: outbox.refuse([batch], reason))
        self._say(
            "refused",
            f"{route.destination.place} refused {batch.items} {route.signal} items ({reason});"
            " they are kept: otel-perf export --refused",
        )

    def _took(self, route: Route, batches: Sequence[Batch], answer: Answer) -> None:
        items = sum(batch.items for batch in batches)
        # Of metrics a receiver counts data points, and we collections: those were delivered.
        rejected = 0 if route.signal == "metrics" else min(answer.rejected, items)
        self.delivered[route.signal] += items - rejected
        self.waiting[route.signal] = max(0, self.waiting[route.signal] - items)
        if rejected:
            self._writer.count_dropped(route.signal, rejected)
        if answer.rejected or answer.message:
            unit = "data points" if route.signal == "metrics" else f"of {items} {route.signal} items"
            what = f"did not take {answer.rejected} {unit}" if answer.rejected else "warns"
            self._say("partial", f"{route.destination.place} {what}: {answer.message or 'without a reason'}")
        if self._noted.get(route.signal) != "":
            self._note(route, "")

    def _failed(self, route: Route, answer: Answer) -> None:
        if self._noted.get(route.signal) != answer.detail:
            self._note(route, answer.detail)
        remedy = "" if answer.verdict == "busy" else "; see otel-perf doctor"
        self._say(
            "failed",
            f"{route.destination.place} does not take what is sent ({answer.detail});"
            f" it is stored in {self._folder()} and sent when it does{remedy}",
        )

    def _note(self, route: Route, error: str) -> None:
        self._noted[route.signal] = error
        place = route.destination.place
        self._with_outbox(lambda outbox: outbox.note(f"{self._owner.destination}/{route.signal}", place, error))

    # --- the lease and what it is good for -------------------------------------------------------

    def _have_lease(self) -> bool:
        folder = self._folder()
        if not (folder / STORE_FILE).exists():
            return False
        if self._lease is None:
            self._lease = Lease(folder, self._owner.destination)
        had = self._lease.held
        if not self._lease.take():
            return False
        if not had or time.monotonic() - self._adopted > ADOPT_EVERY:
            self._adopted = time.monotonic()
            take_over(folder, self._owner, self._with_outbox)
        return True

    def _make_routes(self) -> bool:
        if self._find is not None and not self._find():
            return False
        self.routes = [Route(destination, self._owner.destination) for destination in self._destinations()]
        return bool(self.routes)

    # --- details -------------------------------------------------------------------------------

    def _with_outbox(self, use: Callable[[Outbox], T]) -> T:
        with self._lock:
            if self._outbox is not None and not self._outbox.is_current():
                self._close_outbox()
            if self._outbox is None:
                self._outbox = Outbox(self._folder() / STORE_FILE, fsync=self._fsync)
            return use(self._outbox)

    def _close_outbox(self) -> None:
        outbox, self._outbox = self._outbox, None
        if outbox is not None:
            try:
                outbox.close()
            except sqlite3.Error:
                _log.debug("otel-perf: closing the outbox failed", exc_info=True)

    def _disconnect(self) -> None:
        self._close_outbox()
        for route in self.routes:
            route.close()
        if self._lease is not None:
            self._lease.release()

    def _count(self) -> None:
        now = time.monotonic()
        if now - self._counted > COUNT_EVERY and self._leave_by is None:
            self._counted = now
            waiting = self._with_outbox(lambda outbox: outbox.waiting(self._owner.destination))
            self.waiting = Counter({signal: found.items for signal, found in waiting.items()})
            self._pace.look(self.waiting.total(), self.delivered.total(), self._writer.dropped)

    def _budget(self) -> float:
        return float("inf") if self._leave_by is None else max(0.01, self._leave_by - time.monotonic())

    def _is_over(self) -> bool:
        return self._leave_by is not None and time.monotonic() >= self._leave_by

    def _tell_those_who_wait(self) -> None:
        if self._left or self._is_over():
            self._leave_by = None
            while self._left:
                self._left.pop().release()

    def _trouble(self, error: Exception) -> None:
        from otel_perf.core.errors import MissingExtraError

        if isinstance(error, MissingExtraError):
            self._say("extra", str(error))
            return
        if isinstance(error, sqlite3.DatabaseError) and is_corrupt(error):
            self._close_corrupt(error)
            return
        if isinstance(error, sqlite3.Error):
            with self._lock:
                self._close_outbox()
            if not is_busy(error):
                self._say("store", f"the store in {self._folder()} cannot be used for sending ({error}); trying again")
            return
        _log.debug("otel-perf: sending failed", exc_info=error)
        self._say("internal", f"sending failed and is tried again: {error!r}")

    def _close_corrupt(self, error: sqlite3.DatabaseError) -> None:
        """The store's thread may never touch the page that is corrupt: have the file set aside."""
        with self._lock:
            identity = None if self._outbox is None else self._outbox.identity
            self._close_outbox()
        self._writer.set_aside(error, identity)

    def _say(self, kind: str, line: str) -> None:
        now = time.monotonic()
        if kind not in self._told or now - self._told[kind] > SPEAK_AGAIN:
            self._told[kind] = now
            self._problem(f"otel-perf: {line}")
