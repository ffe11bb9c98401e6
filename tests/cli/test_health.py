"""otel-perf health: what it prints, and 0, 1, 2 or 3."""

import json
import os
import socket
import threading
import time

import pytest

from otel_perf import cli
from otel_perf.core.home import HOME_VARIABLE, Home
from otel_perf.health import files
from otel_perf.health.server import Server
from tests.e2e.support import free_port
from tests.health.reports import check, report

BAD = {
    "status": "unhealthy",
    "ready": False,
    "checks": [check("db", "unhealthy", "gone", critical=True), check("mail", "unknown", critical=True)],
}
WARM = {"status": "degraded", "checks": [check("db", "degraded", "slow", critical=True)]}


@pytest.fixture
def folder(home):
    home.mkdir()
    return home


@pytest.fixture
def port(monkeypatch):
    """A server at the port that the environment names, and what it answers."""
    server = Server("127.0.0.1", free_port(), print)
    server.bind()
    monkeypatch.setenv("OTEL_PERF_HEALTH_PORT", str(server._port))
    yield server
    server.close()


def run(*arguments):
    return cli.main(["health", *map(str, arguments)])


ILL = """\
  UNHEALTHY db (process PID): gone
  degraded mail (process PID): it has not answered yet
"""


@pytest.mark.parametrize(
    ("changed", "probe", "status", "text"),
    [
        ({}, "ready", 0, "healthy shop\n"),
        (WARM, "ready", 0, "degraded shop\n  degraded db (process PID): slow\n"),
        (BAD, "ready", 1, f"UNHEALTHY shop\n{ILL}"),
        (BAD, "live", 0, "healthy shop\n"),
        (BAD, "started", 0, f"healthy shop\n{ILL}"),
        (BAD, "all", 1, f"UNHEALTHY shop\n{ILL}"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["file", "port"])
def test_what_it_says(folder, request, capsys, way, changed, probe, status, text):
    if way == "file":
        files.write(Home({HOME_VARIABLE: str(folder)}), report(**changed))
    else:
        request.getfixturevalue("port").reports = [report(**changed)]
    assert run("--probe", probe) == status
    out = capsys.readouterr().out
    assert out == text.replace("PID", str(os.getpid()))
    assert run("--probe", probe, "--json") == status
    assert json.loads(capsys.readouterr().out)["status"] == (
        "fail" if status else "warn" if changed is WARM else "pass"
    )


def test_without_a_word_of_anybody_it_is_not_well(folder, capsys):
    assert run() == 1
    assert capsys.readouterr().out == f"UNHEALTHY: no process says in {folder} how it is; --home names another folder\n"
    files.write(Home({HOME_VARIABLE: str(folder)}), report())
    assert run("--service", "other") == 1
    assert "no process of service other" in capsys.readouterr().out
    assert run("--service", "shop") == 0


def test_a_process_that_has_fallen_silent(folder, capsys):
    files.write(Home({HOME_VARIABLE: str(folder)}), report(made=time.monotonic() - 30))
    assert run() == 1
    assert f"process {os.getpid()} has not said how it is for 30 s" in capsys.readouterr().out


def test_a_port_that_nobody_listens_at(capsys):
    port = free_port()
    assert run("--port", port) == 1
    assert f"http://127.0.0.1:{port}/readyz does not answer" in capsys.readouterr().out


def test_a_port_that_says_nothing_is_a_timeout(capsys):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert run("--port", port, "--timeout", "100ms") == 3
    assert f"http://127.0.0.1:{port}/readyz does not answer within 0.1 s" in capsys.readouterr().out


def test_a_port_of_something_else(capsys):
    def answer():
        client, _ = server.accept()
        client.recv(1000)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
        client.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        assert run("--port", server.getsockname()[1]) == 1
        thread.join()
    assert "is no health of otel-perf's" in capsys.readouterr().out


def test_it_waits_until_it_is_well(folder, port):
    port.reports = [report(**BAD)]
    threading.Timer(0.3, lambda: setattr(port, "reports", [report()])).start()
    assert run("--wait", "10s") == 0


def test_it_waits_no_longer_than_asked(folder, port):
    port.reports = [report(**BAD)]
    began = time.monotonic()
    assert run("--wait", "300ms") == 3
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--probe", "x"],
        ["--port", "0"],
        ["--port", "x"],
        ["--port", "65536"],
        ["--wait", "soon"],
        ["--timeout", "x"],
        ["x"],
    ],
)
def test_wrong_usage_is_2(folder, arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2


def test_a_wrong_variable_is_said(folder, monkeypatch, capsys):
    monkeypatch.setenv("OTEL_PERF_HEALTH_PORT", "many")
    files.write(Home({HOME_VARIABLE: str(folder)}), report())
    assert run() == 0
    assert "OTEL_PERF_HEALTH_PORT='many'" in capsys.readouterr().err
