"""What a board is: the place where signals stand, whoever comes late.

All boards keep one contract, and one suite of tests checks it (``tests/signals/contract.py``):

- A signal gets the next sequence number of its board, and is on the board before ``put`` returns. Numbers are in the
  order in which signals can be seen.
- What was put twice (the same ``uid``) is there once, and has the number of the first time.
- Of each scope, name and key the newest signal that can be trusted is the current one.
- A producer that ended without :meth:`Board.leave` and began another life is not trusted for its earlier ones.
- What has expired is no longer current.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from otel_perf.core.records import record

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from otel_perf.signals.signal import Producer, Signal

KEPT: Final = 100_000  # signals of a board; the oldest that are not current go first


@record
class Heard:
    """A producer, and what is known of it."""

    producer: Producer
    state: str  # "here", "left" (it said so), or "lost"
    at_ns: int  # when it last joined, emitted or left, since the epoch


@record
class Wait:
    """Somebody who waits: for which names, and which it will emit afterwards."""

    uid: str
    producer: Producer
    scope: str
    names: tuple[str, ...]
    then: tuple[str, ...]
    since_ns: int


class Board(Protocol):
    """Thread-safe. Each method may raise ``SignalError`` where the board cannot be reached."""

    place: str
    """Where it is, for people."""

    def join(self, producer: Producer) -> Producer:
        """Begin a life of ``producer``: the same with its generation."""
        ...

    def leave(self, producer: Producer) -> None:
        """End it in peace: what it has emitted stays trusted."""
        ...

    def put(self, signal: Signal) -> Signal:
        """Put ``signal``, whose producer has joined: the same with its number."""
        ...

    def current(
        self, scope: str, names: Collection[str], judge: Callable[[Signal], bool] | None = None
    ) -> Sequence[Signal]:
        """The current signals of these names, of every key; those that are not by ``judge`` are as if not there."""
        ...

    def said(self, scope: str, names: Collection[str]) -> Sequence[Signal]:
        """The newest signals of these names, of every key, trusted or not, expired or not."""
        ...

    def since(self, seq: int, limit: int = 1000) -> Sequence[Signal]:
        """Signals with higher numbers, in order, trusted or not; of all scopes."""
        ...

    def producers(self) -> Sequence[Heard]:
        """Who was heard of, the last one first."""
        ...

    def note(self, wait: Wait) -> None:
        """Let others know of a wait."""
        ...

    def forget(self, wait: Wait) -> None:
        """It is over."""
        ...

    def waits(self) -> Sequence[Wait]:
        """The waits of producers that are here."""
        ...

    def changed(self, mark: object, timeout: float) -> object:
        """Wait until something may have come since ``mark`` (``None`` at first), ``timeout`` seconds at most.

        Returns the next mark, equal to ``mark`` if nothing came. Returns early after :meth:`interrupt`.
        """
        ...

    def interrupt(self) -> None:
        """Have :meth:`changed` return."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def is_over(made_ns: int, ttl: float, now_ns: int) -> bool:
    """Whether what was made then, with this time to live, has expired."""
    return ttl > 0 and now_ns - made_ns > ttl * 1e9
