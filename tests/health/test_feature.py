"""The feature through the whole pipeline: its own checks, those of others, what it emits, on and off."""

import asyncio
import json
import sqlite3
import threading
import urllib.error
import urllib.request

import pytest
from opentelemetry import trace

import otel_perf as perf
from otel_perf.core import cleaning, finishing, health
from otel_perf.core.home import HOME_VARIABLE, Home
from otel_perf.health import files, present
from otel_perf.memory.singletons import singletons
from otel_perf.store import database, drain
from tests.e2e.support import free_port, listens, wait_for
from tests.store.receiver import Receiver
from tests.stored import events, points
from tests.test_pipeline import flags

OWN = {"cleanup", "delivery", "disk", "eventloop", "eventloop.stuck", "memory", "signals", "singletons", "store"}


@pytest.fixture(autouse=True)
def _checks_of_the_test(monkeypatch):
    monkeypatch.setattr(health, "checks", [])


def status(name):
    found = {check["name"]: check for check in perf.health.status()["checks"]}
    return found.get(name, {"status": "missing"})["status"]


def reason(name):
    return next(check["reason"] for check in perf.health.status()["checks"] if check["name"] == name)


def becomes(name, word, timeout=3):
    wait_for(lambda: status(name) == word, timeout=timeout, what=f"{name} is {word}")


def ask(port, probe):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{probe}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_what_is_checked_without_a_word_of_the_app(start):
    start()
    wait_for(lambda: {check["name"] for check in perf.health.status()["checks"]} == OWN, what="all are registered")
    wait_for(lambda: perf.health.status()["status"] == "healthy", what="all is well")
    assert {check["name"] for check in perf.health.status()["checks"] if check["critical"]} == {"eventloop"}
    assert {check["name"] for check in perf.health.status()["checks"] if check["live"]} == {"eventloop.stuck"}
    wait_for(lambda: perf.health.status()["started"])


def test_a_change_is_an_event_and_the_status_a_metric(start, home):
    answers = ["healthy"]
    pipeline = start()
    perf.health.check("db", every=0.05)(lambda: answers[-1])
    becomes("db", "healthy")
    answers.append(("degraded", "it is slow"))
    becomes("db", "degraded")
    wait_for(lambda: {status(name) for name in OWN} == {"healthy"}, what="all have been asked")
    pipeline.shutdown()
    (event,) = [event for event in events(home, "perf.health.changed") if event.attributes["perf.health.check"] == "db"]
    assert event.body == "db: degraded, it is slow"
    assert event.severity_text == "WARN"
    assert event.attributes == {
        "perf.health.check": "db", "perf.health.status": "degraded", "perf.health.status.before": "healthy",
        "perf.health.critical": False,
    }  # fmt: skip
    found = {
        point.attributes["perf.health.check"]: point.value
        for point in points(home)
        if point.name == "perf.health.status"
    }
    assert found == {**dict.fromkeys(OWN, 0), "db": 1}


def test_a_secret_in_what_a_check_says_is_hidden(start):
    def db():
        raise ConnectionError("no route: postgres://shop:hunter2@db/shop password=hunter2")

    start()
    perf.health.check("db", critical=True)(db)
    becomes("db", "unhealthy")
    assert "no route" in reason("db")
    assert "hunter2" not in json.dumps(perf.health.status())


def test_the_operator_says_what_is_critical(start):
    start(OTEL_PERF_HEALTH_CRITICAL="db , eventloop")
    perf.health.check("db")(lambda: False)
    becomes("db", "unhealthy")
    assert not perf.health.status()["ready"]


def test_it_is_turned_on_and_off_while_the_program_runs(start, home, tmp_path):
    path, port = tmp_path / "flags.json", free_port()
    original = asyncio.events._set_running_loop
    perf.health.check("db", critical=True)(lambda: False)
    flags(path, health=True)
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(path), OTEL_PERF_HEALTH_PORT=str(port))
    for _ in range(2):
        wait_for(lambda: ask(port, "readyz")[0] == 503, what="the check has failed")
        wait_for(lambda: len(files.read(Home({HOME_VARIABLE: str(home)}))) == 1, what="the file is there")
        assert not perf.health.status()["ready"]
        flags(path, health=False)
        pipeline.reload()
        pipeline.reload()
        assert perf.health.status()["ready"]
        assert not listens(port)
        assert files.read(Home({HOME_VARIABLE: str(home)})) == []
        assert (health.changed, present.running, finishing.app_loop) == ([], [], [])
        assert asyncio.events._set_running_loop is original
        flags(path, health=True)
        pipeline.reload()
    pipeline.shutdown()
    assert {check.name for check in health.checks} == {"db"}


def test_a_flush_takes_the_file_away_since_the_process_may_end(start, home):
    place = Home({HOME_VARIABLE: str(home)})
    pipeline = start()
    wait_for(lambda: files.read(place))
    pipeline.flush()
    assert files.read(place) == []


