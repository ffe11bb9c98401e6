"""The NATS board against the real server: the contract, and what only a network brings."""

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import signal as os_signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import nats
import nkeys
import pytest
import trustme
from nats.js.errors import APIError

from otel_perf.core.errors import MissingExtraError, SettingError, SignalError
from otel_perf.signals import nats_link, nats_mirror
from otel_perf.signals.api import Signals
from otel_perf.signals.board import KEPT, Wait
from otel_perf.signals.nats_address import address_of, without_password
from otel_perf.signals.nats_board import NatsBoard
from otel_perf.signals.nats_mirror import part
from otel_perf.signals.nats_session import Session
from otel_perf.signals.settings import SignalsSettings
from tests.e2e import programs
from tests.e2e.support import free_port, wait_for
from tests.signals import nats_server
from tests.signals.contract import BoardContract, producer, signal

EMIT = """
import sys, time, uuid
from otel_perf.signals.nats_address import address_of
from otel_perf.signals.nats_board import NatsBoard
from otel_perf.signals.settings import SignalsSettings
from otel_perf.signals.signal import Producer, Signal
url, identity, name, uid = sys.argv[1:]
board = NatsBoard(address_of(SignalsSettings(url=url)))
who = board.join(Producer(identity, uuid.uuid4().hex))
board.put(Signal(name, "", "", "ready", "", "null", who, uid or uuid.uuid4().hex, time.time_ns(), 0.0))
print("put", flush=True)
sys.stdin.read()
"""


def opened(url, kept=KEPT, **settings):
    return NatsBoard(address_of(SignalsSettings(url=url, **settings)), kept=kept)


