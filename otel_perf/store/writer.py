"""One thread a process that encodes what the SDK hands over and commits it before anything else.

The application's threads only append to a deque. Whoever makes items faster than one thread can encode
them waits for room instead of losing them; only when the thread makes no progress for ``PATIENCE`` seconds
(a hanging disk) are items dropped, oldest first, and counted.
"""

from __future__ import annotations

import logging
import queue
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.threads import allocate_lock, get_ident, start_new_thread
from otel_perf.store.committer import Committer, Owner

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from otel_perf.core.home import Home

PATIENCE: Final = 0.25  # seconds without progress after which a producer no longer waits for room
WAITS: Final = 5  # that these are made of: a pause of the whole process ends one, and the thread could not run either
COMMIT_BYTES: Final = 256 * 1024  # encoded bytes that are committed at once under load
LONGEST_REST: Final = 0.005  # seconds
LONGEST_DELAY: Final = 3600.0  # seconds; more overflows the wait of a lock

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


class Ticket:
    """Somebody waits until what is in the lanes now is stored."""

    __slots__ = ("done", "stored")

    def __init__(self) -> None:
        self.done = allocate_lock()
        self.done.acquire()
        self.stored = False


class Writer:
    """Owns the lanes, the thread and the connection. Every method may be called from any thread.

    Cost to the caller of :meth:`offer`: about 0.3 µs. Safe across forks: a child starts empty, with a
    connection and a thread of its own, made when it first has something to store.
    """

    def __init__(
        self,
        home: Home,
        *,
        delay: float,
        limit: int,
        fsync: bool,
        problem: Callable[[str], None],
        owner: Owner = Owner(),  # noqa: B008 - a constant
    ) -> None:
        self._delay = min(delay, LONGEST_DELAY)
        self.lanes: list[Lane] = []
        self.committed: Callable[[], None] | None = None  # called in the store's thread when something was committed
        self._committer = Committer(
            home, limit=limit, fsync=fsync, owner=owner, problem=problem, dropped=self.count_dropped
        )
        self._forking: dict[int, bool] = {}  # thread that forks → whether it holds the lock
        self._reset_primitives()

    def _reset_primitives(self) -> None:
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._tickets: deque[Any] = deque()
        self._room: deque[Any] = deque()
        self._signalled = False
        self._pressed = False
        self._in_round = False  # items may be out of their lane and not yet held
        self._awaited = False  # somebody waits for the round
        self._thread: int | None = None  # its identity, while it lives
        self._start_lock = allocate_lock()
        self._lock = allocate_lock()  # held for every use of SQLite and of the encoder

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
        if lane.stuck or get_ident() == self._thread:
            return False
        while len(lane.items) >= lane.limit:
            ticket = allocate_lock()
            ticket.acquire()
            self._room.append(ticket)
            self._pressed = True
            self._wake.put(None)
            if not any(ticket.acquire(timeout=PATIENCE / WAITS) for _ in range(WAITS)):
                lane.stuck = True
                return False
        return True

    @property
    def stored(self) -> int:
        """Items committed by this process."""
        return self._committer.stored

    @property
    def size(self) -> int | None:
        """Bytes in use in the file after the last commit; ``None`` before the first."""
        return self._committer.size

    @property
    def folder(self) -> Path | None:
        """Where the store was opened; ``None`` before the first commit."""
        return self._committer.folder

    @property
    def error(self) -> str:
        """Why the last commit failed; empty if it did not."""
        return self._committer.error

    def count_dropped(self, signal: str, items: int) -> None:
        """Count ``items`` of ``signal`` as lost."""
        for lane in self.lanes:
            if lane.signal == signal:
                lane.dropped += items

    @property
    def dropped(self) -> int:
        """Items of all signals that were lost so far."""
        return sum(lane.dropped for lane in self.lanes)

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
        if not (self._signalled or any(lane.items for lane in self.lanes) or self._in_round or self._committer.held):
            return True
        ticket = Ticket()
        self._tickets.append(ticket)
        if self._thread is None and not self._start():
            return self._flush_here(timeout)
        self._wake.put(None)
        return ticket.done.acquire(timeout=timeout) and ticket.stored

    def _flush_here(self, timeout: float) -> bool:
        """The interpreter starts no more threads: do the round in the caller's."""
        if not self._lock.acquire(timeout=timeout):
            return False
        try:
            self._take_all(force=True)
        finally:
            self._lock.release()
            self._committer.say_all()
        return not self._committer.held

    def close(self, timeout: float) -> bool:
        """Flush, and close the connection, all within ``timeout`` s. The writer can be used again."""
        deadline = time.monotonic() + timeout
        done = self.flush(timeout)
        if self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            try:
                self._committer.disconnect()
            finally:
                self._lock.release()
        if not done:
            self._committer.give_up(timeout)
        self._committer.say_all()
        return done

    def give_back(self) -> int:
        """As :meth:`Committer.give_back`, about 1 ms."""
        with self._lock:
            return self._committer.give_back()

    def set_aside(self, error: sqlite3.Error, identity: tuple[int, int] | None) -> None:
        """The sending thread met a corrupt page in the file with ``identity``."""
        with self._lock:
            self._committer.set_aside(error, identity)
        self._committer.say_all()

    # --- fork ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Close the connection, and hold the lock over the fork.

        A child that only opens a connection of its own is not enough: SQLite keeps the locks of a file per process
        and inode, the child inherits that table, and believes in locks that the kernel gave to the parent alone.
        When the parent then ends, it takes the WAL away under the child: 20 of 20 spans lost, or a corrupt file.
        """
        self._forking[get_ident()] = False  # no more rests
        locked = self._forking[get_ident()] = self._lock.acquire(timeout=1.0)
        if locked:
            self._committer.disconnect()

    def after_fork_in_parent(self) -> None:
        """Let the thread go on; it connects again when there is something to store."""
        if self._forking.pop(get_ident(), False):
            self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start empty: what was queued belongs to the parent, which stores it."""
        self._committer.leave_to_parent(disconnected=self._forking.pop(get_ident(), False))
        self._forking.clear()
        for lane in self.lanes:
            lane.items = deque()
            lane.dropped = 0
            lane.stuck = False
        self._reset_primitives()

    # --- the thread ----------------------------------------------------------------------------

    def _start(self) -> bool:
        if not self._start_lock.acquire(blocking=False):
            return True  # somebody else is starting it, perhaps the code that a signal interrupted
        try:
            if self._thread is None:
                self._thread = start_new_thread(self._run, ())
            return True
        except RuntimeError:  # the interpreter is ending
            return False
        finally:
            self._start_lock.release()

    def _run(self) -> None:
        from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        while True:
            try:
                self._round()
            except Exception:  # whatever it is, the next round may do better; a dead thread stores nothing
                _log.warning("otel-perf: a round of the store failed", exc_info=True)

    def _round(self) -> None:
        """Wait for work, gather what comes within the delay, store it, tell who waits for it."""
        wake = self._wake
        wake.get()
        deadline = time.monotonic() + self._delay
        while not (self._tickets or self._pressed):
            try:
                wake.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
        tickets = [self._tickets.popleft() for _ in range(len(self._tickets))]
        try:
            with self._lock:
                self._take_all(force=bool(tickets))
                for ticket in tickets:
                    ticket.stored = not self._committer.held
        finally:
            for ticket in tickets:
                ticket.done.release()
            self._committer.say_all()

    def _take_all(self, *, force: bool) -> None:
        self._in_round = True
        self._awaited = force
        before = self._committer.stored
        try:
            self._take_rounds(force=force)
        finally:
            self._in_round = False
            if self.committed is not None and self._committer.stored > before:
                self.committed()

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
                if self._committer.held_bytes >= COMMIT_BYTES:
                    self._committer.commit(force=force)
            todo = rest
        self._committer.commit(force=force)

    def rest(self, spent: float) -> None:
        """The thread has encoded for ``spent`` seconds: leave the interpreter to the app's threads for as long.

        Not while somebody waits: a flush, a fork, or producers that make more than this keeps up with.
        """
        if not (self._pressed or self._awaited or self._tickets or self._forking):
            time.sleep(min(spent, LONGEST_REST))

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
        self._committer.hold(lane.signal, len(items), body)

    def _hold_one_by_one(self, lane: Lane, items: list[Any]) -> None:
        """One item that cannot be encoded must not cost the others of its batch."""
        for item in items:
            try:
                body = lane.encode([item])
            except Exception as error:
                lane.dropped += 1
                self._committer.tell(
                    "encode", f"otel-perf: a {lane.signal} item cannot be encoded and is dropped: {error!r}"
                )
                continue
            self._committer.hold(lane.signal, 1, body)
