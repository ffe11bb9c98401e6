"""The numbers of every bounded collection as metrics, read when metrics are collected.

Collections of one name are summed up, and what one had dropped stays counted when it is gone.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.census import Metric
from otel_perf.memory.cache_metrics import CacheMetrics, Numbers

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

    from otel_perf.core.census import Census

SIZE: Final = Metric("perf.collection.size", "{item}", "gauge", "Items in the bounded collection")
LIMIT: Final = Metric("perf.collection.limit", "{item}", "gauge", "Items that may be in the bounded collection")
DROPPED: Final = Metric("perf.collection.dropped", "{item}", "counter", "Items dropped for room, by collection")


class Collection:
    """A bounded collection of ours."""

    def __init__(self, collection: Any) -> None:
        self.reference = weakref.ref(collection)
        self.name = collection.name

    def numbers(self) -> Numbers | None:
        """As :meth:`~otel_perf.memory.cache_metrics.Watched.numbers`."""
        made = self.reference()
        return None if made is None else Numbers(evictions=made.dropped, size=len(made), limit=made.limit)


class CollectionMetrics(CacheMetrics):
    """Sums up the collections of ours."""

    def __init__(self) -> None:
        super().__init__((self._collections,))
        self._known: dict[int, Collection] = {}  # by id(): a dictionary cannot be a key

    def _collections(self) -> Iterable[Collection]:
        # Without it while the module is imported by another thread, too.
        bounded = getattr(sys.modules.get("otel_perf.memory.collections"), "bounded", None)
        there = [] if bounded is None else [made for one in bounded.valuerefs() if (made := one()) is not None]
        known = self._known
        self._known = {
            id(made): found if (found := known.get(id(made))) and found.reference() is made else Collection(made)
            for made in there
        }
        return list(self._known.values())

    def install(self, census: Census, undo: ExitStack) -> None:
        """Report all of them until the undo."""
        self.report(census, undo, SIZE, "perf.collection.name", lambda numbers: numbers.size)
        self.report(census, undo, LIMIT, "perf.collection.name", lambda numbers: numbers.limit or None)
        self.report(census, undo, DROPPED, "perf.collection.name", lambda numbers: numbers.evictions)
