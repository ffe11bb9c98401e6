"""A board in the memory of one process: the tables of the other one, and a condition to wait for."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

from otel_perf.core.errors import SignalError
from otel_perf.signals.board import KEPT
from otel_perf.signals.tables import LEFT, LOST, SCHEMA, Tables

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from otel_perf.signals.board import Heard, Wait
    from otel_perf.signals.signal import Producer, Signal

T = TypeVar("T")

PATIENCE: Final = 5.0  # seconds that a fork waits for those who are in the midst of something


class MemoryBoard:
    """See :class:`otel_perf.signals.board.Board`. About 30 µs an operation; its clock is the monotonic one."""

    place = "the memory of this process"

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns, kept: int = KEPT) -> None:
        self._connection = sqlite3.Connection(":memory:", isolation_level=None, check_same_thread=False)
        for statement in SCHEMA:
            self._connection.execute(statement)
        self._tables = Tables(self._connection, lambda: ("", clock()), kept)
        self._condition = threading.Condition()
        self._mark = 0
        self._interrupted = False
        self._closed = False

    def join(self, producer: Producer) -> Producer:
        """See the contract. Nobody in one process is killed alone: see :meth:`lose`."""
        return self._change(lambda: self._opened().join(producer, _claim, _is_alive))

    def leave(self, producer: Producer) -> None:
        """See the contract."""
        self._change(lambda: self._opened().end(producer, LEFT))

    def lose(self, producer: Producer) -> None:
        """It ended without leaving."""
        self._change(lambda: self._opened().end(producer, LOST))

    def put(self, signal: Signal) -> Signal:
        """See the contract."""
        return self._change(lambda: self._opened().put(signal, _claim, _is_alive))

    def current(
        self, scope: str, names: Collection[str], judge: Callable[[Signal], bool] | None = None
    ) -> Sequence[Signal]:
        """See the contract."""
        with self._condition:
            return self._opened().current(scope, names, judge)

    def said(self, scope: str, names: Collection[str]) -> Sequence[Signal]:
        """See the contract."""
        with self._condition:
            return self._opened().said(scope, names)

    def since(self, seq: int, limit: int = 1000) -> Sequence[Signal]:
        """See the contract."""
        with self._condition:
            return self._opened().since(seq, limit)

    def producers(self) -> Sequence[Heard]:
        """See the contract."""
        with self._condition:
            return self._opened().producers()

    def note(self, wait: Wait) -> None:
        """See the contract."""
        self._change(lambda: self._opened().note(wait))

    def forget(self, wait: Wait) -> None:
        """See the contract."""
        with self._condition:
            self._opened().forget(wait)

    def waits(self) -> Sequence[Wait]:
        """See the contract."""
        with self._condition:
            return self._opened().waits(_is_alive)

    def changed(self, mark: object, timeout: float) -> object:
        """See the contract."""
        with self._condition:
            self._condition.wait_for(lambda: self._mark != mark or self._interrupted, timeout)
            self._interrupted = False
            return self._mark

    def interrupt(self) -> None:
        """See the contract."""
        with self._condition:
            self._interrupted = True
            self._condition.notify_all()

    def close(self) -> None:
        """See the contract."""
        with self._condition:
            self._closed = True
            self._connection.close()

    def _opened(self) -> Tables:
        if self._closed:
            raise SignalError(f"the signal board in {self.place} was closed")
        return self._tables

    def before_fork(self) -> None:
        """Let nobody be in the midst of something."""
        self._condition.acquire(timeout=PATIENCE)

    def after_fork_in_parent(self) -> None:
        """Go on."""
        with contextlib.suppress(RuntimeError):
            self._condition.release()

    def after_fork_in_child(self) -> None:
        """What was said before the fork is there, too."""
        self._condition = threading.Condition()

    def _change(self, action: Callable[[], T]) -> T:
        with self._condition:
            made = action()
            self._mark += 1
            self._condition.notify_all()
            return made


def _claim(_number: int) -> None:
    """Whoever is in this process lives as long as the board."""


def _is_alive(_number: int) -> bool:
    return True
