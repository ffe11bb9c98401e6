"""One signal's way out: what is sent next, when to try again, and what to do with what is refused.

A receiver that refuses a request (400, 500) may mean this request or all of them. So a refused batch is passed
over and the next ones are tried: when one of these is taken, the refused ones were at fault and are set aside; when
``SUSPECTS`` in a row are refused, the receiver is at fault, and all wait.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Final

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

    def next(self, outbox: Outbox) -> list[Batch]:
        """What to send now; one request."""
        batches = outbox.next(self._mark, self.signal, after=self._after, batches=GROUP_BATCHES, size=GROUP_BYTES)
        if not batches:
            self._after = 0
            if self._suspects:  # nothing is left to tell whose fault it is
                self._wait(Answer("refused", self._suspects[0][1]))
        if batches and batches[0].id <= self._alone_until:
            return batches[:1]
        return batches

    def send(self, batches: Sequence[Batch], timeout: float) -> Answer:
        """Post ``batches`` as one request."""
        if self._sender is None:
            self._sender = connect(self.destination)
        # A serialized message that follows another is merged into it by whoever reads both.
        return self._sender.send(b"".join(batch.body for batch in batches), min(timeout, self.destination.timeout))

    def accepted(self, outbox: Outbox, batches: Sequence[Batch], *, keep: bool) -> list[tuple[Batch, str]]:
        """Settle what was taken; returns the batches that were refused before and are now set aside, with reasons."""
        outbox.settle(batches, keep=keep)
        suspects, self._suspects = self._suspects, []
        for batch, reason in suspects:
            outbox.refuse([batch], reason)
        self.failures, self.until, self.error = 0, 0.0, ""
        return suspects

    def not_accepted(self, batches: Sequence[Batch], answer: Answer) -> None:
        """Decide what to try next, and when."""
        if answer.verdict != "refused":
            self._wait(answer)
        elif len(batches) > 1:
            self._alone_until = batches[-1].id
        else:
            self._suspects.append((batches[0], answer.detail))
            self._after = batches[0].id
            if len(self._suspects) >= SUSPECTS:
                self._wait(answer)

    def close(self) -> None:
        """Close the connection; the next request makes another."""
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def forget(self) -> None:
        """In a forked child: the connection is the parent's, to be neither used nor closed properly."""
        self._sender = None

    def _wait(self, answer: Answer) -> None:
        backoff = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self.failures, 10)) * random.uniform(0.8, 1.2)
        self.failures += 1
        self.until = self._clock() + max(backoff, answer.retry_after or 0.0)
        self.error = answer.detail
        self._after = 0
        self._suspects.clear()
