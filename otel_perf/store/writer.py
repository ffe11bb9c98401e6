"""One thread a process that encodes what the SDK hands over and commits it before anything else.

The application's threads only append to a deque. Whoever makes items faster than one thread can encode
them waits for room instead of losing them; only when the thread makes no progress for ``PATIENCE`` seconds
(a hanging disk) are items dropped, oldest first, and counted.
"""

from __future__ import annotations

import _thread
import errno
import logging
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.errors import StoreError
from otel_perf.store.database import FILE, Database, NewBatch, is_busy, is_corrupt, set_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from otel_perf.core.home import Home

PATIENCE: Final = 0.25  # seconds without progress after which a producer no longer waits for room
MEMORY_LIMIT: Final = 16 * 2**20  # bytes of encoded batches kept while the store cannot be written
COMMIT_BYTES: Final = 256 * 1024  # encoded bytes that are committed at once under load
RETRY: Final = 5.0  # seconds between attempts to write to a store that failed

_log = logging.getLogger("otel_perf")


class Lane:
    """The queue of one signal: items waiting to be encoded, and how they are encoded."""

    __slots__ = ("batch", "dropped", "encode", "items", "limit", "signal", "stuck")

    def __init__(self, signal: str, encode: Callable[[Sequence[Any]], bytes], *, limit: int, batch: int) -> None:
        self.signal = signal
        self.encode = encode
        self.limit = limit
        self.batch = min(batch, limit)
        self.items: deque[Any] = deque()
        self.dropped = 0
        self.stuck = False  # a wait for room was in vain: do not wait again until items are taken


