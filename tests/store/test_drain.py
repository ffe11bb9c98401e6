"""Sending what is stored: in order, once it was taken it is gone, and nothing that happens there loses it."""

import logging
import os
import sqlite3
import time
from collections import Counter

import pytest

from otel_perf.core.home import HOME_VARIABLE, STORE_FILE, Home
from otel_perf.store import drain as module
from otel_perf.store import route as route_module
from otel_perf.store.committer import Owner
from otel_perf.store.database import StoreReader
from otel_perf.store.destination import Destination
from otel_perf.store.drain import Drain
from otel_perf.store.lease import Lease
from otel_perf.store.outbox import Outbox
from otel_perf.store.writer import Lane, Writer
from tests.e2e.support import wait_for
from tests.store.receiver import Receiver
from tests.stored import batches

OWNER = Owner("shop", "d1")


def encode(items):
    return b",".join(b"%d" % item for item in items) + b","


@pytest.fixture
def receiver():
    receiver = Receiver()
    with receiver.running():
        yield receiver


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name in ("START", "IDLE", "LEASE_RETRY"):
        monkeypatch.setattr(module, name, 0.02)
    monkeypatch.setattr(route_module, "FIRST_BACKOFF", 0.05)


@pytest.fixture
def make(home, receiver):
    drains = []

    def make(signals=("traces",), keep=False, url=None, owner=OWNER, timeout=10.0, find=None):
        problems = []
        writer = Writer(
            Home({HOME_VARIABLE: str(home)}), delay=0.01, limit=10**9, fsync=False, problem=problems.append, owner=owner
        )
        writer.lanes += [Lane(signal, encode, limit=4096, batch=10) for signal in signals]
        destinations = [
            Destination(signal, "http/protobuf", f"{url or receiver.url}/v1/{signal}", timeout=timeout)
            for signal in signals
        ]
        drain = Drain(
            writer, lambda: home, lambda: destinations, owner=owner, keep=keep, fsync=False, problem=problems.append,
            find=find,
        )  # fmt: skip
        writer.committed = drain.poke
        drain.problems = problems
        drains.append((writer, drain))
        return writer, drain

    yield make
    for writer, drain in drains:
        writer.close(5)
        drain.end()


def offer(writer, numbers, lane=0):
    for number in numbers:
        writer.offer(writer.lanes[lane], number)
    assert writer.flush(10)


def numbers(requests, path="/v1/traces"):
    return [int(item) for where, _, body in requests if where == path for item in body.split(b",") if item]


def empty(home):
    return lambda: not batches(home)


def test_it_arrives_in_order_and_is_gone(make, receiver, home):
    writer, drain = make(("traces", "logs"))
    offer(writer, range(95))
    offer(writer, range(5), lane=1)
    wait_for(empty(home), what="all is sent")
    assert numbers(receiver.requests) == list(range(95))
    assert numbers(receiver.requests, "/v1/logs") == list(range(5))
    wait_for(lambda: drain.delivered == {"traces": 95, "logs": 5})
    assert receiver.requests[0][1]["content-type"] == "application/x-protobuf"
    assert drain.problems == []


def test_a_kept_copy_is_marked_as_delivered(make, receiver, home):
    writer, drain = make(keep=True)
    offer(writer, range(20))
    wait_for(lambda: drain.delivered["traces"] == 20)
    reader = StoreReader(home)
    wait_for(lambda: reader.pending() == {})
    reader.close()
    assert sum(batch.items for batch in batches(home)) == 20


@pytest.mark.parametrize("status", [429, 503, 408, 502, 401, 404])
def test_what_is_not_taken_now_is_sent_later_in_order(status, make, receiver, home):
    answers = [(status, {"retry-after": "0"}, b"not now")] * 2
    receiver.answer = lambda *_: answers.pop() if answers else (200, {}, b"")
    writer, drain = make()
    offer(writer, range(30))
    wait_for(empty(home), what="all is sent")
    assert numbers(receiver.requests) == list(range(30))
    (line,) = drain.problems
    assert f"does not take what is sent ({status}" in line
    assert "not now" in line


