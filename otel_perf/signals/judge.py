"""Which signals count: those with the right mark. What has it not is as if it were not there."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from otel_perf.signals.signal import is_genuine, sealed

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.signals.signal import Signal

KNOWN: Final = 10_000  # uids of refused signals, each of which is told once


class Judge:
    """Seals, and judges. A mark says who emitted a signal, and not when: whoever may write may put it there again.

    Thread-safe; judging takes no lock and calls nobody, so that a board may ask in the midst of something.
    """

    def __init__(self, secret: bytes = b"", refused: Callable[[Signal], None] = lambda _signal: None) -> None:
        self._secret = secret
        self._refused = refused
        self._known: set[str] = set()
        self._untold: deque[Signal] = deque(maxlen=KNOWN)

    def __call__(self, signal: Signal) -> bool:
        """Whether it counts."""
        if not self._secret or is_genuine(signal, self._secret):
            return True
        if signal.uid not in self._known:
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known.add(signal.uid)
            self._untold.append(signal)
        return False

    @property
    def judges(self) -> bool:
        """Whether there are marks at all."""
        return bool(self._secret)

    def seal(self, signal: Signal) -> Signal:
        """``signal`` with its mark."""
        return sealed(signal, self._secret) if self._secret else signal

    def tell(self) -> None:
        """Tell of those that were refused since."""
        while self._untold:
            try:
                signal = self._untold.popleft()
            except IndexError:  # another thread tells
                return
            self._refused(signal)
