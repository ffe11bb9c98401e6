"""Waiting: latched, by one thread, cancellable, told apart, and what is said when nothing comes."""

import asyncio
import threading
import time
import uuid

import pytest

from otel_perf.core.errors import SettingError, SignalError, SignalFailedError, SignalTimeoutError
from otel_perf.signals.hub import Hub
from otel_perf.signals.memory_board import MemoryBoard
from otel_perf.signals.request import request
from otel_perf.signals.signal import Producer, checked_payload, uid_of
from otel_perf.signals.sqlite_board import SqliteBoard
from tests.e2e.support import wait_for

THREAD = "otel-perf-signals"


@pytest.fixture(params=["memory", "sqlite"])
def hubs(request, tmp_path):
    """Makes hubs on one board."""
    board = MemoryBoard()
    made = []

    def make(identity="shop", **options):
        on = board if request.param == "memory" else SqliteBoard(tmp_path / "signals.db")
        made.append(Hub(on, lambda agent: Producer(agent or identity, uuid.uuid4().hex, pid=7), **options))
        return made[-1]

    yield make
    for hub in made:
        hub.leave()
    for hub in made:
        hub.board.close()


def say(hub, name, *, key="", scope="", reason=None, payload=None, ttl=0.0):
    who = hub.join()
    return hub.put(hub.draft(who, name, key=key, scope=scope, reason=reason, payload=checked_payload(payload),
                             uid=uid_of(who, None), ttl=ttl))  # fmt: skip


def wanted(*names, any_of=False, key="", scope="", then=(), accept_failed=False):
    return request(names, any_of=any_of, key=key, scope=scope, then=then, accept_failed=accept_failed)


def later(seconds, action, *arguments, **options):
    timer = threading.Timer(seconds, action, arguments, options)
    timer.start()
    return timer


def looking():
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def test_who_comes_late_has_it_at_once_and_without_a_thread(hubs):
    said = say(hubs(), "A", payload={"rows": 7})
    found = hubs().wait_sync(wanted("A"), 0)
    assert found == {"A": said}
    assert found["A"].value == {"rows": 7}
    assert not looking()


