"""Fulfils paid orders in the background, one after the other."""

from __future__ import annotations

import logging
import queue
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from examples.shop.faults import SLOW
from examples.shop.models import Order, Session

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import httpx

LIMIT: Final = 1_000  # orders that may wait
_log = logging.getLogger("shop.worker")

_one_at_a_time = threading.Lock()


def provider_lock() -> AbstractContextManager[object]:
    """Held around each call to the provider, when somebody decided that it cannot take two at once."""
    return _one_at_a_time if SLOW.lock else nullcontext()


class Fulfilment(threading.Thread):
    """Takes orders from a bounded queue and has them shipped."""

    def __init__(self, provider: httpx.Client) -> None:
        super().__init__(name="fulfilment", daemon=True)
        self._provider = provider
        self._orders: queue.Queue[int | None] = queue.Queue(LIMIT)

    def place(self, order: int) -> bool:
        """Fulfil ``order`` some time; ``False`` if too many are waiting."""
        try:
            self._orders.put_nowait(order)
        except queue.Full:
            return False
        return True

    def stop(self, timeout: float = 5.0) -> None:
        """Fulfil what waits, for at most ``timeout`` seconds."""
        self._orders.put(None)
        self.join(timeout)
        if self.is_alive():
            _log.warning("stopped with about %d orders waiting", self._orders.qsize())

    def run(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                self._fulfil(order)
            except Exception:
                _log.exception("order %d could not be fulfilled", order)

    def _fulfil(self, number: int) -> None:
        with provider_lock():
            answer = self._provider.post(f"/shipments/{number}").raise_for_status()
        with Session.begin() as session:
            order = session.get_one(Order, number)
            order.status = answer.json()["status"]
            _log.info("order %d %s by %s", number, order.status, order.carrier)
