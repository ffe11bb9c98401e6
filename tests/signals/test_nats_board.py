"""The NATS board against the real server: the contract, and a server that goes away."""

import shutil
import threading
import time
import uuid
from pathlib import Path

import pytest
from nats.js.errors import APIError

from otel_perf.core.errors import SignalError
from otel_perf.signals import nats_link
from otel_perf.signals.api import Signals
from otel_perf.signals.board import Wait
from otel_perf.signals.nats_mirror import part
from otel_perf.signals.nats_session import Session
from tests.e2e.support import free_port, wait_for
from tests.signals.contract import BoardContract, producer, signal
from tests.signals.nats_boards import opened, run


@pytest.fixture
def boards(on_nats):
    return on_nats


class TestNatsBoard(BoardContract):
    pass


def test_all_goes_on_after_the_server_was_restarted_with_its_store(own_server, own):
    emits, waits = own.open(), own.open()
    who = emits.join(producer("emitter"))
    first = emits.put(signal(who, "A"))
    mark = waits.changed(None, 0)
    own_server.stop()
    own_server.start()
    second = emits.put(signal(who, "B"))
    assert second.seq > first.seq
    while waits.current("", ["A", "B"]) != [first, second]:
        new = waits.changed(mark, 10)
        assert new != mark
        mark = new
    assert emits.renewed == waits.renewed == 0
    assert waits.since(0) == [first, second]


def test_a_life_that_had_no_connection_when_another_began_is_not_lost_for_good(own_server, own):
    board, other = own.open(), own.open()
    who = board.join(producer())
    put = board.put(signal(who))
    board._link.keep, kept = (lambda work: work.close()), board._link.keep  # it does not connect again by itself
    own_server.stop()
    own_server.start()
    other.join(producer())
    assert other.current("", ["CACHE_WARM"]) == []  # rather not trusted than trusted wrongly
    board._link.keep = kept
    assert board.producers()
    wait_for(lambda: other.current("", ["CACHE_WARM"]) == [put], what="the life says that it is here")
    assert {heard.state for heard in other.producers()} == {"here"}


def test_a_life_whose_generation_is_taken_in_a_bucket_made_anew_has_another(own_server, own):
    board, other = own.open(), own.open()
    put = board.put(signal(board.join(producer())))
    board._link.keep, kept = (lambda work: work.close()), board._link.keep  # it does not connect again by itself
    own_server.stop()
    shutil.rmtree(own_server.store)
    own_server.start()
    assert other.join(producer()).generation == 1
    board._link.keep = kept
    heard = board.producers()
    assert sorted((h.producer.generation, h.state) for h in heard) == [(1, "here"), (2, "here")]
    assert [s.uid for s in other.current("", ["CACHE_WARM"])] == [put.uid]


def test_who_only_reads_keeps_no_more_than_who_puts(boards):
    reader, board = boards.open(kept=300), boards.open(kept=300)
    who = board.join(producer())
    first = board.put(signal(who, "RARE"))
    for _ in range(1_000):
        last = board.put(signal(who, "OFTEN"))
    assert reader.current("", ["RARE", "OFTEN"]) == [first, last]
    assert len(reader._mirror._signals) <= 300 + 512


def test_what_is_said_while_the_server_is_away_is_there_when_it_is_back(own_server, own):
    board = own.open()
    who = board.join(producer())
    own_server.stop()
    put = []
    thread = threading.Thread(target=lambda: put.append(board.put(signal(who))))
    thread.start()
    wait_for(lambda: not board._link._session.is_alive, what="the board knows")
    own_server.start()
    thread.join(10)
    assert board.current("", ["CACHE_WARM"]) == put
    assert len(put) == 1


def test_a_server_that_does_not_answer_for_a_while_gets_each_signal_once(own_server, own):
    board = own.open()
    who = board.join(producer())
    own_server.pause()
    sent = board._link._session._client.stats
    before, put = sent["out_msgs"], []
    thread = threading.Thread(target=lambda: put.append(board.put(signal(who))))
    thread.start()
    wait_for(lambda: sent["out_msgs"] >= before + 2, what="it is said again, before the first answer comes")
    own_server.go_on()
    thread.join(10)
    assert board.since(0) == put
    assert len(put) == 1


def test_an_error_names_the_server_and_not_the_password(own_server, tmp_path, monkeypatch):
    monkeypatch.setattr(nats_link, "PATIENCE", 2.0)
    url = own_server.url.replace("//", "//joe:geheim@")
    board = opened(url)
    who = board.join(producer())
    own_server.stop()
    with pytest.raises(SignalError, match=rf"the signal board {own_server.url} cannot be used: ") as caught:
        board.put(signal(who))
    assert "geheim" not in str(caught.value)
    assert "geheim" not in board.place + repr(board._address)
    board.close()
    port = free_port()
    began = time.monotonic()
    with pytest.raises(SignalError, match=rf"nats://127.0.0.1:{port} cannot be used: .*Connect call failed"):
        opened(f"nats://joe:geheim@127.0.0.1:{port}")
    assert time.monotonic() - began < 5


