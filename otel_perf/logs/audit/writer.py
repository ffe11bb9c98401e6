"""One thread a process that commits what threads and tasks hand over, many records in one transaction.

While one commit waits for the disk the next records gather, so that the number of records a second is not bound to the
number of syncs. A caller waits until its record is on the disk; nothing is ever dropped: what cannot be stored raises
to whoever made it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.clock import SYSTEM_CLOCK, Clock
from otel_perf.core.errors import AuditError
from otel_perf.core.forks import on_fork
from otel_perf.core.threads import allocate_lock, get_ident, start_new_thread
from otel_perf.logs.audit import chain, mirror, process
from otel_perf.logs.audit.connection import Connection, not_stored, reason
from otel_perf.logs.audit.database import PATIENCE, New, Stored, is_busy, pause
from otel_perf.logs.audit.encoding import canonical
from otel_perf.logs.audit.heads import CHECKPOINT_EVERY
from otel_perf.logs.audit.waiting import Entry, Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from otel_perf.core.home import Home
    from otel_perf.logs.audit.chain import Checkpoint
    from otel_perf.logs.settings import LogsSettings

FORK_PATIENCE: Final = 5.0  # seconds that a fork waits for a commit under way
CLOSE_PATIENCE: Final = 5.0  # seconds that the end of the process waits for its last record
ENDING_PATIENCE: Final = 1.0  # seconds, once the interpreter takes itself apart
CUT_EVERY: Final = 3600.0  # seconds

_log = logging.getLogger("otel_perf")


def _nobody(_entry: Entry) -> None:
    """Nobody waits."""


class Writer:
    """The audit trail of one process. Every method may be called from any thread, and in a signal handler.

    Safe across forks: the connection is closed before, and the child makes one of its own.
    """

    def __init__(self, home: Home, settings: LogsSettings, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._home = home
        self.settings = settings
        self._clock = clock
        self._lines: deque[str] = deque()
        self._told: set[str] = set()
        self._connection = Connection(home, settings, self._lines.append)
        self._forking: dict[int, bool] = {}  # thread that forks → whether it holds the lock
        self._begin()
        self._remove_hooks = on_fork(before=self._before_fork, parent=self._in_parent, child=self._in_child)

    def _begin(self) -> None:
        self.process = process.new_process()
        self._waiting = Waiting()
        self._wake = allocate_lock()  # released when there is work
        self._wake.acquire()
        self._lock = allocate_lock()  # held for every use of SQLite
        self._holder: int | None = None  # the thread that has it
        self._start_lock = allocate_lock()
        self._voice = allocate_lock()  # held by whoever says the lines
        self._thread: int | None = None
        self._alone = False  # there is no thread, and will be none: callers commit by themselves
        self._opened = False
        self._events = 0
        self._last = self._clock.monotonic()
        self._next_cut = 0.0
        self._checkpoint: Checkpoint | None = None

    # --- callers -----------------------------------------------------------------------------------

    def write(self, body: bytes) -> Stored:
        """Store an event and wait until it is durable. Raises ``AuditError``."""
        ticket = allocate_lock()
        ticket.acquire()
        entry = Entry(New(chain.EVENT, body, self._clock.time_ns()), lambda _: ticket.release())
        self.submit(entry)
        ticket.acquire()
        return result(entry)

    def submit(self, entry: Entry) -> None:
        """Hand over a record; its ``done`` is called, in any thread, when it is stored or cannot be."""
        self._waiting.check(entry, self._home.path)
        if self._holder == get_ident():  # a finalizer ran in the middle of a commit: it cannot wait for itself
            raise AuditError("audit_event was called from within the commit of another record; call it elsewhere")
        self._waiting.put(entry)
        if self._has_thread() and get_ident() != self._thread:
            self._notify()
        else:
            self._commit_here(entry)

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is released already
            self._wake.release()

    def _has_thread(self) -> bool:
        """Whether there is a thread that commits; starts it the first time."""
        if self._alone or sys.is_finalizing():
            return False
        if self._thread is None:
            if not self._start_lock.acquire(blocking=False):
                return False  # it is being started, perhaps by the code that this signal handler interrupted
            try:
                if self._thread is None:
                    self._thread = start_new_thread(self._run, ())
            except RuntimeError:  # the interpreter is ending
                self._alone = True
                return False
            finally:
                self._start_lock.release()
        return True

    def _commit_here(self, entry: Entry) -> None:
        """Commit in the caller's thread, with what else waits."""
        # At the end of the interpreter a daemon thread may have been stopped for ever while it held the lock.
        deadline = time.monotonic() + (ENDING_PATIENCE if sys.is_finalizing() else PATIENCE)
        while entry.stored is None and entry.error is None:
            if not self._lock.acquire(timeout=left(deadline)):
                entry.error = AuditError("another thread keeps the audit trail busy; the record may yet be stored")
                entry.finish()
                return
            if not self._round(deadline):
                pause()

    # --- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        mine = self._wake  # a new one is made after a fork and at the end
        while self._wake is mine:
            mine.acquire(timeout=self._pause())
            try:
                self._empty_queue(mine)
                if self._wake is mine:
                    self._rest()
            except Exception:  # whatever it is, a dead thread stores nothing
                _log.warning("otel-perf: a round of the audit trail failed", exc_info=True)

    def _empty_queue(self, mine: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while self._waiting and self._wake is mine:
            while self._forking:
                time.sleep(0.001)  # the lock is not fair: let the fork have it
            self._lock.acquire()
            if self._round(deadline):
                deadline = time.monotonic() + PATIENCE
            else:
                pause()

    def _pause(self) -> float:
        """Seconds until there is something to do without being asked."""
        beat = self.settings.audit_heartbeat
        longest = CUT_EVERY if self._checkpoint is None else CHECKPOINT_EVERY
        if not beat or not self._opened:
            return longest
        return min(longest, max(0.01, self._last + beat - self._clock.monotonic()))

    def _round(self, deadline: float) -> bool:
        """Commit one batch and give the lock back, which the caller has; ``False`` if the file is busy."""
        batch: list[Entry] = []
        self._holder = get_ident()
        try:
            batch = self._waiting.take()
            done = self._commit(batch, busy_is_an_error=time.monotonic() > deadline)
        finally:
            self._holder = None
            self._lock.release()
        if not done:
            return False
        for entry in batch:
            try:
                entry.finish()
            except Exception:
                _log.debug("otel-perf: nobody waits for an audit record any more", exc_info=True)
        self._speak_aside()
        return True

    def _commit(self, batch: list[Entry], *, busy_is_an_error: bool) -> bool:
        """Store ``batch``; ``False`` if it is back in the queue because the file is busy. Never raises."""
        if not batch:
            return True
        try:
            records = [entry.record for entry in batch]
            if not self._opened:
                records.insert(0, New(chain.OPEN, canonical(process.opening(self.process)), self._clock.time_ns()))
            stored, self._checkpoint = self._connection.connected().append(records)
            self._opened = True
        except Exception as error:
            if is_busy(error) and not busy_is_an_error:
                self._waiting.put_back(batch)
                return False
            if isinstance(error, sqlite3.Error):
                self._connection.disconnect()
            for entry in batch:
                entry.error = not_stored(error, self._home.path)
            return True
        self._last = self._clock.monotonic()
        self._events += sum(entry.record.kind == chain.EVENT for entry in batch)
        for entry, place in zip(batch, stored[-len(batch) :], strict=True):
            entry.stored = place
        return True

    def _rest(self) -> None:
        """Between commits: the checkpoint, the heartbeat, and what is too old."""
        now = self._clock.monotonic()
        beat, keep = self.settings.audit_heartbeat, self.settings.audit_keep
        self._keep_checkpoint(CHECKPOINT_EVERY)
        if self._opened and beat and now - self._last >= beat:
            self._waiting.put(self._own(chain.BEAT))
            self._notify()
            self._last = now  # also if it cannot be stored: the next one is due a beat later
        if self._opened and keep and now >= self._next_cut:
            self._next_cut = now + CUT_EVERY
            self._cut(self._clock.time_ns() - int(keep * 1e9), f"older than {keep:g} s")
        self._speak_aside()

    def _own(self, kind: str, done: Callable[[Entry], None] = _nobody, **content: Any) -> Entry:
        return Entry(New(kind, canonical({"process": self.process, **content}), self._clock.time_ns()), done)

    def _keep_checkpoint(self, every: float) -> None:
        """Have the newest end in ``audit.checkpoints`` and among the log events, unless another process just had."""
        with self._held():
            found, database = self._checkpoint, self._connection.database
            if found is None or database is None:
                return
            noted = database.note(found, every=every)
            if noted or database.trouble:
                self._checkpoint = None
            if database.trouble:
                self._tell(f"otel-perf: {database.trouble}")
        if noted:
            mirror.checkpoint(found)

    def _cut(self, before_ns: int, why: str) -> None:
        removed, mine = 1, self._wake
        while removed and self._wake is mine:
            self._empty_queue(mine)  # it is in no hurry
            try:
                with self._held():
                    removed = self._connection.connected().cut(before_ns, why)
            except Exception as error:
                if not is_busy(error):
                    self._tell(f"otel-perf: old audit records cannot be removed: {reason(error, self._home.path)}")
                    return
                pause()

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Hold the lock."""
        self._lock.acquire()
        self._holder = get_ident()
        try:
            yield
        finally:
            self._holder = None
            self._lock.release()

    def _tell(self, line: str) -> None:
        if line not in self._told and len(self._told) < 100:
            self._told.add(line)
            self._lines.append(line)

    def _speak_aside(self) -> None:
        """Say the lines, but not in the thread that commits.

        They run the app's log handlers. One that makes records holds its lock until they are stored: the thread would
        wait for that lock, and the handler for the thread, for ever.
        """
        if self._alone:
            self._speak()
        elif self._lines:
            with contextlib.suppress(RuntimeError):  # the interpreter is ending: close says them
                start_new_thread(self._speak, ())

    def _speak(self) -> None:
        voice = self._voice
        while self._lines and voice.acquire(blocking=False):  # who has it already says these as well
            with contextlib.suppress(Exception):  # a filter of the app's
                while self._lines:
                    _log.warning("%s", self._lines.popleft())
            voice.release()

    def close(self) -> None:
        """Write this process's last record and let go of the file. Waits at most ``CLOSE_PATIENCE`` seconds.

        The writer can still be used: at the end of the interpreter, by whoever runs after it.
        """
        deadline = time.monotonic() + CLOSE_PATIENCE
        if self._opened and os.path.exists(self._home.path):  # noqa: PTH110 - that one raises
            ticket = allocate_lock()
            ticket.acquire()
            with contextlib.suppress(AuditError):
                self.submit(self._own(chain.CLOSE, lambda _: ticket.release(), events=self._events))
                ticket.acquire(timeout=left(deadline - ENDING_PATIENCE))
        self._alone = True
        wake, self._wake = self._wake, allocate_lock()
        with contextlib.suppress(RuntimeError):
            wake.release()  # the thread sees that it is not wanted any more
        # Whoever handed something over before ``_alone`` was set counts on the thread.
        while self._waiting and self._lock.acquire(timeout=left(deadline)):
            if not self._round(deadline):
                pause()
        last: Checkpoint | None = None
        if self._lock.acquire(timeout=left(deadline)):
            self._holder = get_ident()
            try:
                last, self._checkpoint = self._checkpoint, None
                if last is not None and self._connection.database is not None:
                    self._connection.database.note(last, every=0.0)
                self._connection.disconnect()
                self._opened = False
                self.process = process.new_process()
            finally:
                self._holder = None
                self._lock.release()
        self._remove_hooks()
        if last is not None:
            mirror.checkpoint(last)
        self._speak()
        if self._voice.acquire(timeout=ENDING_PATIENCE):  # another thread is at it
            self._voice.release()

    # --- fork --------------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        """Close the connection, and hold the lock over the fork.

        A child that only opens a connection of its own is not enough: see :mod:`otel_perf.store.writer`.
        """
        me = get_ident()
        self._forking[me] = False
        if self._lock.acquire(timeout=FORK_PATIENCE):
            self._forking[me] = True
            self._holder = me
            self._connection.disconnect()

    def _in_parent(self) -> None:
        if self._forking.pop(get_ident(), False):
            self._holder = None
            self._lock.release()

    def _in_child(self) -> None:
        """Begin anew: what was handed over belongs to the parent, which stores it."""
        self._forking.clear()
        self._connection.leave_to_parent()
        self._lines.clear()
        self._begin()


def left(deadline: float) -> float:
    """Seconds until then."""
    return max(0.0, deadline - time.monotonic())


def result(entry: Entry) -> Stored:
    """What became of an entry that is done."""
    if entry.error is not None:
        raise entry.error
    assert entry.stored is not None
    return entry.stored
