"""Waiting: latched, by one thread, cancellable, told apart, and what is said when nothing comes."""

import asyncio
import re
import threading
import uuid
from functools import partial

import pytest

from otel_perf.core.errors import SettingError, SignalError, SignalFailedError, SignalTimeoutError
from otel_perf.signals.hub import Hub
from otel_perf.signals.judge import Judge
from otel_perf.signals.memory_board import MemoryBoard
from otel_perf.signals.nats_address import address_of
from otel_perf.signals.nats_board import NatsBoard
from otel_perf.signals.request import request
from otel_perf.signals.settings import SignalsSettings
from otel_perf.signals.signal import Producer, checked_payload, uid_of
from otel_perf.signals.sqlite_board import SqliteBoard
from tests.e2e.support import wait_for

THREAD = "otel-perf-signals"


@pytest.fixture(params=["memory", "sqlite", "nats"])
def hubs(request, tmp_path):
    """Makes hubs on one board."""
    made = []
    if request.param == "memory":
        opened = partial(lambda board: board, MemoryBoard())
    elif request.param == "sqlite":
        opened = partial(SqliteBoard, tmp_path / "signals.db")
    else:
        url = f"{request.getfixturevalue('nats_of_all').url}/t{uuid.uuid4().hex}"
        opened = partial(NatsBoard, address_of(SignalsSettings(url=url)))

    def make(identity="shop", secret=b"", refused=lambda _signal: None, **options):
        judge = Judge(secret, refused)
        made.append(
            Hub(opened(), lambda agent: Producer(agent or identity, uuid.uuid4().hex, pid=7), judge=judge, **options)
        )
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
    assert list(waiter.wait_sync(wanted("B", "A", any_of=True), 60)) == ["A"]
    later(0.2, say, emitter, "B")
    assert list(waiter.wait_sync(wanted("B", "A"), 60)) == ["B", "A"]


def test_tasks_wait_without_a_thread_each(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")

    async def main():
        waits = [asyncio.create_task(waiter.wait(wanted("A", f"B{n % 10}"), 120)) for n in range(1_000)]
        await asyncio.to_thread(wait_for, lambda: waiter.waiting == 1_000, what="all wait")
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
        await asyncio.to_thread(wait_for, lambda: hub.waiting, what="it waits")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not hub.waiting
    wait_for(lambda: not looking(), what="the thread has ended")
    assert hub.board.waits() == []


def test_a_failure_is_raised_with_its_reason_unless_it_is_accepted(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")
    later(0.2, say, emitter, "A", reason="no database")
    with pytest.raises(SignalFailedError, match=r"A failed: no database \(emitter \(pid 7, life 1\)\)"):
        waiter.wait_sync(wanted("A", "B"), 60)
    assert not waiter.wait_sync(wanted("A", accept_failed=True), 0)["A"].ready
    say(emitter, "B")
    assert list(waiter.wait_sync(wanted("A", "B", any_of=True), 0)) == ["B"]


def test_a_timeout_names_what_is_missing_and_who_was_last_heard_of(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")
    say(emitter, "A")
    say(emitter, "B", ttl=0.05)
    with pytest.raises(SignalTimeoutError) as caught:
        waiter.wait_sync(wanted("A", "B", "C"), 0.3)
    last = r"B \(last heard of emitter \(pid 7, life 1\), which is there, \d+\.\d s ago\)"
    assert re.fullmatch(rf"after 0\.3 s still missing: {last}; C \(never emitted here\)", str(caught.value))
    assert caught.value.missing == ("B", "C")
    assert isinstance(caught.value, TimeoutError)


def test_a_cycle_is_named(hubs):
    one, two, three = hubs("one"), hubs("two"), hubs("three")
    threads = [
        threading.Thread(target=hub.wait_sync, args=(wanted(name, then=[then]), 120))
        for hub, name, then in ((one, "B", "A"), (two, "C", "B"))
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(three.board.waits()) == 2, what="both waits are noted")
    with pytest.raises(SignalTimeoutError, match="A cycle of waiters: ") as caught:
        three.wait_sync(wanted("A", then=["C"]), 0.1)
    assert {step.split()[0] + step.split()[-1] for step in caught.value.cycle} == {"oneB", "twoC", "threeA"}
    say(three, "C")
    say(two, "B")
    for thread in threads:
        thread.join(60)
    wait_for(lambda: three.board.waits() == [], what="both waits are over")


def test_what_was_there_and_has_expired_is_waited_for_again(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")
    say(emitter, "A", ttl=0.1)
    wait_for(lambda: not waiter.current("", ["A"]), what="it has expired")
    had, found = [], []
    waiter.on("B", had.append, key="", scope="")
    thread = threading.Thread(target=lambda: found.append(waiter.wait_sync(wanted("A", "B"), 120)))
    thread.start()
    wait_for(lambda: waiter.waiting, what="it waits")
    b = say(emitter, "B")
    wait_for(lambda: had, what="B was looked at")  # by the same thread, after the wait
    assert found == []
    a = say(emitter, "A")
    thread.join(60)
    assert found == [{"A": a, "B": b}]


def test_a_handler_has_each_signal_once_and_what_is_there_at_once(hubs):
    emitter, waiter = hubs("emitter"), hubs("waiter")
    had, others = [], []
    say(emitter, "A", payload=0)
    remove = waiter.on("A", lambda s: had.append(s.value), key="", scope="")
    waiter.on("A", lambda s: others.append(s.value), key="", scope="")
    for n in range(1, 4):
        wait_for(lambda n=n: len(others) == n, what="it was called")
        say(emitter, "A", payload=n)
    wait_for(lambda: len(had) == len(others) == 4, what="both were called")  # each has a thread of its own
    remove()
    say(emitter, "A", payload=4)
    wait_for(lambda: len(others) == 5, what="the other one was called")
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