def test_retry_after_is_honoured(make, receiver, home):
    times = []

    def answer(*_):
        times.append(time.monotonic())
        return (503, {"retry-after": "1"}, b"") if len(times) == 1 else (200, {}, b"")

    receiver.answer = answer
    writer, _ = make()
    offer(writer, [1])
    wait_for(empty(home), what="all is sent")
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize("status", [400, 413, 500])
def test_one_refused_batch_is_set_aside_and_the_rest_goes_on(status, make, receiver, home):
    receiver.answer = lambda _path, _headers, body: (status, {}, b"bad") if b",13," in b"," + body else (200, {}, b"")
    writer, drain = make()
    offer(writer, range(50))
    wait_for(empty(home), what="the rest is sent")
    assert numbers(receiver.requests) == [number for number in range(50) if not 10 <= number < 20]
    reader = StoreReader(home)
    ((signal, count, items, reason),) = reader.refused()
    assert (signal, count, items) == ("traces", 1, 10)
    assert reason.startswith(str(status))
    assert reason.endswith(": bad")
    (refused,) = reader.refused_batches(["traces"])
    reader.close()
    assert refused.body == encode(range(10, 20))
    assert "otel-perf export --refused" in drain.problems[0]


def test_a_receiver_that_refuses_everything_loses_nothing(make, receiver, home):
    receiver.answer = lambda *_: (400, {}, b"no")
    writer, drain = make()
    offer(writer, range(300))
    wait_for(lambda: drain.problems, what="it is told")
    assert sum(batch.items for batch in batches(home)) == 300
    reader = StoreReader(home)
    assert reader.refused() == []
    assert reader.deliveries()[0].error == "400 Bad Request: no"
    reader.close()
    receiver.answer = lambda *_: (200, {}, b"")
    wait_for(empty(home), what="all is sent")
    assert numbers(receiver.requests) == list(range(300))


def test_what_was_taken_is_not_sent_again_while_the_store_cannot_be_written(make, receiver, home, monkeypatch):
    """A full disk: SQLite needs room even to delete."""
    real, failures = Outbox.settle, []

    def settle(outbox, batches, *, keep):
        if len(failures) < 5:
            failures.append(batches)
            raise sqlite3.OperationalError("database or disk is full")
        real(outbox, batches, keep=keep)

    monkeypatch.setattr(Outbox, "settle", settle)
    monkeypatch.setattr(module, "IDLE", 0.02)
    writer, drain = make()
    offer(writer, range(10))
    wait_for(lambda: len(failures) == 5, what="it is tried again")
    offer(writer, range(10, 20))
    wait_for(empty(home), what="all is settled")
    assert numbers(receiver.requests) == list(range(20))
    assert "cannot be used for sending (database or disk is full)" in drain.problems[0]


def test_refused_batches_in_front_do_not_block_those_behind_for_ever(make, receiver, home, monkeypatch):
    """Nine that are refused each time, and more than that behind them."""
    monkeypatch.setattr(route_module, "LONGEST_BACKOFF", 0.1)
    receiver.answer = lambda path, headers, body: (400, {}, b"no") if int(body.split(b",")[0]) < 9 else (200, {}, b"")
    writer, _ = make()
    for number in range(20):
        offer(writer, [number])
    wait_for(empty(home), what="those behind are sent")
    assert sorted(numbers(receiver.requests)) == list(range(9, 20))
    reader = StoreReader(home)
    assert sum(items for _, _, items, _ in reader.refused()) == 9
    reader.close()


def test_a_batch_that_is_too_large_is_set_aside_at_once(make, receiver, home):
    receiver.answer = lambda path, headers, body: (413, {}, b"") if len(body) > 8 else (200, {}, b"")
    writer, drain = make()
    offer(writer, [1, 2, 3, 4, 5, 6])
    wait_for(empty(home))
    assert "413" in drain.problems[0]
    assert "otel-perf export --refused" in drain.problems[0]


def test_who_has_no_name_takes_over_nothing(make, receiver, home):
    old, _ = make(owner=Owner("unknown_service:python", "old"), url="http://127.0.0.1:1")
    old.committed = None
    offer(old, [1])
    new, _ = make(owner=Owner("unknown_service:python", "new"))
    offer(new, [2])
    wait_for(lambda: numbers(receiver.requests) == [2])
    wait_for(lambda: [batch.body for batch in batches(home)] == [encode([1])], what="only the other's is left")


