"""A leak is suspected from the course of memory, never of healthy ones, and what grows is named with its line."""

import gc
import importlib
import os
import sys
import threading
import time
import tracemalloc

import pytest

from otel_perf.core.guard import Guard
from otel_perf.memory import leak_evidence, leak_looks, leaks
from otel_perf.memory.cache_metrics import Numbers
from otel_perf.memory.leak_evidence import Evidence, Filling, Grown, gather, steady
from otel_perf.memory.leaks import Growth, LeakWatch, Trend, sentence, slope
from otel_perf.memory.pressure import Usage
from tests.bottlenecks.conftest import wait_for
from tests.memory import courses
from tests.memory.courses import HEALTHY, LIMIT, course, leak

MIB = 2**20


def alarms(make, seed):
    """When there was one (s), with what was said; until the app is killed."""
    trend, found = Trend(), []
    for second, size in course(make, seed):
        if size > LIMIT:
            break
        if trend.add(second, size * MIB):
            growth = trend.judge((LIMIT - size) * MIB)
            if growth is not None:
                found.append((second, growth))
    return found


# --- the rule ----------------------------------------------------------------------------------------


def test_there_are_twelve_healthy_patterns():
    assert len(HEALTHY) == 12


@pytest.mark.parametrize("name", HEALTHY)
def test_eight_healthy_hours_have_no_alarm(name):
    assert [seed for seed in range(6) if alarms(HEALTHY[name], seed)] == []


@pytest.mark.parametrize("beside", [None, "sawtooth_of_the_collector", "burst_each_hour", "walk_that_returns"])
@pytest.mark.parametrize(("rate", "latest"), [(1, 210), (3, 100)])
def test_a_leak_is_found_hours_or_at_least_minutes_before_the_end(rate, latest, beside):
    """With 362 MiB free, 1 MiB/min takes 6 h to the limit, 3 MiB/min 2 h."""
    for seed in range(4):
        make = leak(rate, beside=beside)
        found = alarms(make, seed)
        assert found, seed
        when, growth = found[0]
        assert (when - make.begins) / 60 < latest
        assert growth.left > 5 * 60
        if beside is None:
            assert growth.rate * 60 / MIB == pytest.approx(rate, rel=0.05)
            assert growth.left / 60 == pytest.approx((LIMIT - 150) / rate - (when - make.begins) / 60, abs=12)


def test_a_leak_in_lumps_is_found():
    for seed in range(4):
        assert alarms(leak(1, lumps=600), seed)


def test_what_ends_by_itself_is_told_by_its_slowing():
    """Towards 90 % of what is free, ever more slowly: no test for a trend would tell it from a leak."""

    def saturating(chance):
        return lambda t: 0.9 * (LIMIT - 150) * (1 - 2.718 ** (-t / 5000))

    assert not alarms(saturating, 1)
    assert alarms(leak(0.9 * (LIMIT - 150) / 5000 * 60 / 2), 1)


def test_what_was_reached_before_is_no_news():
    """GIVEN a wave of two hours that takes half of what is free THEN only its first rise may be taken for a leak."""

    def wave(chance):
        return lambda t: 180 * (t % 7200) / 7200

    assert all(second < 7200 + 1800 for second, _ in alarms(wave, 1))


def fed(values):
    trend = Trend()
    now = 0.0
    trend.add(now, 0)
    now += leaks.WARM_UP
    for value in values:
        trend.add(now, value)
        trend.add(now + 99, value + 50 * MIB)  # above the floor
        now += leaks.WINDOW
    trend.add(now, 0)
    return trend


def test_nothing_is_said_before_twenty_minutes_after_the_warm_up():
    assert fed(10 * n * MIB for n in range(11)).judge(MIB) is None
    assert fed(10 * n * MIB for n in range(12)).judge(MIB).rate == pytest.approx(0.1 * MIB)


def test_a_gap_begins_anew():
    trend = fed(10 * n * MIB for n in range(12))
    trend.add(10**6, 0)
    assert trend.judge(MIB) is None


