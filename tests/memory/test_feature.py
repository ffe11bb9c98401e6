"""What the memory feature tells, through the whole pipeline."""

from otel_perf.memory.singletons import Singletons
from tests.stored import logs


def test_a_closed_singleton_is_an_event(start, home):
    pipeline = start()
    registry = Singletons()
    registry._at_exit = True
    registry.register("pool", object, close=lambda _instance: None)
    registry.get("pool")
    registry.close()
    pipeline.shutdown()
    registry.get("pool")
    registry.close()  # nobody is told any more
    (event,) = [entry for entry in logs(home) if entry.event_name == "perf.singleton.closed"]
    assert event.attributes["perf.singleton.name"] == "pool"
