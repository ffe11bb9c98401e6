"""One signal's way out: what is sent next, when to try again, and what to do with what is refused.

A receiver that refuses a request (400, 500) may mean this request or all of them. So a refused batch is passed
over and the next ones are tried: when one of these is taken, the refused ones were at fault and are set aside. When
``SUSPECTS`` in a row are refused, all wait, and each time the oldest is tried again, which keeps the order if the
receiver was at fault, and one more: once that is taken, those before it are set aside if they are refused again. One
that is too large is set aside at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from otel_perf.core.chance import chance
from otel_perf.store.sender import Answer, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_perf.store.database import Batch
    from otel_perf.store.destination import Destination
    from otel_perf.store.outbox import Outbox
    from otel_perf.store.sender import Sender

GROUP_BATCHES: Final = 16
GROUP_BYTES: Final = 512 * 1024  # of batches that go out as one request; receivers take 4 MiB and more
SUSPECTS: Final = 8
FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 30.0  # seconds; doubled each time, ±20 %


class Route:
    """The sending of one signal to one destination. Used by the drain's thread alone."""

    def __init__(self, destination: Destination, mark: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.destination = destination
        self.signal = destination.signal
        self.until = 0.0  # by the clock: nothing is sent before
        self.failures = 0
        self.error = ""  # why it does not go on, empty if it does
        self._mark = mark
        self._clock = clock
        self._sender: Sender | None = None
        self._after = 0  # batches up to this id were sent or passed over
        self._alone_until = 0  # batches up to this id go one by one: together they were refused
        self._suspects: list[tuple[Batch, str]] = []
        self._refused_until = 0  # so many in a row were refused, up to this id, that it may be the receiver's fault
        self._guilty_until = 0  # a batch up to this id that is refused is itself at fault: a later one was taken
        self._taken: list[Batch] = []  # by the receiver, and still in the store

    def next(self, outbox: Outbox, *, keep: bool) -> list[Batch]:
        """What to send now; one request."""
        self.settle(outbox, keep=keep)
        batches = outbox.next(self._mark, self.signal, after=self._after, batches=GROUP_BATCHES, size=GROUP_BYTES)
        if not batches:
            if self._suspects or (self._refused_until and self._after):  # nothing is left to tell whose fault it is
                self._wait(Answer("refused", self._suspects[0][1] if self._suspects else self.error))
            self._after = 0
        if batches and (self._refused_until or batches[0].id <= max(self._alone_until, self._guilty_until)):
            return batches[:1]
        return batches

    def connect(self) -> None:
        """Make the sender. What it imports must not be under way when the process forks."""
        if self._sender is None:
            self._sender = connect(self.destination)

    def pack(self, batches: Sequence[Batch], rest: Callable[[], None]) -> bytes:
        """``batches`` as one request; ``rest`` is called each time that a little was done for it."""
        assert self._sender is not None
        # A serialized message that follows another is merged into it by whoever reads both.
        return self._sender.pack(b"".join(batch.body for batch in batches), rest)

    def send(self, payload: bytes, timeout: float) -> Answer:
        """Post a request."""
        assert self._sender is not None
        return self._sender.send(payload, min(timeout, self.destination.timeout))

    def accepted(self, batches: Sequence[Batch]) -> list[tuple[Batch, str]]:
        """Note what was taken; returns the batches that were refused before and are at fault, with reasons."""
        self._taken += batches
        self._after = batches[-1].id
        guilty, self._suspects = self._suspects, []
        self.failures, self.until, self.error = 0, 0.0, ""
        if batches[0].id > self._refused_until > 0:  # the receiver takes this one: look at those again, one by one
            self._guilty_until, self._after = batches[-1].id, 0
        self._refused_until = 0
        return guilty

    def settle(self, outbox: Outbox, *, keep: bool) -> None:
        """Take out of the store what was taken. While that fails (a full disk) nothing more is sent, and none twice."""
        if self._taken:
            outbox.settle(self._taken, keep=keep)
            self._taken = []

    def not_accepted(self, batches: Sequence[Batch], answer: Answer) -> list[tuple[Batch, str]]:
        """Decide what to try next, and when; returns batches that are at fault, with reasons."""
        if answer.verdict not in {"refused", "too large"}:
            self._wait(answer)
        elif len(batches) > 1:
            self._alone_until = batches[-1].id
        else:
            return self._refused(batches[0], answer)
        return []

    def _refused(self, batch: Batch, answer: Answer) -> list[tuple[Batch, str]]:
        self._after = batch.id
        if answer.verdict == "too large" or batch.id <= self._guilty_until:
            return [(batch, answer.detail)]
        if batch.id <= self._refused_until:  # the oldest, still: try the first one that was not tried yet
            self._after = self._refused_until
            return []
        self._suspects.append((batch, answer.detail))
        if self._refused_until or len(self._suspects) >= SUSPECTS:
            self._wait(answer, refused_until=batch.id)
        return []

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def forget(self) -> None:
        """In a forked child: the connection is the parent's, to be neither used nor closed properly."""
        self._sender = None

    def _wait(self, answer: Answer, *, refused_until: int = 0) -> None:
        backoff = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self.failures, 10)) * chance.uniform(0.8, 1.2)
        self.failures += 1
        self.until = self._clock() + max(backoff, answer.retry_after or 0.0)
        self.error = answer.detail
        self._suspects.clear()
        self._after, self._refused_until = 0, refused_until
