"""The numbers of bounded collections are metrics."""

import gc
import logging
from contextlib import ExitStack

import pytest

from otel_perf.core.census import Census
from otel_perf.memory import cache_metrics
from otel_perf.memory.collection_metrics import DROPPED, LIMIT, SIZE, CollectionMetrics
from otel_perf.memory.collections import BoundedDeque, BoundedDict, BoundedSet, LimitError
from tests.memory.test_collections import ADDERS, KINDS
from tests.stored import points


@pytest.fixture
def found():
    """Read a metric: by name of the collection."""
    census = Census()
    with ExitStack() as undo:
        CollectionMetrics().install(census, undo)
        yield lambda metric: {labels["perf.collection.name"]: value for value, labels in census.read(metric)}
        undo.close()
        assert not census.read(SIZE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_size_limit_and_drops_by_name_once_each(found, kind):
    made = kind(name="mine", limit=3)
    for item in range(5):
        ADDERS[kind](made, item)
    assert (found(SIZE)["mine"], found(LIMIT)["mine"], found(DROPPED)["mine"]) == (3, 3, 2)


def test_those_of_one_name_are_summed_up_and_drops_stay_when_one_is_gone(found):
    first, second = BoundedDeque(range(5), "queue", limit=2), BoundedDeque(range(4), "queue", limit=3)
    assert (found(SIZE)["queue"], found(LIMIT)["queue"], found(DROPPED)["queue"]) == (5, 5, 4)
    del first
    gc.collect()
    assert (found(SIZE)["queue"], found(LIMIT)["queue"], found(DROPPED)["queue"]) == (3, 3, 4)
    second.append(9)
    assert found(DROPPED)["queue"] == 5
    del second
    gc.collect()
    assert (found(SIZE)["queue"], "queue" in found(LIMIT), found(DROPPED)["queue"]) == (0, False, 5)


def test_what_is_refused_is_not_dropped(found):
    made = BoundedSet([1], "refusing", limit=1, overflow="raise")
    with pytest.raises(LimitError):
        made.add(2)
    assert found(DROPPED)["refusing"] == 0


def test_names_are_limited(found, monkeypatch):
    monkeypatch.setattr(cache_metrics, "NAMES", 5)
    made = [BoundedDict(f"dictionary {number}", limit=1) for number in range(20)]
    assert len(found(SIZE)) == 6
    assert sum(found(LIMIT).values()) >= len(made)


def test_through_the_whole_pipeline(start, home):
    made = BoundedDeque(range(7), "through the pipeline", limit=4)
    pipeline = start()
    logging.getLogger("app").warning("x")  # metrics of a short life are stored once something else is
    pipeline.shutdown()
    found = {
        point.name: point.value
        for point in points(home)
        if point.attributes.get("perf.collection.name") == "through the pipeline"
    }
    assert found == {"perf.collection.size": 4, "perf.collection.limit": 4, "perf.collection.dropped": 3}
    assert len(made) == 4