def test_a_store_that_was_lost_is_filled_again(own_server, own):
    board, other = own.open(), own.open()
    first, second = board.join(producer()), other.join(producer())
    board.put(signal(first, "A"))
    put = [board.put(signal(first, "A")), other.put(signal(second, "B"))]
    own_server.stop()
    shutil.rmtree(own_server.store)
    own_server.start()
    late = own.open()

    def found():
        return sorted(late.current("", ["A", "B"]), key=lambda s: s.name)

    wait_for(lambda: len(found()) == 2, what="it is said again without being asked")
    assert [s.uid for s in found()] == [s.uid for s in put]
    assert board.renewed == other.renewed == 1
    states = [(heard.producer.uid, heard.state) for heard in other.producers()]
    assert sorted(states) == sorted([(first.uid, "here"), (second.uid, "here")])
    assert own.open().join(producer()).generation == 3


def test_a_bucket_that_was_deleted_is_made_again(own_server, own):
    board = own.open()
    who = board.join(producer())
    board.put(signal(who))
    run(own_server, lambda js: js.delete_key_value(own.url.rpartition("/")[2]))
    put = board.put(signal(who))
    assert board.current("", ["CACHE_WARM"]) == [put]
    assert board.renewed == 1


def test_a_watch_that_the_server_has_dropped_begins_again(own_server, own):
    board, other = own.open(), own.open()
    who = other.join(producer())
    stream = f"KV_{own.url.rpartition('/')[2]}"

    async def drop(js):
        for consumer in await js.consumers_info(stream):
            await js.delete_consumer(stream, consumer.name)

    run(own_server, drop)
    put = other.put(signal(who))
    assert board.current("", ["CACHE_WARM"]) == [put]


def test_a_watch_that_missed_something_begins_again(boards):
    board, other = boards.open(), boards.open()
    who = other.join(producer())
    assert board.producers()
    session = board._link._session
    session._next += 1  # as if an entry had not come
    put = other.put(signal(who))
    assert board.current("", ["CACHE_WARM"]) == [put]
    assert board._link._session is not session


def test_a_bucket_made_by_hand_is_used_as_it_is(nats_of_all, boards):
    bucket = boards.url.rpartition("/")[2]
    run(nats_of_all, lambda js: js.create_key_value(bucket=bucket, history=5))
    BoardContract().test_who_was_killed_is_not_trusted_once_it_is_back(boards)


def test_a_bucket_that_another_makes_just_now_is_used(nats_of_all, boards, monkeypatch):
    bucket = boards.url.rpartition("/")[2]
    run(nats_of_all, lambda js: js.create_key_value(bucket=bucket, history=5))
    told = Session.last

    async def last(session):
        monkeypatch.setattr(Session, "last", told)
        raise APIError(code=404, err_code=10059)

    monkeypatch.setattr(Session, "last", last)
    board = boards.open()
    assert board.put(signal(board.join(producer()))).seq


def test_answers_that_are_none_are_passed_over(nats_of_all, boards):
    board, other = boards.open(), boards.open()
    who = other.join(producer())
    wait = Wait("w", who, "", ("A",), (), 5)
    other.note(wait)
    other._link._session.answering.add(fake := producer("fake"))

    async def answer(session):
        other._own[fake.uid] = await other._join(session, fake)
        await session.answer(fake.uid, lambda: b"no waits")

    other._link.do(answer)
    assert board.waits() == [wait]


def test_what_others_have_put_into_the_bucket_disturbs_nobody(nats_of_all, boards):
    board = boards.open()

    async def put(js):
        bucket = await js.key_value(boards.url.rpartition("/")[2])
        for key in ("l.x.1", "s.a.b.c.d", "s", "other"):
            await bucket.put(key, b"no JSON of ours")
        await bucket.delete("other")

    run(nats_of_all, put)
    put = board.put(signal(board.join(producer())))
    assert boards.open().current("", ["CACHE_WARM"]) == [put]
    assert board.since(0) == [put]


def test_the_public_functions_use_it(nats_of_all):
    environ = {"OTEL_PERF_SIGNALS_URL": f"{nats_of_all.url}/t{uuid.uuid4().hex}", "OTEL_SERVICE_NAME": "shop"}
    one, two = Signals(environ), Signals(environ)
    try:
        timer = threading.Timer(0.2, one.emit, ["A"], {"payload": {"rows": 7}})
        timer.start()
        assert two.wait_sync("A", timeout=10)["A"].value == {"rows": 7}
        timer.join()
    finally:
        one.close()
        two.close()


@pytest.mark.parametrize("one", ["", ".", "a.b", "a b", "=", "=2e", "ä", "x" * 201, "\ud800", "*", ">", "\n"])
def test_parts_of_keys_are_valid_and_apart(one):
    others = ["", "A", "a", "a-b", "a_b", "=3d", "x" * 202, "X" * 201]
    assert Path(part(one)).name == part(one)
    assert set(part(one)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=")
    assert 1 <= len(part(one)) <= 200
    assert part(one) not in {part(other) for other in others if other != one}
