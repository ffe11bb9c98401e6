"""Looks for an OTLP receiver on this machine, for programs that name no endpoint (``docker compose up`` is enough)."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from otel_perf.store.destination import resolve
from otel_perf.store.sender import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_perf.store.destination import Destination

FIRST_WAIT, LONGEST_WAIT = 2.0, 30.0  # seconds between looks
TIMEOUT: Final = 0.5  # seconds; a receiver on this machine answers at once
_SIGNALS: Final = ("traces", "metrics", "logs")


class LocalReceiver:
    """Finds the receiver, and remembers where it is. A look where nobody listens costs about 0.1 ms."""

    def __init__(self, environ: Mapping[str, str], found: Callable[[str], None]) -> None:
        self.destinations: list[Destination] = []
        self._environ = environ
        self._found = found
        self._next = 0.0
        self._wait = FIRST_WAIT

    def find(self) -> bool:
        """Whether a receiver answers. Looks again only after a while."""
        if self.destinations:
            return True
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._wait
        self._wait = min(LONGEST_WAIT, self._wait * 2)
        resolved = [resolve(self._environ, signal, _say_nothing, local=True) for signal in _SIGNALS]
        destinations = [destination for destination in resolved if destination is not None]
        if not destinations or not self._listens(destinations[0].url) or not _answers(destinations[0]):
            return False
        self.destinations = destinations
        parts = urlsplit(destinations[0].url)
        self._found(f"{parts.scheme}://{parts.netloc}")
        return True

    def _listens(self, url: str) -> bool:
        parts = urlsplit(url)
        try:
            socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT).close()
        except OSError:
            return False
        return True


def _answers(destination: Destination) -> bool:
    """Whether an empty request is taken: what listens there may be something else."""
    sender = connect(destination)
    try:
        return sender.send(sender.pack(b""), TIMEOUT).verdict == "accepted"
    finally:
        sender.close()


def _say_nothing(_line: str) -> None:
    """What is wrong with the variables was said when the program started."""
