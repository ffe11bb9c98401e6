"""What the memory feature tells, through the whole pipeline."""

from math import inf

import pytest

from otel_perf.core import cleaning, health, strain
from otel_perf.memory import leaks, pressure
from otel_perf.memory.singletons import Singletons
from tests.e2e.support import wait_for
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


@pytest.mark.parametrize(("value", "watched"), [("on", 1), ("off", 0)])
def test_leaks_are_watched_for_or_not(start, monkeypatch, value, watched):
    made = []

    class Watch(leaks.LeakWatch):
        def __init__(self, *arguments, **options):
            made.append(self)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(leaks, "LeakWatch", Watch)
    pipeline = start(OTEL_PERF_MEMORY_LEAKS=value)
    assert len(made) == watched
    pipeline.shutdown()
    assert all(watch._bell is None for watch in made)


def test_the_sweep_of_a_large_cache_is_not_cut_short(start):
    """A million entries take more than a minute of slices: cut short, it would count as failed, and be given up."""
    pipeline = start()
    (task,) = [task for task in cleaning.tasks if task.name == "otel_perf.memory: expired entries"]
    assert task.deadline == inf
    pipeline.shutdown()
    assert task not in cleaning.tasks


@pytest.fixture
def used(monkeypatch):
    """The share of the limit that is in use, and the monitors that look at it when the test says so."""
    used, monitors = [0.1], []
    monkeypatch.setattr(pressure, "reader", lambda _limit: lambda: pressure.Usage(int(used[0] * 10**9), 10**9))

    def begin(watcher):  # no thread
        watcher._bell = None
        monitors.append(watcher._monitor)

    monkeypatch.setattr(pressure.Watcher, "start", begin)
    return used, monitors


def test_memory_pressure_is_a_matter_of_health(start, home, used):
    """GIVEN memory that gets short, and is free again THEN that is in the check's status and in three events."""
    used, monitors = used
    pipeline = start()
    (monitor,) = monitors

    def statuses():
        return [value for value, of in pipeline.census.read(health.STATUS) if of["perf.health.check"] == "memory"]

    for used[0], status in ((0.1, 0), (0.75, 0), (0.85, 1), (0.95, 2), (0.1, 0)):
        monitor.look()
        wait_for(lambda expected=[status]: statuses() == expected, timeout=2, what="the status of memory")
    pipeline.shutdown()
    assert statuses() == []
    changed = [entry.attributes for entry in logs(home) if entry.event_name == "perf.health.changed"]
    changed = [event for event in changed if event["perf.health.check"] == "memory"]
    assert [event["perf.health.status"] for event in changed] == ["degraded", "unhealthy", "healthy"]
    assert [event["perf.health.status.before"] for event in changed] == ["healthy", "degraded", "unhealthy"]


def test_critical_memory_is_strain_until_it_is_over(start, used):
    used, monitors = used
    start()
    (monitor,) = monitors
    lasted = []
    for used[0] in (0.85, 0.95, 0.85, 0.75, 0.95, 0.1):
        monitor.look()
        lasted.append(bool(strain.reason()))
    assert lasted == [False, True, True, False, True, False]  # left 10 points lower
    used[0] = 0.95
    monitor.look()
    assert strain.reason() == "memory pressure is critical, after normal: 906 MiB of 954 MiB in use"


@pytest.mark.parametrize("when", ["critical", "its last look"])
def test_turned_off_memory_is_no_strain_any_more(start, used, when):
    used, monitors = used
    pipeline = start()
    used[0] = 0.95
    if when == "critical":
        monitors[0].look()
        assert strain.reason()
    pipeline.step_down("memory", "the test")
    monitors[0].look()  # its thread was in the midst of it
    assert not strain.reason()