def test_a_corrupt_page_that_only_sending_meets_is_told_and_set_aside(make, receiver, home):
    writer, drain = make()
    committed, writer.committed = writer.committed, None
    for number in range(50):
        offer(writer, [number] * 2000)
    writer.close(5)
    with (home / STORE_FILE).open("r+b") as file:  # in the body of the oldest batch: no index knows of it
        size = file.seek(0, 2)
        for page in range(4, size // 8192 // 2):
            file.seek(page * 8192)
            file.write(b"\xff" * 16)
    writer.committed = committed
    drain.poke()
    wait_for(lambda: list(home.glob("*.corrupt-*")), what="it is set aside")
    offer(writer, [7])
    wait_for(lambda: 7 in numbers(receiver.requests)[-1:], what="the new one is sent")


def test_partial_success_is_counted_and_told(make, receiver, home):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = 3
    response.partial_success.error_message = "too old"
    receiver.answer = lambda *_: (200, {"content-type": "application/x-protobuf"}, response.SerializeToString())
    writer, drain = make()
    offer(writer, range(10))
    wait_for(empty(home), what="all is sent")
    wait_for(lambda: drain.delivered["traces"] == 7)
    assert writer.lanes[0].dropped == 3
    assert "did not take 3 of 10 traces items: too old" in drain.problems[0]


def test_leaving_sends_what_is_there_and_gives_up_at_once_when_nobody_listens(make, home, monkeypatch):
    monkeypatch.setattr(module, "START", 3600.0)
    writer, drain = make()
    offer(writer, range(25))
    drain.leave(10)
    assert batches(home) == []
    drain.end()  # its thread, which may begin only now, would send what comes
    writer, drain = make(url="http://127.0.0.1:1")
    offer(writer, range(5))
    began = time.monotonic()
    drain.leave(10)
    assert time.monotonic() - began < 5
    assert len(batches(home)) == 1
    drain.leave(0)  # no budget: no wait


def test_leaving_sends_where_no_thread_can_be_started_any_more(make, receiver, home, monkeypatch):
    """Python 3.12 starts none once its end has begun; a short program's drain is made only then."""

    def no_thread(*_):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(module, "start_new_thread", no_thread)
    writer, drain = make(("traces", "logs"))
    offer(writer, range(25))
    offer(writer, range(3), lane=1)
    drain.leave(10)
    assert batches(home) == []
    assert numbers(receiver.requests) == list(range(25))


def test_only_the_holder_of_the_lease_sends(make, receiver, home):
    home.mkdir()
    holder = Lease(home, "d1")
    assert holder.take()
    assert holder.take()
    assert not Lease(home, "d1").take()
    assert Lease(home, "d2").take()
    writer, _ = make()
    offer(writer, range(5))
    time.sleep(0.2)
    assert receiver.seen == []
    holder.release()
    wait_for(empty(home), what="the lease moves")


def test_a_lease_whose_file_was_deleted_is_taken_anew(home):
    home.mkdir()
    first, second = Lease(home, "d"), Lease(home, "d")
    assert first.take()
    (home / "drain-d.lock").unlink()
    assert second.take()
    assert not first.take()
    assert not first.held


def test_batches_for_another_destination_wait_unless_it_is_our_service_and_nobody_sends_them(make, receiver, home):
    old, stopped = make(owner=Owner("shop", "old"), url="http://127.0.0.1:1")
    offer(old, [1])
    wait_for(lambda: stopped.problems, what="the wrong endpoint is told")
    living, alive = make(owner=Owner("shop", "alive"), url="http://127.0.0.1:1")
    offer(living, [2])
    other, _ = make(owner=Owner("billing", "theirs"), url="http://127.0.0.1:1")
    offer(other, [3])
    wait_for(lambda: alive.problems, what="that one sends, and looked for what it could take over")
    stopped.end()
    wait_for(lambda: is_free(Lease(home, "old")), what="its thread has ended")
    new, _ = make(owner=Owner("shop", "new"))
    offer(new, [4])
    wait_for(lambda: len(numbers(receiver.requests)) == 2, what="ours are sent")
    assert numbers(receiver.requests) == [1, 4]
    wait_for(lambda: len(batches(home)) <= 2, what="what was sent is deleted")
    assert sorted(int(batch.body[:-1]) for batch in batches(home)) == [2, 3]


def is_free(lease):
    taken = lease.take()
    lease.release()
    return taken


def test_what_an_older_process_of_the_service_leaves_behind_is_taken_over_when_it_ends(
    make, receiver, home, monkeypatch
):
    monkeypatch.setattr(module, "ADOPT_EVERY", 0.02)
    old, _ = make(owner=Owner("shop", "old"), url="http://127.0.0.1:1")
    old.committed = None  # it stores, and another process of it sends
    lease = Lease(home, "old")
    offer(old, [1])
    assert lease.take()
    new, _ = make(owner=Owner("shop", "new"))
    offer(new, [2])
    wait_for(lambda: numbers(receiver.requests) == [2])
    lease.release()
    wait_for(lambda: numbers(receiver.requests) == [2, 1], what="what was left is sent")


def test_it_waits_until_a_receiver_is_found(make, receiver, home):
    found = []
    writer, _ = make(find=lambda: bool(found), owner=Owner("shop", ""))
    offer(writer, [1])
    time.sleep(0.1)
    assert receiver.seen == []
    found.append(True)
    wait_for(empty(home), what="it is sent")


def test_what_waits_is_counted(make, home, monkeypatch):
    monkeypatch.setattr(module, "COUNT_EVERY", 0.0)
    writer, drain = make(url="http://127.0.0.1:1")
    offer(writer, range(25))
    wait_for(lambda: drain.waiting == Counter(traces=25))


def test_it_takes_its_time_while_that_sends_more_than_comes_in(make, receiver, home, monkeypatch):
    """Also in the midst of a backlog: what waits is counted between requests."""
    monkeypatch.setattr(module, "COUNT_EVERY", 0.0)
    monkeypatch.setattr(route_module, "GROUP_BYTES", 1)
    closed = [True]
    receiver.answer = lambda *_: (503, {"retry-after": "0"}, b"") if closed else (200, {}, b"")
    writer, drain = make()
    offer(writer, range(50))
    offer(writer, range(50, 100))
    wait_for(lambda: drain.waiting == Counter(traces=100))
    seen = []
    monkeypatch.setattr(drain._pace, "rest", lambda: seen.append((drain.delivered.total(), drain._pace.easy)))
    closed.clear()
    wait_for(empty(home), what="all is sent")
    assert not any(easy for sent, easy in seen if sent == 0)
    assert any(easy for sent, easy in seen if 0 < sent < 100)


def test_a_deleted_store_is_found_again(make, receiver, home):
    writer, drain = make()
    offer(writer, [1])
    wait_for(lambda: drain.delivered["traces"] == 1)
    for file in home.glob(f"{STORE_FILE}*"):
        file.unlink()
    offer(writer, [2])
    wait_for(lambda: drain.delivered["traces"] == 2)


def test_a_missing_extra_is_one_line(make, monkeypatch, home):
    from otel_perf.core.errors import MissingExtraError

    def connect(_):
        raise MissingExtraError("x over gRPC", "grpc")

    monkeypatch.setattr(route_module, "connect", connect)
    writer, drain = make()
    offer(writer, [1])
    wait_for(lambda: drain.problems)
    assert "pip install 'otel-perf[grpc]'" in drain.problems[0]
    assert len(batches(home)) == 1


def test_an_error_of_ours_is_told_once_and_tried_again(make, monkeypatch, home, caplog):
    calls = []
    real = route_module.Route.send

    def send(self, *arguments):
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError("ours")
        return real(self, *arguments)

    monkeypatch.setattr(route_module.Route, "send", send)
    writer, drain = make()
    with caplog.at_level(logging.CRITICAL):
        offer(writer, [1])
        wait_for(empty(home), what="it is sent")
    assert len(drain.problems) == 1


def test_a_child_leaves_the_sending_to_its_parent(make, receiver, home):
    writer, drain = make()
    offer(writer, [1])
    wait_for(lambda: drain.delivered["traces"] == 1)
    writer.before_fork()
    drain.before_fork()
    pid = os.fork()
    if pid == 0:
        drain.after_fork_in_child()
        writer.after_fork_in_child()
        os._exit(0 if drain._lease is None and not drain.delivered and not drain._running else 1)
    drain.after_fork_in_parent()
    writer.after_fork_in_parent()
    assert os.waitpid(pid, 0)[1] == 0
    assert drain._lease.held
    offer(writer, [2])
    wait_for(lambda: drain.delivered["traces"] == 2)


def test_threads_that_fork_at_once_leave_the_lock_free(make, receiver):
    """Each parent handler releases what its own before handler took, whichever comes first."""
    import threading

    writer, drain = make()
    offer(writer, [1])
    wait_for(lambda: drain.delivered["traces"] == 1)
    drain.before_fork()
    other = threading.Thread(target=lambda: (drain.before_fork(), drain.after_fork_in_parent()))
    other.start()
    other.join(10)
    drain.after_fork_in_parent()
    offer(writer, [2])
    wait_for(lambda: drain.delivered["traces"] == 2)
