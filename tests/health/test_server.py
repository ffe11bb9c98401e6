"""The port answers whatever its clients do, belongs to one process at a time, and goes to another when that ends."""

import contextlib
import json
import os
import socket
import threading
import time
from http.client import HTTPConnection

import pytest

from otel_perf.core import guard
from otel_perf.health import server as module
from otel_perf.health.server import Server, answers_for
from tests.e2e.support import free_port, listens, wait_for
from tests.health.reports import check, report


@pytest.fixture
def problems():
    return []


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def server(port, problems):
    made = Server("127.0.0.1", port, problems.append)
    made.reports = [report(check("disk"))]
    made.bind()
    yield made
    made.close()


def test_a_request_that_comes_in_pieces(server, port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for part in (b"GET /rea", b"dyz HTTP/1.1\r\nHost: x\r\n"):
            client.sendall(part)
            wait_for(lambda: server._clients, what="it is in conversation")
        client.sendall(b"\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")


def ask(port, path="/readyz", method="GET"):
    connection = HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


def send(port, data):
    """What comes back for ``data``, whatever that is."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        with contextlib.suppress(OSError):  # it has answered and gone
            client.shutdown(socket.SHUT_WR)
        found = b""
        while more := client.recv(65536):
            found += more
    return found


def test_it_answers(server, port):
    status, headers, body = ask(port)
    assert (status, headers["Content-Type"]) == (200, "application/health+json")
    assert json.loads(body)["status"] == "pass"
    server.reports = [report(ready=False)]
    assert ask(port)[0] == 503
    assert ask(port, "/livez?verbose")[0] == 200
    assert ask(port, "/nonsense")[0] == 404


def test_head_has_no_body_and_other_methods_are_refused(server, port):
    status, headers, body = ask(port, method="HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 0
    assert ask(port, method="POST")[0] == 405


@pytest.mark.parametrize(
    "data",
    [b"", b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" * 100, b"GET livez HTTP/1.1\r\n\r\n", b"GET " + b"/" * 100_000],
)
def test_what_is_no_request_is_refused_and_does_no_harm(server, port, data):
    found = b"HTTP/1.1 400"
    with contextlib.suppress(ConnectionError):  # more was sent than is read
        found = send(port, data)
    assert found.startswith(b"HTTP/1.1 400")
    assert ask(port)[0] == 200


@pytest.mark.alone
def test_clients_that_say_nothing_hold_up_nobody_for_long(server, port, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 1.0)
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(module.AT_ONCE - 1)]
    began = time.monotonic()
    assert ask(port)[0] == 200
    assert time.monotonic() - began < 0.5
    wait_for(lambda: not server._clients, timeout=5, what="they were let go")
    for client in idle:
        client.close()


def test_more_clients_than_are_served_at_once_wait(server, port):
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(ask(port)[0])) for _ in range(3 * module.AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert statuses == [200] * len(threads)


def test_it_is_one_of_several_that_listens_and_another_takes_over(server, port, problems, monkeypatch):
    monkeypatch.setattr(module, "RETRY", 0.0)
    second = Server("127.0.0.1", port, problems.append)
    second.reports = [report(ready=False)]
    for _ in range(module.FOREIGN + 2):
        second.bind()
    assert (server.is_bound, second.is_bound) == (True, False)
    assert problems == []  # who has the port answers for this process, too
    server.close()
    wait_for(lambda: second.bind() or second.is_bound, what="the other one listens")
    assert ask(port)[0] == 503
    second.close()
    assert not listens(port)


def test_a_foreign_program_at_the_port_is_told_of_once(port, problems, monkeypatch):
    monkeypatch.setattr(module, "RETRY", 0.0)
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", port)):
        assert not answers_for(os.getpid(), "127.0.0.1", port)
        made = Server("127.0.0.1", port, problems.append)
        for _ in range(2 * module.FOREIGN):
            made.bind()
    what = f"otel-perf: OTEL_PERF_HEALTH_PORT={port} at 127.0.0.1 is taken by another program, or by a service"
    assert problems == [f"{what} with another OTEL_PERF_HOME or user; choose another port; health has no port"]
    made.bind()
    assert made.is_bound  # it has ended
    made.close()


def test_another_service_at_the_port_is_told_of(server, port, problems, monkeypatch):
    """GIVEN a server that does not answer for this process, whose files are elsewhere."""
    monkeypatch.setattr(module, "RETRY", 0.0)
    server.reports = [report(check("disk"), pid=1)]
    second = Server("127.0.0.1", port, problems.append)
    for _ in range(2 * module.FOREIGN):
        second.bind()
    assert len(problems) == 1


def test_an_address_of_another_machine_is_told_of(port, problems):
    made = Server("192.0.2.1", port, problems.append)
    made.bind()
    made.bind()
    assert not made.is_bound
    (line,) = problems
    assert "at 192.0.2.1 cannot be listened at" in line


def test_ipv6(problems):
    if not socket.has_ipv6:
        pytest.skip("there is no IPv6 here")
    port = free_port()
    made = Server("::1", port, problems.append)
    made.bind()
    if problems:
        pytest.skip(problems[0])
    made.reports = [report(check("disk"))]
    assert answers_for(os.getpid(), "::", port)
    made.close()


def test_a_forked_child_does_not_keep_the_port(server, port):
    """GIVEN a child that outlives its parent's listening THEN the port is free."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        server.after_fork_in_child()
        os.read(read, 1)
        os._exit(0)
    try:
        server.close()
        wait_for(lambda: not listens(port))
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            probe.listen()
    finally:
        os.write(write, b"x")
        os.waitpid(pid, 0)


def test_without_threads_it_answers_one_after_the_other(server, port, monkeypatch):
    def none(*_arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(module, "start_new_thread", none)
    assert [ask(port)[0] for _ in range(3)] == [200] * 3
    second = Server("127.0.0.1", free_port(), print)
    second.bind()
    assert not second.is_bound


@pytest.fixture
def guarded(absorbing, port, problems):
    known = guard.Guard("health", lambda: problems.append("stepped down"))
    made = Server("127.0.0.1", port, problems.append, lambda: known)
    made.bind()
    yield made, known
    made.close()


def test_an_error_of_our_own_is_answered_told_and_ends_nothing(guarded, port, problems, monkeypatch):
    server, known = guarded
    for _ in range(2 * guard.LIMIT):
        server.reports = [{"pid": 1}]
        assert ask(port, "/startupz")[0] == 503
    there = module._there
    monkeypatch.setattr(module, "_there", lambda client: 1 / 0)
    assert send_or_nothing(port) == b""
    monkeypatch.setattr(module, "_there", there)
    server.reports = [report(check("disk"))]
    assert ask(port)[0] == 200
    wait_for(lambda: known.errors == 2 * guard.LIMIT + 1)
    assert problems == []


def send_or_nothing(port):
    with contextlib.suppress(ConnectionError):
        return send(port, b"GET /livez HTTP/1.1\r\n\r\n")
    return b""


def test_who_has_said_something_is_not_sent_away_for_others(server, port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"GET /readyz HTTP/1.1\r\n")
        wait_for(lambda: server._clients)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(2 * module.AT_ONCE)]
        assert ask(port)[0] == 200
        client.sendall(b"\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 200 OK")
    for one in idle:
        one.close()


def test_one_that_is_closed_listens_no_more(server, port):
    server.close()
    server.bind()
    assert not server.is_bound
