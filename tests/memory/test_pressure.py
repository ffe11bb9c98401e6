"""Under pressure memory is given back in the order of what it costs the app, and what does not help is not repeated."""

import gc
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise

import pytest

from otel_perf.core.guard import Guard
from otel_perf.memory import alerts, limited, pressure
from otel_perf.memory.caches import LRUCache, TTLCache
from otel_perf.memory.pressure import LEVELS, Monitor, Usage, on_memory_pressure, sentence
from tests.bottlenecks.conftest import wait_for

LIMIT = 1_000_000_000


class Machine:
    """What is used, and the time."""

    def __init__(self):
        self.used, self.stalled, self.now = 100_000_000, 0.0, 0.0

    def read(self):
        return Usage(self.used, LIMIT, self.stalled)

    def clock(self):
        return self.now


@pytest.fixture
def machine():
    return Machine()


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Only the caches and callbacks of the test."""
    monkeypatch.setattr(limited, "stores", type(limited.stores)())
    monkeypatch.setattr(pressure, "_callbacks", [])


@pytest.fixture
def told():
    return []


@pytest.fixture
def monitor(machine, told):
    return Monitor(machine.read, told.append, machine.clock)


def at(monitor, machine, share, seconds=1.0):
    machine.used = int(share * LIMIT)
    machine.now += seconds
    return monitor.look()


def levels(told):
    return [what["level"] for what in told if what["action"] == "level"]


def actions(told):
    return [what["action"] for what in told if what["action"] != "level"]


def filled(name, entries=100, size=1_000_000, **options):
    cache = LRUCache(name, max_bytes=10**10, weigher=lambda _key, _value: size, **options)
    cache.update(dict.fromkeys(range(entries)))
    return cache


def test_levels_are_entered_and_left_ten_points_lower(monitor, machine, told):
    for share in (0.5, 0.69, 0.7, 0.65, 0.61, 0.59, 0.95, 0.85, 0.79, 0.75, 0.69, 0.65, 0.59):
        at(monitor, machine, share)
    assert levels(told) == ["moderate", "normal", "critical", "high", "moderate", "normal"]
    assert monitor.level == 0


def test_waiting_for_memory_raises_the_level_by_one(monitor, machine):
    for share, stalled, level in (
        (0.5, 0.04, 0), (0.5, 0.05, 1), (0.5, 0.14, 1), (0.75, 0.14, 1), (0.75, 0.15, 2), (0.85, 0.4, 3), (0.95, 1, 3),
    ):  # fmt: skip
        fresh = Monitor(machine.read, lambda _what: None, machine.clock)
        machine.stalled = stalled
        at(fresh, machine, share)
        assert (share, stalled, fresh.level) == (share, stalled, level)


def test_it_looks_often_only_near_the_limit(monitor, machine):
    assert at(monitor, machine, 0.3) == pressure.QUIET
    assert at(monitor, machine, 0.6) == pressure.CLOSE


def test_moderate_pressure_drops_what_has_expired_and_nothing_else(monitor, machine, told):
    cache = TTLCache("t", ttl=10, max_entries=100, clock=machine.clock)
    cache.update(dict.fromkeys(range(50)))
    other = filled("o")
    machine.now += 11
    cache["alive"] = 1
    at(monitor, machine, 0.75)
    assert (list(cache), len(other)) == (["alive"], 100)
    assert actions(told) == ["expire"]
    assert told[-1]["entries"] == 50


def test_high_pressure_halves_caches_of_the_least_priority_first_until_enough_is_free(monitor, machine, told):
    dear, cheap, middle = filled("dear", priority=5), filled("cheap", priority=-1), filled("middle")
    at(monitor, machine, 0.8)  # 200 MB over the goal of 60 %, of which these halves give 50 MB each
    assert (len(cheap), len(middle), len(dear)) == (50, 50, 50)
    machine.used = int(0.85 * LIMIT)
    for cache in (cheap, middle, dear):
        cache.update(dict.fromkeys(range(1_000)))
        assert len(cache) == 50  # no more, as long as memory is short
    at(monitor, machine, 0.5)
    cheap.update(dict.fromkeys(range(1_000)))
    assert len(cheap) == 1_000
    assert told[1]["caches"] == ("cheap", "middle", "dear")


def test_no_more_caches_are_asked_than_it_takes(monitor, machine):
    dear, cheap = filled("dear", priority=5), filled("cheap", entries=500)
    at(monitor, machine, 0.8)
    assert (len(cheap), len(dear)) == (250, 100)


def test_critical_pressure_goes_to_the_floor(monitor, machine, told):
    cache = filled("f", floor=7)
    at(monitor, machine, 0.95)
    assert len(cache) == 7
    assert actions(told)[:2] == ["shrink_caches", "shrink_caches_to_floor"]
    assert "collect" in actions(told)


def test_callbacks_are_asked_by_priority_for_what_is_missing(monitor, machine, told, absorbing):
    asked = []

    @on_memory_pressure(priority=5)
    def last(level, wanted):
        asked.append(("last", level, wanted))

    @on_memory_pressure()
    def broken(_level, _wanted):
        raise OSError

    @on_memory_pressure(priority=1)
    def first(level, wanted):
        asked.append(("first", level, wanted))
        return 150_000_000

    at(monitor, machine, 0.8)
    assert asked == [("first", "high", 200_000_000), ("last", "high", 50_000_000)]
    (event,) = [what for what in told if what["action"] == "callbacks"]
    assert event["callbacks"] == tuple(
        f"{__name__}.test_callbacks_are_asked_by_priority_for_what_is_missing.<locals>.{name}"
        for name in ("broken", "first", "last")
    )
    assert (150_000_000, {"action": "callbacks"}) in monitor.readings()


def test_what_does_not_help_is_not_repeated_soon(monitor, machine, told):
    calls = []

    @on_memory_pressure()
    def nothing(_level, _wanted):
        calls.append(machine.now)

    for _ in range(600):
        at(monitor, machine, 0.85, seconds=0.5)
    gaps = [later - earlier for earlier, later in pairwise(calls)]
    assert gaps[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(gaps) == 60
    at(monitor, machine, 0.95)
    assert calls[-1] == machine.now  # a new level is a new reason


def test_collections_take_no_more_than_a_twentieth_of_the_time(monitor, machine, monkeypatch):
    collected = []

    def collect():
        collected.append(machine.now)
        machine.now += 0.5
        return 0

    monkeypatch.setattr(gc, "collect", collect)
    cache = filled("f", entries=10**4, size=10)
    for _ in range(400):
        at(monitor, machine, 0.95, seconds=0.1)
    assert 1 <= len(collected) * 0.5 <= 0.05 * machine.now + 0.5
    assert not cache


def test_fragments_are_suspected_when_resident_memory_stays(monitor, machine, told, monkeypatch):
    trims = []
    monkeypatch.setattr(pressure, "_malloc_trim", lambda: trims.append)
    monkeypatch.setattr(pressure, "memory", lambda: (900_000_000, 0))
    cache = filled("f", entries=500)
    at(monitor, machine, 0.92)
    assert (trims, len(cache)) == ([0], 0)
    assert told[-1]["action"] == "trim"
    assert told[-1]["fragmentation_suspected"]
    assert "recycle the process" in sentence(told[-1])


def test_the_sentences_are_for_people(monitor, machine, told):
    cache = filled("products")
    at(monitor, machine, 0.8)
    assert len(cache) == 50
    assert sentence(told[0]) == "memory pressure is high, after normal: 763 MiB of 954 MiB in use"
    assert sentence(told[1]).startswith(
        "memory pressure: shrink caches (products) gave 48 MiB back in 0 ms; 763 MiB of"
    )
    assert all(what["level"] in LEVELS for what in told)


def test_a_webhook_is_told_and_one_that_is_down_is_a_warning(caplog):
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if len(got) > 1 else 204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/alert"
    try:
        alerts.post(url, {"level": "high"})
        assert wait_for(lambda: got == [{"level": "high"}], 5)
        alerts.post(url, {"level": "high"})
        assert wait_for(lambda: "was not told of memory pressure: it answered 500" in caplog.text, 5)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    alerts.post(url, {"level": "high"})
    assert wait_for(lambda: caplog.text.count("was not told") == 2, 10)
    alerts.post("nonsense", {})
    assert wait_for(lambda: "nonsense was not told" in caplog.text, 5)


def test_the_thread_ends_when_it_is_told_and_a_child_has_its_own():
    looks = []

    class Looking:
        def look(self):
            looks.append(os.getpid())
            return 0.01

    watcher = pressure.Watcher(Looking(), lambda: Guard("memory"))
    pressure.QUIET, before = 0.01, pressure.QUIET
    try:
        watcher.end()
        watcher.start()
        assert wait_for(lambda: looks, 5)
        pid = os.fork()
        if pid == 0:
            watcher.start()
            os._exit(0 if wait_for(lambda: os.getpid() in looks, 5) else 1)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        pressure.QUIET = before
        watcher.end()
    seen = len(looks)
    assert not wait_for(lambda: len(looks) > seen + 1, 0.2)


def test_callbacks_that_fail_are_the_app_s_and_turn_nothing_off(monitor, machine, told, caplog):
    """GIVEN callbacks that raise, or return nonsense WHEN memory is short for long THEN the others are asked each time."""
    asked = []

    @on_memory_pressure(priority=0)
    def wrong():  # takes no arguments
        return 0

    @on_memory_pressure(priority=1)
    def nonsense(_level, _wanted):
        return "lots"

    @on_memory_pressure(priority=2)
    def right(_level, _wanted):
        asked.append(1)

    for _ in range(30):
        at(monitor, machine, 0.85, seconds=100)
    assert len(asked) == 30
    assert "test_callbacks_that_fail" in caplog.text


def test_a_priority_that_is_no_number_is_refused_at_once():
    with pytest.raises(TypeError, match="priority='low' must be a whole number"):
        on_memory_pressure(priority="low")
    with pytest.raises(TypeError, match="priority='low' must be a whole number"):
        LRUCache("pages", max_entries=9, priority="low")
    with pytest.raises(ValueError, match="floor='50%' must be 0 or more entries"):
        LRUCache("pages", max_entries=9, floor="50%")