@contextlib.contextmanager
def emitter(url, folder, identity="shop", name="CACHE_WARM", uid=None, program=EMIT):
    """A process that has emitted, and lives until it is killed."""
    command = [sys.executable, "-c", program, url, identity, name, uid or ""]
    with subprocess.Popen(
        command, env=programs.environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"put\n"
            yield process
        finally:
            process.kill()


class Boards:
    """Connections to one bucket."""

    def __init__(self, server, folder):
        self.url = f"{server.url}/t{uuid.uuid4().hex}"
        self.folder = folder
        self.opened = []

    def open(self, kept=KEPT):
        self.opened.append(opened(self.url, kept))
        return self.opened[-1]

    def emit_and_die(self, identity, name, uid=None):
        with emitter(self.url, self.folder, identity, name, uid):
            pass

    def close(self):
        for board in self.opened:
            board.close()


@pytest.fixture
def boards(nats_of_all, tmp_path):
    made = Boards(nats_of_all, tmp_path)
    yield made
    made.close()


@pytest.fixture
def own_server(tmp_path):
    """A server that a test may stop."""
    with nats_server.running(tmp_path) as server:
        yield server


@pytest.fixture
def own(own_server, tmp_path):
    made = Boards(own_server, tmp_path)
    yield made
    made.close()


class TestNatsBoard(BoardContract):
    pass


# --- a server that goes away --------------------------------------------------------------------------


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
    monkeypatch.setattr(nats_link, "PATIENCE", 0.5)
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
    TestNatsBoard().test_who_was_killed_is_not_trusted_once_it_is_back(boards)


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


def test_lives_that_ended_unseen_are_forgotten_when_there_are_too_many(boards, monkeypatch):
    monkeypatch.setattr(nats_mirror, "PRODUCERS", 3)
    boards.emit_and_die("first", "A")
    dead = [boards.open() for _ in range(4)]
    for number, board in enumerate(dead):
        board.join(producer(f"p{number}"))
        board.close()  # without leaving
    board = boards.open(kept=10)
    who = board.join(producer("alive"))
    for _ in range(600):
        board.put(signal(who))
    other = boards.open()
    assert {h.producer.identity for h in other.producers()} >= {
        "first",
        "alive",
    }  # one that has a signal, one that lives
    assert len(other.producers()) <= 3
    assert other.current("", ["A"])


def run(server, work):
    async def main():
        client = await nats.connect(server.url)
        try:
            await work(client.jetstream())
        finally:
            await client.close()

    asyncio.run(main())


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


# --- lives ---------------------------------------------------------------------------------------------


def test_a_process_that_stood_still_is_believed_again_when_it_goes_on(boards, tmp_path):
    board = boards.open()
    with emitter(boards.url, tmp_path) as process:
        nats_server.stop(process.pid)
        board.join(producer())
        assert board.current("", ["CACHE_WARM"]) == []
        os.kill(process.pid, os_signal.SIGCONT)
        wait_for(lambda: board.current("", ["CACHE_WARM"]), what="the process says that it is here")


FORK = EMIT.replace(
    'print("put", flush=True)\nsys.stdin.read()\n',
    """
import os
import re
from otel_perf.core.forks import on_fork
on_fork(before=board.before_fork, parent=board.after_fork_in_parent, child=board.after_fork_in_child)
if os.fork() == 0:
    me = board.join(Producer("child", uuid.uuid4().hex))
    board.put(Signal("CHILD", "", "", "ready", "", str(os.getpid()), me, uuid.uuid4().hex, time.time_ns(), 0.0))
    print("put", flush=True)
    time.sleep(60)
    os._exit(0)
sys.stdin.read()
""",
)


def test_a_forked_child_has_a_connection_and_a_life_of_its_own(boards, tmp_path):
    board = boards.open()
    with emitter(boards.url, tmp_path, program=FORK) as process:
        (child,) = board.current("", ["CHILD"])
        try:
            assert {h.producer.identity: h.state for h in board.producers()} == {"shop": "here", "child": "here"}
            process.kill()
            process.wait()
            board.join(producer("shop"))
            board.join(producer("child"))
            assert board.current("", ["CACHE_WARM", "CHILD"]) == [child]  # it lives, its parent does not
        finally:
            os.kill(child.value, os_signal.SIGKILL)


def test_threads_that_work_while_the_process_forks_go_on_in_the_parent(boards):
    board = boards.open()
    who = board.join(producer())
    stop = threading.Event()
    put = []

    def emit():
        while not stop.is_set():
            put.append(board.put(signal(who)))

    thread = threading.Thread(target=emit)
    thread.start()
    try:
        for _ in range(5):
            board.before_fork()
            child = os.fork()
            if child == 0:
                board.after_fork_in_child()
                os._exit(0 if board.current("", ["CACHE_WARM"]) else 1)
            board.after_fork_in_parent()
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join(10)
    assert board.since(0, 100_000) == put


def test_waits_of_a_process_that_does_not_answer_are_none(boards, tmp_path):
    board, other = boards.open(), boards.open()
    wait = Wait("w", other.join(producer()), "", ("A",), (), 5)
    other.note(wait)
    with emitter(boards.url, tmp_path, "stopped") as process:
        nats_server.stop(process.pid)
        assert board.waits() == [wait]


def test_it_ends_with_its_thread(boards):
    board = boards.open()
    board.close()
    board.close()
    assert not board._link._tasks
    with pytest.raises(SignalError, match="it was closed"):
        board.current("", ["A"])


# --- to be let in ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name in ("server", "client"):
        made = authority.issue_cert("127.0.0.1", common_name=name)
        made.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        made.private_key_pem.write_to_path(str(folder / f"{name}.key"))
    return folder


def works(board):
    put = board.put(signal(board.join(producer())))
    found = board.current("", ["CACHE_WARM"])
    board.close()
    return found == [put]


def test_tls_with_a_certificate_of_the_client_user_and_password(certificates, tmp_path, monkeypatch):
    monkeypatch.setattr(nats_link, "PATIENCE", 3.0)
    files = [f"--tlscert={certificates}/server.pem", f"--tlskey={certificates}/server.key"]
    options = [*files, f"--tlscacert={certificates}/ca.pem", "--tlsverify", "--user", "joe", "--pass", "p@ss/wort"]
    ours = {
        "certificate": f"{certificates}/ca.pem",
        "client_certificate": f"{certificates}/client.pem",
        "client_key": f"{certificates}/client.key",
    }
    with nats_server.running(tmp_path, *options) as server:
        url = f"tls://joe:p%40ss%2Fwort@{server.address}"
        assert works(opened(url, **ours))
        with pytest.raises(SignalError, match=rf"tls://{server.address} cannot be used: .*certificate"):
            opened(url)  # whose authority is not trusted
        began = time.monotonic()
        with pytest.raises(SignalError, match=r"(?i)authorization violation") as caught:
            opened(f"tls://joe:falsch@{server.address}", **ours)
        assert time.monotonic() - began < 2  # not tried again
        assert "falsch" not in str(caught.value)


def test_a_token_or_an_nkey(tmp_path):
    with nats_server.running(tmp_path, "--auth", "geheim") as server:
        assert works(opened(f"nats://geheim@{server.address}"))
        with pytest.raises(SignalError, match=r"(?i)authorization violation"):
            opened(server.url)
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    (tmp_path / "seed").write_bytes(bytes(seed))
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    (tmp_path / "nats.conf").write_text(f'authorization {{ users = [{{nkey: "{public}"}}] }}')
    with nats_server.running(tmp_path, "-c", str(tmp_path / "nats.conf")) as server:
        assert works(opened(server.url, nkey=str(tmp_path / "seed")))


def keys(prefix):
    """A new pair; its public key."""
    seed = bytes(nkeys.encode_seed(os.urandom(32), prefix))
    pair = nkeys.from_seed(bytearray(seed))
    return pair, pair.public_key.decode(), seed.decode()


def token(issuer, subject, name, claims):
    """A JWT as nsc makes it."""

    def encoded(data):
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    body = {"iss": issuer.public_key.decode(), "sub": subject, "name": name, "iat": 0, "nats": {**claims, "version": 2}}
    signed = ".".join(encoded(json.dumps(part).encode()) for part in (header, body))
    return f"{signed}.{encoded(issuer.sign(signed.encode()))}"


def test_a_credentials_file(tmp_path):
    operator, operator_key, _ = keys(nkeys.PREFIX_BYTE_OPERATOR)
    account, account_key, _ = keys(nkeys.PREFIX_BYTE_ACCOUNT)
    _, user_key, user_seed = keys(nkeys.PREFIX_BYTE_USER)
    no_limit = dict.fromkeys(("subs", "data", "payload"), -1)
    limits = {**no_limit, **dict.fromkeys(("conn", "leaf", "mem_storage", "disk_storage", "streams", "consumer"), -1)}
    _, system, _ = keys(nkeys.PREFIX_BYTE_ACCOUNT)
    account_token = token(operator, account_key, "A", {"type": "account", "limits": limits})
    system_token = token(operator, system, "SYS", {"type": "account", "limits": no_limit})
    (tmp_path / "nats.conf").write_text(
        f"operator: {token(operator, operator_key, 'O', {'type': 'operator'})}\n"
        f"resolver: MEMORY\nresolver_preload: {{{account_key}: {account_token}, {system}: {system_token}}}\n"
        f"system_account: {system}\n"
    )
    user_token = token(account, user_key, "U", {"type": "user", **no_limit})
    (tmp_path / "user.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\n{user_token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user_seed}\n------END USER NKEY SEED------\n"
    )
    with nats_server.running(tmp_path, "-c", str(tmp_path / "nats.conf")) as server:
        assert works(opened(server.url, credentials=str(tmp_path / "user.creds")))
        with pytest.raises(SignalError, match=r"(?i)authorization violation"):
            opened(server.url)


def test_a_user_with_few_rights(tmp_path):
    rights = ["$JS.API.>", "$JS.FC.>", "_INBOX.>", *(f"{pre}few{n}.>" for pre in ("", "$KV.") for n in (1, 2))]
    allowed = f"permissions: {{publish: {json.dumps(rights)}, subscribe: {json.dumps(rights)}}}"
    (tmp_path / "nats.conf").write_text(f'authorization {{ users = [{{user: joe, password: "geheim", {allowed}}}] }}')
    with nats_server.running(tmp_path, "-c", str(tmp_path / "nats.conf")) as server:
        few = Boards(server, tmp_path)
        few.url = f"nats://joe:geheim@{server.address}/few1"
        TestNatsBoard().test_who_was_killed_is_not_trusted_once_it_is_back(few)
        few.url = f"nats://joe:geheim@{server.address}/few2"
        TestNatsBoard().test_a_second_life_beside_the_first_takes_nothing_from_it(few)
        other = opened(f"nats://joe:geheim@{server.address}/other")
        with pytest.raises(SignalError, match=r"/other cannot be used: .*(?i:permissions violation)"):
            other.join(producer())
        other.close()
        few.close()


def test_the_second_server_is_used_where_the_first_does_not_run(nats_of_all):
    board = opened(f"nats://127.0.0.1:{free_port()},{nats_of_all.address}/t{uuid.uuid4().hex}")
    assert works(board)


def test_a_server_without_jetstream_is_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(nats_link, "PATIENCE", 0.5)
    with nats_server.running(tmp_path, jetstream=False) as server, pytest.raises(SignalError, match="JetStream"):
        opened(server.url)


@pytest.mark.parametrize(
    ("url", "servers", "bucket", "place", "login"),
    [
        ("nats://h", ("nats://h:4222",), "otel_perf_signals", "nats://h:4222", {}),
        ("tls://u:p%40@h:1/b", ("tls://h:1",), "b", "tls://h:1/b", {"user": "u", "password": "p@"}),
        ("nats://t@h:1,[::1]:2", ("nats://h:1", "nats://[::1]:2"), "otel_perf_signals", "nats://h:1,nats://[::1]:2",
         {"token": "t"}),
    ],
)  # fmt: skip
def test_urls(url, servers, bucket, place, login):
    address = address_of(SignalsSettings(url=url))
    assert (address.servers, address.bucket, address.place, address.options) == (servers, bucket, place, login)


@pytest.mark.parametrize(
    "url", ["nats://", "nats://u:geheim@", "nats://u:geheim@h:x", "nats://u:geheim@h/a.b", "redis://u:geheim@h",
            "nats://u:geheim@h,redis://h", "nats://u:ge,heim@h:x", "/some/where"],
)  # fmt: skip
def test_a_wrong_url_is_a_clear_error_without_its_password(url):
    signals = Signals({"OTEL_PERF_SIGNALS_URL": url})
    with pytest.raises(SettingError, match="OTEL_PERF_SIGNALS_URL=") as caught:
        signals.emit("A")
    assert "heim" not in str(caught.value)
    assert "heim" not in without_password(url)


@pytest.mark.parametrize("name", ["credentials", "nkey", "certificate", "client_certificate"])
def test_a_file_that_is_not_there_is_a_clear_error(name, tmp_path):
    with pytest.raises(SettingError, match=rf"OTEL_PERF_SIGNALS_{name.upper()}='.*': No such file"):
        address_of(SignalsSettings(url="nats://h", **{name: str(tmp_path / "none")}))


def test_an_nkey_that_is_none_is_a_clear_error(nats_of_all, tmp_path):
    (tmp_path / "seed").write_text("geheim")
    with pytest.raises(SignalError, match=r"the credentials or the nkey cannot be used \(") as caught:
        opened(nats_of_all.url, nkey=str(tmp_path / "seed"))
    assert "geheim" not in str(caught.value)


def test_credentials_that_are_none_are_a_clear_error(tmp_path):
    (tmp_path / "creds").write_text("geheim\n-----BEGIN NATS USER JWT-----\n")
    with pytest.raises(SettingError, match=r"OTEL_PERF_SIGNALS_CREDENTIALS='.*creds': it has no user JWT") as caught:
        opened("nats://h", credentials=str(tmp_path / "creds"))
    assert "geheim" not in str(caught.value)


def test_a_certificate_that_is_none_is_a_clear_error(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(SettingError, match=r"OTEL_PERF_SIGNALS_CERTIFICATE='.*ca.pem'.*they cannot be used"):
        address_of(SignalsSettings(url="nats://h", certificate=str(tmp_path / "ca.pem")))


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith(("nats", "otel_perf.signals.nats_"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nats", None)
    signals = Signals({"OTEL_PERF_SIGNALS_URL": "nats://joe:geheim@h"})
    with pytest.raises(MissingExtraError, match=r"OTEL_PERF_SIGNALS_URL=nats://h:4222 needs an extra: pip install"):
        signals.emit("A")


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


PROGRAM = """
import os, sys
from otel_perf.signals.api import Signals
signals = Signals(os.environ)
signals.on("NEVER", print)
signals.emit("A")
print("put", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def program(url, folder):
    """One that emits, responds, and ends without a word when its input does."""
    environ = programs.environment(folder, OTEL_PERF_SIGNALS_URL=url, OTEL_SERVICE_NAME="shop")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "put\n"
            yield process
        finally:
            process.kill()


def test_a_program_that_ends_has_left(boards, tmp_path):
    board = boards.open()
    with program(boards.url, tmp_path) as process:
        assert [heard.state for heard in board.producers()] == ["here"]
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0
    assert [heard.state for heard in board.producers()] == ["left"]


@pytest.mark.alone
def test_a_program_that_ends_does_not_wait_long_for_a_server_that_is_away(own_server, tmp_path):
    with program(own_server.url, tmp_path) as process:
        own_server.stop()
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 2.5
    assert (out, process.returncode) == ("", 0)
    assert re.fullmatch(rf"otel-perf: the signal board {own_server.url} cannot be used: .*\n", err)
