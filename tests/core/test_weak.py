"""Weak collections are read while other threads add to them, and while they import what has them."""

import sys
from types import ModuleType

import pytest

from otel_perf import memory
from otel_perf.core.weak import alive_in
from otel_perf.memory import limited, pressure
from otel_perf.memory.caches import LRUCache
from otel_perf.memory.collection_metrics import CollectionMetrics
from otel_perf.memory.found import functions

READERS = {
    "pressure": pressure._caches,
    "expired entries": lambda: list(memory.expired()),
    "dead instances": lambda: list(memory.dead()),
    "metrics of caches": functions.own,
    "metrics of collections": lambda: CollectionMetrics()._collections(),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "there", [None, ModuleType("otel_perf.memory.limited")], ids=["not imported", "being imported"]
)
def test_what_is_not_wholly_imported_has_nothing(reader, there, monkeypatch):
    """GIVEN a thread that imports the caches for the first time WHEN one of ours looks THEN it finds none, and goes on."""
    for name in ("limited", "cached", "collections"):
        monkeypatch.setitem(sys.modules, f"otel_perf.memory.{name}", there)
    monkeypatch.setattr(functions, "_own", type(functions._own)())
    assert READERS[reader]() == []


def test_what_is_imported_has_those_that_are_alive():
    cache = LRUCache("alive", max_entries=10)
    there = alive_in("otel_perf.memory.limited", "stores")
    assert set(there) == set(limited.stores)
    assert "alive" in {store.name for store in there}
    del cache