def test_a_check_that_hangs_does_not_hold_up_the_end(start):
    release, asked = threading.Event(), threading.Event()

    def hang():
        asked.set()
        release.wait(20)

    pipeline = start()
    perf.health.check("hangs", timeout=10)(hang)
    assert asked.wait(5)
    pipeline.shutdown()
    assert not release.is_set()
    release.set()


def test_a_receiver_that_goes_away_and_comes_back(start, monkeypatch):
    for name in ("START", "IDLE"):
        monkeypatch.setattr(drain, name, 0.05)
    receiver, answers = Receiver(), []
    receiver.answer = lambda *_: (answers[-1] if answers else 200, {}, b"")
    with receiver.running():
        start(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_PERF_STORE_DELAY="50ms", OTEL_METRICS_EXPORTER="none")
        trace.get_tracer("t").start_span("sent").end()
        wait_for(lambda: receiver.requests, what="it is sent")
        assert status("delivery") == "healthy"
        answers.append(503)
        trace.get_tracer("t").start_span("waits").end()
        becomes("delivery", "degraded", timeout=2)
        assert receiver.url.removeprefix("http://") in reason("delivery")
        assert "503" in reason("delivery")
        assert perf.health.status()["ready"]
        answers.append(200)
        becomes("delivery", "healthy", timeout=20)


def test_a_store_that_is_nearly_full_of_what_waits(start, monkeypatch):
    monkeypatch.setattr("otel_perf.store.checks.FULL", 0.01)
    monkeypatch.setattr(drain, "START", 0.05)
    start(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", OTEL_PERF_STORE_DELAY="50ms", OTEL_PERF_STORE_LIMIT="1MB")
    trace.get_tracer("t").start_span("waits").end()
    becomes("store", "degraded", timeout=5)
    assert "the oldest of what waits is dropped next" in reason("store")


def test_a_store_that_cannot_be_written(start, monkeypatch):
    def fail(*_arguments):
        raise sqlite3.OperationalError("disk I/O error")

    start(OTEL_PERF_STORE_DELAY="50ms")
    append = database.Database.append
    monkeypatch.setattr(database.Database, "append", fail)
    trace.get_tracer("t").start_span("lost").end()
    becomes("store", "unhealthy")
    assert reason("store") == "the store cannot be written: disk I/O error"
    monkeypatch.setattr(database.Database, "append", append)
    trace.get_tracer_provider().force_flush()
    becomes("store", "healthy")


def test_what_is_lost_counts_for_a_while(start, monkeypatch):
    monkeypatch.setattr("otel_perf.store.checks.RECENT", 1.0)
    pipeline = start()
    becomes("store", "healthy")
    pipeline.features["store"].feature.writer.count_dropped("traces", 3)
    becomes("store", "unhealthy")
    assert reason("store") == "items were lost, 3 so far; see perf.store.dropped"
    becomes("store", "healthy")


def test_a_cleanup_task_that_fails(start):
    start()
    remove = cleaning.register("sweep", lambda: 1 / 0, 0.01)
    becomes("cleanup", "degraded", timeout=5)
    assert reason("cleanup") in {"sweep fails", "sweep is not run again"}
    remove()
    becomes("cleanup", "healthy", timeout=5)


class Pool:
    well = True

    def ping(self):
        return Pool.well

    async def aping(self):
        self.loop = asyncio.get_running_loop()
        return Pool.well


@pytest.mark.parametrize("ping", ["ping", "aping"])
def test_a_singleton_whose_ping_fails(start, monkeypatch, ping):
    monkeypatch.setattr("otel_perf.memory.checks.PING_EVERY", 0.05)
    monkeypatch.setattr(Pool, "well", True)
    start()
    singletons.register(Pool, ping=ping)
    try:

        async def app():
            pool = singletons.get(Pool)
            await asyncio.to_thread(becomes, "singletons", "healthy")
            Pool.well = False
            await asyncio.to_thread(becomes, "singletons", "unhealthy")
            return ping == "ping" or pool.loop is asyncio.get_running_loop()

        assert asyncio.run(app())
        assert "the ping of Pool returned False" in reason("singletons")
    finally:
        singletons.unregister(Pool)


@pytest.mark.parametrize(("wanted", "word"), [("1000000GB", "unhealthy"), ("1", "healthy")])
def test_room_on_the_disk(start, wanted, word):
    start(OTEL_PERF_HEALTH_DISK=wanted)
    becomes("disk", word)
    assert ("MB are free on the disk of" in reason("disk")) == (word == "unhealthy")


def test_an_asynchronous_check_runs_in_the_apps_loop(start):
    start()
    seen = []

    async def app():
        @perf.health.check("db", every=0.05)
        async def db():
            seen.append(asyncio.get_running_loop())

        await asyncio.to_thread(becomes, "db", "healthy")
        return asyncio.get_running_loop()

    assert asyncio.run(app()) is seen[0]
    before = len(seen)
    wait_for(lambda: len(seen) > before + 2, what="it is asked where no loop runs, too")
    becomes("db", "healthy")
