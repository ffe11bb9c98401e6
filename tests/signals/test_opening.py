"""A server that comes after those who wait on it; and what is said when a program ends."""

import asyncio
import threading
import time

import pytest

from otel_perf.core.errors import SignalError, SignalTimeoutError
from otel_perf.core.sequence import Answer
from otel_perf.signals import mirror, nats_link, opening
from otel_perf.signals.api import Signals
from tests.e2e.support import wait_for
from tests.signals import nats_server
from tests.signals.nats_server import NatsServer


@pytest.fixture
def server(tmp_path):
    """One that is not there yet."""
    made = NatsServer(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def signals_of():
    opened = []

    def make(**environ):
        opened.append(Signals({"OTEL_SERVICE_NAME": "shop", **environ}))
        return opened[-1]

    yield make
    for signals in opened:
        signals.close()


@pytest.fixture
def impatient(monkeypatch):
    """Attempts are short; set once one has failed."""
    failed, judged = threading.Event(), opening._Patience.failed

    def fail(patience, error):
        judged(patience, error)
        failed.set()

    monkeypatch.setattr(opening, "LEAST", 0.3)
    monkeypatch.setattr(opening, "MOST", 0.3)
    monkeypatch.setattr(opening._Patience, "failed", fail)
    return failed


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_server_that_comes_later_is_waited_for(server, signals_of, impatient, asynchronous):
    """GIVEN no server WHEN it comes after an attempt has failed, within the timeout THEN the wait ends with the signal."""
    waits, emits = signals_of(OTEL_PERF_SIGNALS_URL=server.url), signals_of(OTEL_PERF_SIGNALS_URL=server.url)
    before = threading.active_count()

    def come():
        impatient.wait()
        server.start()
        emits.emit("DB_READY")

    coming = threading.Thread(target=come)
    coming.start()
    try:
        if asynchronous:
            found = asyncio.run(waits.wait("DB_READY", timeout=60))
        else:
            found = waits.wait_sync("DB_READY", timeout=60)
    finally:
        impatient.set()
        coming.join()
    assert found["DB_READY"].ready
    for signals in (waits, emits):
        signals.close()
    wait_for(lambda: threading.active_count() <= before, what="no attempt leaves a thread")


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_server_that_went_away_is_waited_for_as_well(server, signals_of, monkeypatch, asynchronous):
    """GIVEN a board that is known, whose server is away for longer than an operation THEN a wait lasts until it is back."""
    monkeypatch.setattr(nats_link, "PATIENCE", 0.3)
    waits, emits = signals_of(OTEL_PERF_SIGNALS_URL=server.url), signals_of(OTEL_PERF_SIGNALS_URL=server.url)
    server.start()
    emits.emit("OTHER")
    assert waits.wait_sync("OTHER", timeout=60)["OTHER"].ready
    server.stop()
    with pytest.raises(SignalError):  # without a timeout as any other call
        waits.wait_sync("DB_READY")

    def wait(timeout):
        if asynchronous:
            return asyncio.run(waits.wait("DB_READY", timeout=timeout))
        return waits.wait_sync("DB_READY", timeout=timeout)

    with pytest.raises(SignalTimeoutError, match=f"after 0.5 s: .*{server.address}") as caught:
        wait(0.5)
    assert caught.value.missing == ("DB_READY",)

    def come():
        time.sleep(1.5)
        server.start()
        monkeypatch.setattr(nats_link, "PATIENCE", 5.0)
        emits.emit("DB_READY")

    coming = threading.Thread(target=come)
    coming.start()
    try:
        found = wait(60)
    finally:
        coming.join()
    assert found["DB_READY"].ready


def test_one_that_does_not_come_is_a_timeout_that_says_so(server, signals_of):
    with pytest.raises(SignalTimeoutError, match=f"after 0.1 s: .*{server.address}") as caught:
        signals_of(OTEL_PERF_SIGNALS_URL=server.url).wait_sync("DB_READY", timeout=0.1)
    assert caught.value.missing == ("DB_READY",)


def test_without_a_timeout_it_is_an_error(server, signals_of, monkeypatch):
    monkeypatch.setattr(nats_link, "PATIENCE", 0.3)
    with pytest.raises(SignalError) as caught:
        signals_of(OTEL_PERF_SIGNALS_URL=server.url).wait_sync("DB_READY")
    assert not isinstance(caught.value, SignalTimeoutError)


def test_one_that_lets_nobody_in_is_told_at_once(tmp_path, signals_of, impatient):
    """However long the timeout is: waiting does not mend a password."""
    with (
        nats_server.running(tmp_path, "--user", "shop", "--pass", "right") as server,
        pytest.raises(SignalError, match="uthorization") as caught,
    ):
        signals_of(OTEL_PERF_SIGNALS_URL=f"nats://shop:wrong@{server.address}").wait_sync("DB_READY", timeout=600)
    assert not isinstance(caught.value, SignalTimeoutError)
    assert not impatient.is_set()


def test_who_has_left_begins_no_other_life_for_the_starts_signals(home, signals_of):
    """GIVEN a program that has emitted and ends WHEN the thread of the start's signals is late THEN they are left out."""
    signals = signals_of(OTEL_PERF_HOME=str(home))
    signals.emit("T0")
    signals.leave()
    signals.say([Answer("ERROR_HANDLING_READY", "")], alone=True)
    reader = signals_of(OTEL_PERF_HOME=str(home))
    assert [(signal.name, signal.producer.generation) for signal in reader.since()] == [("T0", 1)]


def test_a_key_that_was_forgotten_is_named(home, signals_of):
    signals = signals_of(OTEL_PERF_HOME=str(home))
    for key in ("web", "cache"):
        signals.emit("STARTED", key=key)
    with pytest.raises(SignalTimeoutError, match="emitted with the key 'web', with the key 'cache', not without a key"):
        signals.wait_sync("STARTED", timeout=0.05)


def test_a_board_that_is_closed_beneath_the_starts_signals_is_no_error(start, monkeypatch):
    """GIVEN a program that ends WHILE the thread of the start's signals is at the board THEN nobody is told of an error."""
    done = threading.Event()

    def say(signals, answers, *, alone):
        monkeypatch.setattr(signals, "ended", True)
        done.set()
        raise RuntimeError("Cannot operate on a closed database.")

    monkeypatch.setattr(Signals, "say", say)
    pipeline = start()
    assert done.wait(10)
    pipeline.shutdown()
    assert pipeline.guards["signals"].errors == 0


def test_what_gevent_breaks_beneath_the_starts_signals_is_no_error(start, monkeypatch):
    """GIVEN a thread in the midst of an import WHEN gevent patches THEN that thread gives up, and nobody is told of it."""
    patched, given_up = [], []

    def say(signals, answers, *, alone):
        patched.append(1)
        raise RuntimeError("cannot release un-acquired lock")

    monkeypatch.setattr(Signals, "say", say)
    monkeypatch.setattr(mirror, "is_patched", lambda: bool(patched))
    give_up = mirror.Mirror._give_up
    monkeypatch.setattr(mirror.Mirror, "_give_up", lambda made, why: [give_up(made, why), given_up.append(why)])
    pipeline = start()
    wait_for(lambda: given_up, what="it gives up")
    pipeline.shutdown()
    assert pipeline.guards["signals"].errors == 0