def test_all_are_waited_for_and_any_is_enough(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")
    say(emitter, "A")
    assert list(waiter.wait_sync(wanted("B", "A", any_of=True), 5)) == ["A"]
    later(0.2, say, emitter, "B")
    assert list(waiter.wait_sync(wanted("B", "A"), 10)) == ["B", "A"]


def test_tasks_wait_without_a_thread_each(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")

    async def main():
        waits = [asyncio.create_task(waiter.wait(wanted("A", f"B{n % 10}"), 30)) for n in range(1_000)]
        await asyncio.sleep(0.3)
        assert len(looking()) == 1
        for n in range(10):
            say(emitter, f"B{n}")
        say(emitter, "A")
        return await asyncio.gather(*waits)

    assert {tuple(found) for found in asyncio.run(main())} == {("A", f"B{n}") for n in range(10)}


def test_a_wait_that_is_cancelled_leaves_nothing(hubs):
    hub = hubs()

    async def main():
        task = asyncio.create_task(hub.wait(wanted("NEVER"), None))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not hub.waiting
    deadline = time.monotonic() + 10
    while looking() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not looking()
    assert hub.board.waits() == []


def test_a_failure_is_raised_with_its_reason_unless_it_is_accepted(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")
    later(0.2, say, emitter, "A", reason="no database")
    with pytest.raises(SignalFailedError, match=r"A failed: no database \(emitter \(pid 7, life 1\)\)"):
        waiter.wait_sync(wanted("A", "B"), 10)
    assert not waiter.wait_sync(wanted("A", accept_failed=True), 0)["A"].ready
    say(emitter, "B")
    assert list(waiter.wait_sync(wanted("A", "B", any_of=True), 0)) == ["B"]


def test_a_timeout_names_what_is_missing_and_who_was_last_heard_of(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")
    say(emitter, "A")
    say(emitter, "B", ttl=0.05)
    with pytest.raises(SignalTimeoutError) as caught:
        waiter.wait_sync(wanted("A", "B", "C"), 0.3)
    text = str(caught.value)
    assert "after 0.3 s still missing: B (last heard of emitter (pid 7, life 1), which is there, 0." in text
    assert text.endswith("C (never emitted here)")
    assert caught.value.missing == ("B", "C")
    assert isinstance(caught.value, TimeoutError)


def test_a_cycle_is_named(hubs):
    one, two, three = hubs("one"), hubs("two"), hubs("three")
    errors = []

    def wait(hub, name, then, timeout=3.0):
        try:
            hub.wait_sync(wanted(name, then=[then]), timeout)
        except SignalTimeoutError as error:
            errors.append(error)

    threads = [
        threading.Thread(target=wait, args=args)
        for args in ((one, "B", "A"), (two, "C", "B", 3.5), (three, "A", "C", 4))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rings = [error.cycle for error in errors if error.cycle]
    assert rings
    for ring in rings:
        assert {step.split()[0] + step.split()[-1] for step in ring} == {"oneB", "twoC", "threeA"}


def test_what_was_there_and_has_expired_is_waited_for_again(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")
    say(emitter, "A", ttl=0.3)
    later(0.6, say, emitter, "B")
    later(1.0, say, emitter, "A")
    began = time.monotonic()
    waiter.wait_sync(wanted("A", "B"), 10)
    assert time.monotonic() - began > 0.9


def test_a_handler_has_each_signal_once_and_what_is_there_at_once(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")
    had = []
    say(emitter, "A", payload=0)
    remove = waiter.on("A", lambda s: had.append(s.value), key="", scope="")
    for n in range(1, 4):
        time.sleep(0.3)
        say(emitter, "A", payload=n)
    time.sleep(0.3)
    remove()
    say(emitter, "A", payload=4)
    time.sleep(0.3)
    assert had == [0, 1, 2, 3]


def test_a_signal_without_the_right_mark_is_none(hubs):
    refused = []
    good, bad = hubs("good", secret=b"s"), hubs("bad", secret=b"other")
    waiter = hubs("waiter", secret=b"s", refused=refused.append)
    forged = say(bad, "A")
    for _ in range(3):
        with pytest.raises(SignalTimeoutError):
            waiter.wait_sync(wanted("A"), 0)
    assert refused == [forged]
    said = say(good, "A")
    assert waiter.wait_sync(wanted("A"), 0) == {"A": said}


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 129, "ä", None, 7, b"A", "x" * 10_240])
def test_a_name_that_is_none_is_a_clear_error(name):
    with pytest.raises(SettingError, match=r"signal name .*: it must be 1 to 128 printable ASCII") as caught:
        wanted(name)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("payload", [object(), float("nan"), {1: {2}}, "x" * 65_535])
def test_a_payload_that_is_none_is_a_clear_error(payload):
    with pytest.raises(SettingError, match="signal payload"):
        checked_payload(payload)


def test_who_waits_when_the_board_is_closed_is_told(hubs):
    hub = hubs()
    errors = []

    def wait():
        try:
            hub.wait_sync(wanted("NEVER"), None)
        except SignalError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: hub.waiting == 1, what="it waits")
    hub.leave()
    thread.join(10)
    assert "the wait was ended" in str(errors[0])


def test_a_board_that_fails_in_an_unknown_way_leaves_nobody_waiting_for_ever(hubs, monkeypatch):
    failed = []
    hub = hubs(failed=failed.append)
    hub.join()
    monkeypatch.setattr(hub.board, "producers", lambda: 1 / 0)
    with pytest.raises(SignalError, match="ZeroDivisionError"):
        hub.wait_sync(wanted("NEVER"), 0.2)
    assert failed