def test_it_keeps_a_bounded_number_and_judges_quickly():
    trend = fed(range(2_000))
    assert len(trend._floors) == leaks.KEPT
    trend = fed(n * MIB for n in range(1_000))
    began = time.thread_time()
    for _ in range(20):
        assert trend.judge(200 * MIB) is not None
    assert (time.thread_time() - began) / 20 < 0.02  # it takes 1 ms


def test_the_slope_is_the_median_of_all():
    assert slope([0, 1, 2, 3, 100]) == 1
    assert slope([3, 2, 1, 0]) == -1
    assert slope([0, 1, 1]) == 0.5


# --- what grows --------------------------------------------------------------------------------------

APP = """
import json

class Session:
    __slots__ = ("user",)

    def __init__(self, user):
        self.user = user

class Book:
    def __init__(self):
        self.pages = {}

sessions, names = [], []
book = Book()

def serve(number):
    sessions.append(Session(number))      # the line of the type
    book.pages[number] = bytes(2_000)     # the line of the bytes
    names.append(str(number) * 10)
    return [Session(0) for _ in range(50)]
"""


@pytest.fixture(scope="module", autouse=True)
def only_what_is_new():
    """All that other tests of this process left behind is looked at, too, which takes ten times as long."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def app(tmp_path, monkeypatch):
    """A program that leaks, as a thread of its own; ``shop_x.serve`` is called 500 times a second."""
    (tmp_path / "leaking_shop.py").write_text(APP)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module("leaking_shop")
    ended = threading.Event()

    def work():
        number = 0
        while not ended.wait(0.002):
            module.serve(number)
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    yield module
    ended.set()
    thread.join()
    del sys.modules["leaking_shop"]


def asleep(seconds):
    time.sleep(seconds)
    return False


def at(text):
    return 1 + next(number for number, line in enumerate(APP.splitlines()) if text in line)


def test_the_type_the_line_and_the_container_of_a_leak(app):
    found = gather(asleep, dict, seconds=1.5)
    assert not tracemalloc.is_tracing()
    kind = next(one for one in found.types if one.name == "leaking_shop.Session")
    assert found.types[0] is kind
    assert 100 < kind.count < len(app.sessions)
    assert kind.size == kind.count * sys.getsizeof(app.sessions[0])
    assert leak_looks.shown(kind.place) == f"leaking_shop.py:{at('the line of the type')}"
    assert found.lines[0].name == f"leaking_shop.py:{at('the line of the bytes')}"  # which the collector does not know
    assert found.lines[0].size == pytest.approx(2_033 * kind.count, rel=0.3)
    held = {one.name: one.count for one in found.containers}
    assert set(held) == {"leaking_shop.sessions", "leaking_shop.book.pages", "leaking_shop.names"}
    words = found.words()
    assert f"leaking_shop.Session +{kind.count:,}" in words
    assert f"MB at leaking_shop.py:{at('the line of the bytes')}" in words or "kB at leaking_shop.py" in words
    assert "leaking_shop.book.pages (+" in words
    attributes = found.attributes()
    assert attributes["code.line.number"] == at("the line of the bytes")
    assert attributes["perf.memory.leak.types"][0] == "leaking_shop.Session"


def test_without_tracing_there_are_types_and_containers(app):
    found = gather(asleep, dict, seconds=1.0, trace=False)
    assert found.types[0].name == "leaking_shop.Session"
    assert (found.lines, found.types[0].place) == ([], None)
    assert found.containers


def test_the_app_s_own_tracing_is_used_and_left_on(app):
    tracemalloc.start(5)
    try:
        found = gather(asleep, dict, seconds=1.0)
        assert tracemalloc.is_tracing()
        assert tracemalloc.get_traceback_limit() == 5
        assert found.lines[0].name == f"leaking_shop.py:{at('the line of the bytes')}"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("frames", [1, 5])
def test_the_app_may_begin_to_trace_while_we_do(app, frames):
    original, started = tracemalloc.start, []

    def wait(seconds):
        if not started:
            assert tracemalloc.start is not original
            started.append(tracemalloc.start(frames))
        return asleep(seconds)

    try:
        found = gather(wait, dict, seconds=1.0)
        assert tracemalloc.is_tracing()
        assert tracemalloc.get_traceback_limit() == frames
        assert tracemalloc.start is original
        assert found.types[0].name == "leaking_shop.Session"
    finally:
        tracemalloc.stop()
    gather(asleep, dict, seconds=0.1)
    assert not tracemalloc.is_tracing()
    assert tracemalloc.start is original


def test_tracing_ends_early_where_there_is_much_to_trace(app, monkeypatch):
    monkeypatch.setattr(leak_looks, "TRACER", 20_000)
    ended = []

    def wait(seconds):
        if not tracemalloc.is_tracing():
            ended.append(time.monotonic())
        return asleep(seconds)

    found = gather(wait, dict, seconds=3.0)
    assert time.monotonic() - ended[0] > 1.5
    assert found.types[0].name == "leaking_shop.Session"


def test_an_end_is_noticed_and_stops_the_tracing(app):
    assert gather(lambda seconds: seconds > 0.1, dict, seconds=60) is None
    assert not tracemalloc.is_tracing()


def test_looking_keeps_nothing_alive_and_runs_no_code_of_the_app():
    class Odd:
        def __sizeof__(self):
            raise AssertionError

        def __getattribute__(self, name):
            raise AssertionError(name)

    class Meta(type):
        def __getattribute__(cls, name):
            if name in {"__module__", "__sizeof__"}:
                raise OSError
            return super().__getattribute__(name)

    class Strange(metaclass=Meta):
        pass

    odd, strange = Odd(), Strange()
    before = sys.getrefcount(odd), sys.getrefcount(strange)
    assert leak_looks.types(asleep)[Odd] == 1
    assert set(leak_looks.ask([Odd, Strange])) == {Odd, Strange}
    assert (sys.getrefcount(odd), sys.getrefcount(strange)) == before
    assert "Strange" in leak_looks.name_of(Strange)


def test_only_what_grew_in_both_halves_counts():
    looks = [{"a": 10, "b": 10, "c": 10}, {"a": 12, "b": 30, "c": 5, "d": 9}, {"a": 20, "b": 30, "c": 20, "d": 18}]
    assert steady(looks) == {"a": 10, "d": 18}


def test_nothing_that_grew_is_said_too():
    assert "fragmentation" in Evidence(30.0).words()


def test_the_sentence_is_for_a_person():
    evidence = Evidence(
        30.0,
        [Grown("shop.Session", 512, 24_576, ("/x/shop.py", 12))],
        [Grown("shop.py:12", size=500_000)],
        [Grown("shop.sessions", 512)],
        [Filling("shop.price", 512, 90_000, 0, float("inf"))],
    )
    said = sentence(Growth(1e6 / 60, 7200, 4 * 3600), Usage(270_000_000, 512_000_000), evidence)
    assert said == (
        "memory leak suspected: 1.0 MB/min more for 2 h 0 min, 270 MB of 512 MB in use, full in 4 h 0 min; in 30 s "
        "more objects: shop.Session +512 (24.6 kB at /x/shop.py:12); allocated and kept: 500 kB at shop.py:12; "
        "in shop.sessions (+512 entries); the cache shop.price has no limit, and 90,000 entries (+512)"
    )


# --- the watch ---------------------------------------------------------------------------------------


class Machine:
    """Time and memory."""

    def __init__(self):
        self.now, self.resident, self.rate, self.told, self.caches = 0.0, 150 * MIB, 3 * MIB / 60, [], {}

    def read(self):
        return Usage(int(self.resident), LIMIT * MIB)

    def run(self, watch, hours, until=lambda: False):
        end = self.now + hours * 3600
        while self.now < end and not until():
            self.now += 20
            self.resident += 20 * self.rate
            watch.look()
            wait_for(lambda: not watch._busy, 20)


@pytest.fixture
def machine(monkeypatch):
    found = Machine()
    monkeypatch.setattr(leaks, "memory", lambda: (int(found.resident), 0))
    monkeypatch.setattr(leak_evidence, "SECONDS", 0.05)
    return found


@pytest.fixture
def watch(machine):
    watch = LeakWatch(
        machine.read, lambda attributes, body: machine.told.append((machine.now, attributes, body)),
        lambda: Guard("memory"), lambda: dict(machine.caches), clock=lambda: machine.now,
    )  # fmt: skip
    yield watch
    watch.end()


def test_an_alarm_is_an_event_and_is_repeated_only_after_an_hour(machine, watch):
    machine.rate = 1.4 * MIB / 60
    machine.run(watch, 3.9)
    times = [when for when, _, _ in machine.told]
    assert len(times) == 2
    assert times[1] - times[0] >= 3600
    _, attributes, body = machine.told[0]
    assert attributes["perf.memory.leak.rate"] == pytest.approx(machine.rate, rel=0.01)
    assert attributes["perf.memory.leak.limit"] == LIMIT * MIB
    assert body.startswith("memory leak suspected: 1.5 MB/min more for ")


def test_a_cache_that_will_be_full_in_time_is_waited_for_once(machine, watch):
    """GIVEN a cache that fills evenly, and takes half of what is free THEN there is no alarm before it should be full."""
    asked = []

    def caches():
        asked.append(time.monotonic())
        seconds = machine.now + asked[-1] - asked[0]  # a look takes true seconds, of which the machine knows nothing
        return {"pages": Numbers(size=min(int(seconds * 10_000), 59_000_000), limit=60_000_000)}

    watch._caches = caches
    machine.run(watch, 2, until=lambda: asked)
    assert asked
    assert machine.told == []
    assert machine.now < watch._quiet < machine.now + 3600
    machine.run(watch, 1, until=lambda: machine.told)
    assert len(machine.told) == 1
    assert machine.resident < 0.95 * LIMIT * MIB


def test_near_the_limit_nothing_is_looked_into(machine, watch):
    machine.resident, machine.rate = 440 * MIB, MIB / 60
    machine.run(watch, 0.9)
    ((_, attributes, body),) = machine.told
    assert "perf.memory.leak.observed" not in attributes
    assert body.endswith("what grows could not be looked into")


def test_the_end_and_a_fork_stop_the_tracing(machine, watch, monkeypatch):
    monkeypatch.setattr(leak_evidence, "SECONDS", 60.0)
    machine.run(watch, 0.4)
    watch._trend = fed(20 * n * MIB for n in range(12))
    watch._trend._last, watch._trend._floor = machine.now, float("inf")
    watch._trend._opens = machine.now - 90
    watch._due = 0.0
    machine.now += 20
    watch.look()
    assert wait_for(tracemalloc.is_tracing, 5)
    pid = os.fork()
    if pid == 0:
        watch.start()
        os._exit(1 if tracemalloc.is_tracing() or watch._trend._floors or watch._busy else 0)
    assert os.waitpid(pid, 0)[1] == 0
    assert tracemalloc.is_tracing()
    watch.end()
    assert not tracemalloc.is_tracing()
    machine.now += 1000
    watch.look()
    gc.collect()
    assert machine.told == []


def test_an_error_of_ours_stays_with_us(machine, watch, absorbing):
    guard = Guard("memory")
    watch._guard = lambda: guard

    def broken():
        raise OSError("no")

    watch._caches = broken
    machine.run(watch, 1.5, until=lambda: guard.errors)
    assert guard.errors
    assert not watch._busy
    assert not tracemalloc.is_tracing()


def test_the_courses_are_as_they_say():
    for make in HEALTHY.values():
        assert all(courses.START - 50 <= size < LIMIT for _, size in course(make, 1))