class Writer:
    """Owns the lanes, the thread and the connection. Every method may be called from any thread.

    Cost to the caller of :meth:`offer`: about 0.3 µs. Safe across forks: a child starts empty, with a
    connection and a thread of its own, made when it first has something to store.
    """

    def __init__(self, home: Home, *, delay: float, limit: int, fsync: bool, problem: Callable[[str], None]) -> None:
        self._home = home
        self._delay = delay
        self._limit = limit
        self._fsync = fsync
        self._problem = problem
        self.lanes: list[Lane] = []
        self.stored = 0  # items committed by this process
        self.folder: Path | None = None  # where the store was opened
        self.size: int | None = None  # bytes in use in the file after the last commit
        self._held: deque[NewBatch] = deque()  # encoded, not committed
        self._held_bytes = 0
        self._failed_at: float | None = None
        self._told: set[str] = set()
        self._database: Database | None = None
        self._fork_locked = False
        self._inherited: list[Database] = []  # connections of a parent: neither used nor closed, ever
        self._reset_primitives()

    def _reset_primitives(self) -> None:
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._tickets: deque[_thread.LockType] = deque()
        self._room: deque[_thread.LockType] = deque()
        self._signalled = False
        self._pressed = False
        self._in_round = False  # items may be out of their lane and not yet held
        self._thread: threading.Thread | None = None
        self._start_lock = threading.Lock()
        self._lock = threading.Lock()  # held for every use of SQLite and of the encoder

    # --- producers -----------------------------------------------------------------------------

    def offer(self, lane: Lane, item: object) -> None:
        """Queue ``item`` to be stored."""
        items = lane.items
        if len(items) >= lane.limit and not self._wait_for_room(lane):
            try:
                items.popleft()
                lane.dropped += 1
            except IndexError:
                pass
        items.append(item)
        # Append first, then look at the flag: the thread clears it before it takes items, so an
        # item is either taken by the round under way or wakes the next one.
        if not self._signalled:
            self._signalled = True
            if self._thread is None:
                self._start()
            self._wake.put(None)
        elif len(items) >= lane.batch and not self._pressed:
            self._pressed = True
            self._wake.put(None)

    def _wait_for_room(self, lane: Lane) -> bool:
        """Wait while the thread makes progress; ``False`` once it made none for ``PATIENCE`` seconds."""
        if lane.stuck or threading.current_thread() is self._thread:
            return False
        while len(lane.items) >= lane.limit:
            ticket = _thread.allocate_lock()
            ticket.acquire()
            self._room.append(ticket)
            self._pressed = True
            self._wake.put(None)
            if not ticket.acquire(timeout=PATIENCE):
                lane.stuck = True
                return False
        return True

    @property
    def used(self) -> bool:
        """Whether this process ever offered anything."""
        return self._thread is not None or self._signalled

    def flush(self, timeout: float) -> bool:
        """Commit all that was offered before this call; ``False`` if it took longer than ``timeout`` s.

        Safe in a signal handler: waits for the thread with a bound and takes no lock that the
        interrupted code may hold.
        """
        # In the order in which items move, so that none is missed on its way.
        if not (self._signalled or any(lane.items for lane in self.lanes) or self._in_round or self._held):
            return True
        ticket = _thread.allocate_lock()
        ticket.acquire()
        self._tickets.append(ticket)
        if self._thread is None and not self._start():
            return self._flush_here(timeout)
        self._wake.put(None)
        return ticket.acquire(timeout=timeout) and not self._held

    def _flush_here(self, timeout: float) -> bool:
        """The interpreter starts no more threads: do the round in the caller's."""
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            self._take_all(force=True)
        finally:
            self._lock.release()
        return not self._held

    def close(self, timeout: float) -> bool:
        """Flush, and close the connection. The writer can be used again: it opens another."""
        done = self.flush(timeout)
        if self._lock.acquire(timeout=timeout):
            try:
                if self._database is not None:
                    self._database.close()
                    self._database = None
            except sqlite3.Error:
                _log.debug("otel-perf: closing the store failed", exc_info=True)
            finally:
                self._lock.release()
        return done

    # --- fork ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Hold the lock over the fork, so that the child inherits no half-done work of SQLite."""
        self._fork_locked = self._lock.acquire(timeout=1.0)

    def after_fork_in_parent(self) -> None:
        """Let the thread go on."""
        if self._fork_locked:
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start empty: what was queued belongs to the parent, which stores it."""
        if self._database is not None:
            self._inherited.append(self._database)
            self._database = None
        for lane in self.lanes:
            lane.items = deque()
            lane.dropped = 0
            lane.stuck = False
        self._held = deque()
        self._held_bytes = 0
        self._failed_at = None
        self.stored = 0
        self._reset_primitives()

    # --- the thread ----------------------------------------------------------------------------

    def _start(self) -> bool:
        if not self._start_lock.acquire(blocking=False):
            return True  # somebody else is starting it, perhaps the code that a signal interrupted
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="otel-perf-store", daemon=True)
                thread.start()
                self._thread = thread
            return True
        except RuntimeError:  # the interpreter is ending
            return False
        finally:
            self._start_lock.release()

    def _run(self) -> None:
        from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        wake = self._wake
        while True:
            wake.get()
            deadline = time.monotonic() + self._delay
            while not (self._tickets or self._pressed):
                try:
                    wake.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    break
            tickets = [self._tickets.popleft() for _ in range(len(self._tickets))]
            with self._lock:
                self._take_all(force=bool(tickets))
            for ticket in tickets:
                ticket.release()

    def _take_all(self, *, force: bool) -> None:
        self._in_round = True
        try:
            self._take_rounds(force=force)
        finally:
            self._in_round = False

    def _take_rounds(self, *, force: bool) -> None:
        self._signalled = False
        self._pressed = False
        # What comes in meanwhile is for the next round: a flush ends, and no lane starves another.
        todo = [(lane, len(lane.items)) for lane in self.lanes]
        while todo:
            rest = []
            for lane, left in todo:
                items = self._take(lane, min(left, lane.batch))
                if items:
                    self._hold(lane, items)
                    if left > len(items):
                        rest.append((lane, left - len(items)))
                if self._held_bytes >= COMMIT_BYTES:
                    self._commit(force=force)
            todo = rest
        self._commit(force=force)

    def _take(self, lane: Lane, count: int) -> list[Any]:
        items = []
        try:
            for _ in range(count):
                items.append(lane.items.popleft())
        except IndexError:
            pass  # a full lane dropped its oldest meanwhile
        lane.stuck = False
        while self._room:
            self._room.popleft().release()
        return items

    def _hold(self, lane: Lane, items: list[Any]) -> None:
        try:
            body = lane.encode(items)
        except Exception:
            self._hold_one_by_one(lane, items)
            return
        self._held.append(NewBatch(lane.signal, len(items), body))
        self._held_bytes += len(body)

    def _hold_one_by_one(self, lane: Lane, items: list[Any]) -> None:
        """One item that cannot be encoded must not cost the others of its batch."""
        for item in items:
            try:
                body = lane.encode([item])
            except Exception as error:
                lane.dropped += 1
                self._tell("encode", f"otel-perf: a {lane.signal} item cannot be encoded and is dropped: {error!r}")
                continue
            self._held.append(NewBatch(lane.signal, 1, body))
            self._held_bytes += len(body)

    def _commit(self, *, force: bool) -> None:
        if not self._held:
            return
        if self._failed_at is not None and not force and time.monotonic() - self._failed_at < RETRY:
            self._trim()
            return
        try:
            self._store()
            self._failed_at = None
        except (sqlite3.Error, OSError) as error:
            self._failed_at = time.monotonic()
            if not (isinstance(error, sqlite3.Error) and is_busy(error)):
                self._tell(
                    "write",
                    f"otel-perf: the store in {self.folder or self._home.path} cannot be written ({error});"
                    f" keeping the newest {MEMORY_LIMIT // 2**20} MB in memory and trying again",
                )
            self._trim()

    def _store(self) -> None:
        for _attempt in range(2):
            try:
                database = self._connected()
                batches = list(self._held)
                dropped = database.append(batches, time.time_ns())
                self.size = database.size
                break
            except sqlite3.DatabaseError as error:
                if not is_corrupt(error):
                    raise
                self._set_aside(error)
        else:
            raise StoreError("the store is corrupt again just after it was set aside")
        self._held.clear()
        self._held_bytes = 0
        self.stored += sum(batch.items for batch in batches)
        for signal, items in dropped:
            for lane in self.lanes:
                if lane.signal == signal:
                    lane.dropped += items

    def _connected(self) -> Database:
        if self._database is not None and not self._database.is_current():
            self._database.close()  # deleted or replaced under us: what we write there is lost
            self._database = None
        if self._database is None:
            self._database = self._open()
        return self._database

    def _open(self) -> Database:
        try:
            folder = self._home.make()
            database = Database(folder / FILE, limit=self._limit, fsync=self._fsync)
        except (OSError, sqlite3.OperationalError) as error:
            if isinstance(error, sqlite3.Error) and is_busy(error):
                raise
            folder = self._home.fallback()
            database = Database(folder / FILE, limit=self._limit, fsync=self._fsync)
            self._tell(
                "home", f"otel-perf: {self._home.path} cannot be used ({_why(error)}); storing in {folder} instead"
            )
        self.folder = folder
        return database

    def _set_aside(self, error: sqlite3.Error) -> None:
        path = self._home.path / FILE
        if self._database is not None:
            path, current = self._database.path, self._database.is_current()
            self._database.close()
            self._database = None
            if not current:
                return  # another process was quicker: the path names its new file
        target = set_aside(path)
        self._tell("corrupt", f"otel-perf: the store was corrupt ({error}); set aside as {target}, a new one was begun")

    def _trim(self) -> None:
        while self._held_bytes > MEMORY_LIMIT:
            batch = self._held.popleft()
            self._held_bytes -= len(batch.body)
            for lane in self.lanes:
                if lane.signal == batch.signal:
                    lane.dropped += batch.items

    def _tell(self, kind: str, line: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._problem(line)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno is not None:
        return f"{errno.errorcode.get(error.errno, '')}: {os.strerror(error.errno)}"
    return str(error)
