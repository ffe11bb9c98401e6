"""Caches and what was done about memory, as rows of the report."""

from otel_perf.analysis.memory import Memory
from otel_perf.analysis.otlp import LogEntry, Point
from otel_perf.cli import sections, text


def point(name, value, *, cache="pages", instance="a", service="shop", delta=False, time=0, start=0):
    resource = {"service.name": service, "service.instance.id": instance}
    attributes = {"perf.cache.name": cache}
    times = {"start": int(start * 1e9)}
    return Point(name, "1", int(time * 1e9), value, 0, attributes, "otel_perf", resource, delta, **times)


def event(name, body, time, service="shop", **attributes):
    return LogEntry("", "", time, 9, "INFO", body, name, attributes, "otel_perf", {"service.name": service})


def test_the_processes_of_a_service_are_summed_up_by_their_last_readings():
    memory = Memory()
    for value in (1, 5):
        memory.add_point(point("perf.cache.hits", value))
    memory.add_point(point("perf.cache.hits", 10, instance="b"))
    memory.add_point(point("perf.cache.misses", 2))
    memory.add_point(point("perf.cache.size", 3))
    memory.add_point(point("perf.cache.limit", 100))
    (cache,) = memory.caches()
    assert (cache.service, cache.name) == ("shop", "pages")
    assert (cache.hits, cache.misses, cache.evictions, cache.size, cache.limit) == (15, 2, None, 3, 100)


def test_the_size_of_a_cache_is_that_of_the_processes_that_there_are():
    """GIVEN a run of an hour ago, a worker that was replaced, and two that live THEN all have hits, and the two a size."""
    memory = Memory()
    for instance, start, time in (("old", 1, 50), ("gone", 3600, 3700), ("a", 3600, 4200), ("b", 3700, 4230)):
        memory.add_point(point("perf.cache.hits", 10, instance=instance, time=time, start=start))
        memory.add_point(point("perf.cache.size", 3, instance=instance, time=time))
        memory.add_point(point("perf.cache.limit", 100, instance=instance, time=time))
    (cache,) = memory.caches()
    assert (cache.hits, cache.size, cache.limit) == (40, 6, 200)


def test_deltas_are_added_up():
    memory = Memory()
    for value in (1, 5):
        memory.add_point(point("perf.cache.misses", value, delta=True))
    (cache,) = memory.caches()
    assert cache.misses == 6


def test_the_cpu_time_of_deltas_is_added_up():
    """GIVEN OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta THEN a process has all of its CPU time."""
    memory = Memory()
    for value in (1, 5):
        memory.add_point(point("process.cpu.time", value, delta=True))
        memory.add_point(point("cpython.gc.collections", value, delta=True))
    (process,) = memory.processes()
    assert (process.cpu, process.gc_collections) == (6, 6)


def test_those_with_the_most_misses_come_first_and_the_unused_last():
    memory = Memory()
    for name, hits, misses in (("idle", 0, 0), ("good", 90, 10), ("bad", 5, 95)):
        memory.add_point(point("perf.cache.hits", hits, cache=name))
        memory.add_point(point("perf.cache.misses", misses, cache=name))
    assert [cache.name for cache in memory.caches()] == ["bad", "good", "idle"]


def test_of_each_kind_of_event_the_last_one_is_shown():
    memory = Memory()
    memory.add_log(event("perf.memory.pressure", "high", 2))
    memory.add_log(event("perf.memory.pressure", "normal again", 5))
    memory.add_log(event("perf.memory.pressure", "moderate", 1))
    memory.add_log(event("perf.memory.leak_suspected", "a leak", 7))
    memory.add_log(event("order.placed", "no matter", 9))
    memory.add_log(event("perf.health.changed", "db: unhealthy", 9, **{"perf.health.check": "db"}))
    memory.add_log(event("perf.health.changed", "memory: degraded", 2, **{"perf.health.check": "memory"}))
    assert [(found.event, found.count, found.last) for found in memory.events()] == [
        ("perf.memory.leak_suspected", 1, "a leak"),
        ("perf.memory.pressure", 3, "normal again"),
        ("perf.health.changed", 1, "memory: degraded"),
    ]


def test_features_that_stepped_down_by_themselves_are_shown_and_flips_are_not():
    memory = Memory()
    for time, state in enumerate(("stepped down", "back", "off", "installed")):
        memory.add_log(event("perf.feature.changed", f"bottlenecks {state}", time, **{"perf.feature.state": state}))
    assert [(found.count, found.last) for found in memory.events()] == [(2, "bottlenecks back")]


class Shown:
    """What the text needs of a report."""

    def __init__(self, memory):
        self.caches, self.memory = memory.caches(), memory.events()


def test_the_text_says_what_is_unknown_by_saying_nothing():
    memory = Memory()
    memory.add_point(point("perf.cache.hits", 3, cache="redis.localhost:6379/0"))
    memory.add_point(point("perf.cache.misses", 1, cache="redis.localhost:6379/0"))
    memory.add_point(point("perf.cache.hits", 0, cache="idle"))
    memory.add_log(event("perf.memory.pressure", "high", 2))
    memory.add_log(event("perf.memory.pressure", "normal again", 5))
    (section,) = sections._caches(Shown(memory))
    caches = "\n".join(text.lines_of(section))
    assert "redis.localhost:6379/0      75.0%     3       1" in caches
    assert "unused" in caches
    assert sections._memory_events(Shown(memory))[0].after == ["perf.memory.pressure (2 of them): normal again"]
    assert sections._caches(Shown(Memory())) == sections._memory_events(Shown(Memory())) == []
