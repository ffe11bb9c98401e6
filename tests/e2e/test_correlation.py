"""The correlation id in frameworks, on sockets and on connections that are kept, on its way out and to workers."""

from __future__ import annotations

import http.client
import json
import re
import secrets
import signal
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support import Running, environment, free_port, instrumented, wait_for
from tests.e2e.test_log_ids import APPS, GUNICORN, UVICORN, env, lines_of
from tests.stored import logs, spans

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["env"]
VARIABLES = {"PYTHONPATH": str(APPS)}


def ids(server: Running, number: str, *texts: str) -> tuple[str, str]:
    """The trace and correlation id of all lines of a request, which have to be there from all libraries."""

    def found() -> list[tuple[str, str, str]]:
        lines = lines_of(server.output())[number]
        said = {line[2] for line in lines}
        wanted = {f"n={number} {text} {library}" for text in texts for library in ("stdlib", "structlog", "loguru")}
        return lines if wanted <= said and any("GET " in line or "WebSocket" in line for line in said) else []

    lines = wait_for(found, what=f"lines of {number}")
    ((trace_id, correlation_id),) = {line[:2] for line in lines}
    assert re.fullmatch("[0-9a-f]{32}", trace_id)
    return trace_id, correlation_id


def get(port: int, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


# --- FastAPI under uvicorn -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fastapi(env: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, int]]:
    folder, port = tmp_path_factory.mktemp("fastapi"), free_port()
    command = (*UVICORN, "--port", str(port), "asgi:app")
    with instrumented(env, folder / "home", *command, cwd=folder, variables=VARIABLES) as server:
        server.wait_until_listening(port)
        yield server, port


def test_a_websocket_keeps_its_id_to_the_end(env: Path, fastapi: tuple[Running, int], tmp_path: Path) -> None:
    server, port = fastapi
    command = [str(env / "bin" / "python"), str(APPS / "talk.py"), str(port), "70w", "my socket"]
    variables = environment(env, tmp_path / "home")
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=30)
    echoed, trace_id = done.stdout.splitlines()[0].rsplit(" ", 1)
    assert echoed == "my socket"
    assert ids(server, "70w", "socket", "later") == (trace_id, "my socket")


@pytest.mark.parametrize(
    "wrong", ["x" * 129, "", "tab\there", "caf\xe9"], ids=["too long", "empty", "control character", "not ASCII"]
)
def test_an_id_that_is_none_is_ignored(fastapi: tuple[Running, int], wrong: str) -> None:
    server, port = fastapi
    number = secrets.token_hex(4)
    _, headers, body = get(port, f"/work?n={number}", X_Request_ID=wrong)
    trace_id = json.loads(body)["trace_id"]
    assert ids(server, number, "here", "background") == (trace_id, trace_id)
    assert "X-Request-ID" not in headers


def test_of_two_headers_the_first_that_is_one_counts(fastapi: tuple[Running, int]) -> None:
    server, port = fastapi
    _, headers, _ = get(port, "/work?n=71h", X_Request_ID="", X_Correlation_ID="second")
    assert headers["X-Correlation-ID"] == "second"
    assert ids(server, "71h", "here")[1] == "second"
    _, headers, _ = get(port, "/work?n=72h", X_Request_ID="first", X_Correlation_ID="second")
    assert (headers["X-Request-ID"], headers["X-Correlation-ID"]) == ("first", None)
    assert ids(server, "72h", "here")[1] == "first"


def test_a_callers_baggage_counts_where_there_is_no_header(fastapi: tuple[Running, int]) -> None:
    server, port = fastapi
    _, headers, _ = get(port, "/work?n=73b", baggage="perf.correlation.id=from%20afar,other=1")
    assert ids(server, "73b", "here", "answered")[1] == "from afar"
    assert "X-Request-ID" not in headers
    _, _, body = get(port, "/work?n=74b", baggage="perf.correlation.id=broken%0Aline")
    assert ids(server, "74b", "here")[1] == json.loads(body)["trace_id"]


def test_requests_of_one_connection_keep_apart(fastapi: tuple[Running, int]) -> None:
    """Pipelined requests and large bodies make uvicorn go on reading from within a request, in its context."""
    server, port = fastapi
    with socket.create_connection(("127.0.0.1", port), timeout=20) as wire:
        for number in ("75p", "76p", "77p"):
            wire.sendall(f"GET /work?n={number} HTTP/1.1\r\nHost: x\r\nX-Request-ID: id-{number}\r\n\r\n".encode())
        body = "x" * 300_000
        wire.sendall(f"GET /work?n=78p HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        wire.sendall(b"GET /work?n=79p HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while wire.recv(65536):
            pass
    found = {number: ids(server, number, "here", "task") for number in ("75p", "76p", "77p", "78p", "79p")}
    assert len({trace_id for trace_id, _ in found.values()}) == 5
    assert [correlation for _, correlation in found.values()] == [
        "id-75p", "id-76p", "id-77p", found["78p"][0], found["79p"][0],
    ]  # fmt: skip


class Heard(ThreadingHTTPServer):
    """Keeps the headers of what it is asked."""

    def __init__(self) -> None:
        self.heard: dict[str, dict[str, str]] = {}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                names = [name.lower() for name in handler.headers]
                assert names.count("x-request-id") <= 1
                self.heard[handler.path] = {name.lower(): value for name, value in handler.headers.items()}
                handler.send_response(200)
                handler.send_header("Content-Length", "0")
                handler.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


def test_requests_that_go_out_carry_the_id(fastapi: tuple[Running, int]) -> None:
    server, port = fastapi
    with Heard() as heard:
        thread = threading.Thread(target=heard.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{heard.server_port}"
            get(port, f"/out?n=80o&url={url}", X_Request_ID="going out")
            given = dict(heard.heard)
            heard.heard.clear()
            get(port, f"/out?n=81o&url={url}")
        finally:
            heard.shutdown()
            thread.join()
    trace_id, _ = ids(server, "80o", "out")
    assert set(given) == {"/httpx", "/httpx-async", "/requests", "/own"}
    for path, headers in given.items():
        assert headers["traceparent"].split("-")[1] == trace_id
        assert headers["baggage"] == "perf.correlation.id=going+out"
        assert headers["x-request-id"] == ("mine" if path == "/own" else "going out")
    without = [path for path, headers in heard.heard.items() if "x-request-id" not in headers]
    assert sorted(without) == ["/httpx", "/httpx-async", "/requests"]
    assert not any("baggage" in headers for headers in heard.heard.values())


# --- others --------------------------------------------------------------------------------------------


def test_starlette_with_a_middleware_in_front(env: Path, tmp_path: Path) -> None:
    home, port = tmp_path / "home", free_port()
    with instrumented(
        env, home, *UVICORN, "--port", str(port), "plain:app", cwd=tmp_path, variables=VARIABLES
    ) as server:
        server.wait_until_listening(port)
        _, headers, own = get(port, "/work?n=1s", X_Request_ID="mine")
        assert get(port, "/boom?n=2s")[0] == 500
        assert headers["X-Request-ID"] == "mine"
        assert ids(server, "1s", "before", "here", "after") == (own, "mine")
        trace_id, correlation_id = ids(server, "2s", "before", "after")
        assert trace_id == correlation_id != own
        server.stop(signal.SIGTERM)
    served = {span.trace_id: span.attributes for span in spans(home) if span.kind == "SERVER"}
    assert set(served) == {own, trace_id}
    assert served[own]["perf.correlation.id"] == "mine"
    assert "perf.correlation.id" not in served[trace_id]
    (error,) = (
        entry for entry in logs(home) if entry.scope == "uvicorn.error" and "exception.type" in entry.attributes
    )
    assert error.trace_id == trace_id


DJANGO = {
    "wsgi": (*GUNICORN, "-w", "1", "--threads", "4", "-b", "127.0.0.1:{port}", "djangoserved:wsgi"),
    "asgi": (*UVICORN, "--port", "{port}", "djangoserved:asgi"),
    "runserver": ("django-admin", "runserver", "--noreload", "127.0.0.1:{port}"),
}


@pytest.mark.parametrize("kind", DJANGO)
def test_django(env: Path, tmp_path: Path, kind: str) -> None:
    home, port = tmp_path / "home", free_port()
    command = [part.format(port=port) for part in DJANGO[kind]]
    variables = {**VARIABLES, **({"DJANGO_SETTINGS_MODULE": "djangoapp"} if kind == "runserver" else {})}
    with instrumented(env, home, *command, cwd=tmp_path, variables=variables) as server:
        server.wait_until_listening(port)
        _, headers, own = get(port, "/work?n=1d", X_Request_ID="mine")
        assert headers["X-Request-ID"] == "mine"
        assert ids(server, "1d", "here", "thread") == (own, "mine")
        get(port, "/stream?n=2d")
        streamed, _ = ids(server, "2d", "part0", "part1")
        assert get(port, "/boom?n=3d")[0] == 500
        failed, _ = ids(server, "3d")
        assert len({own, streamed, failed}) == 3
        server.stop(signal.SIGINT if kind == "runserver" else signal.SIGTERM)
    assert {own, streamed, failed} <= {span.trace_id for span in spans(home) if span.kind == "SERVER"}
    uncaught = [entry for entry in logs(home) if entry.attributes.get("exception.message") == "n=3d boom"]
    assert uncaught
    assert {entry.trace_id for entry in uncaught} == {failed}


def test_a_celery_task_has_the_id_of_its_sender(env: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for name in ("queue", "control"):
        (tmp_path / name).mkdir()
    with instrumented(env, home, "python", str(APPS / "tasks.py"), cwd=tmp_path, variables=VARIABLES) as sender:
        assert sender.wait() == 0
    trace_id = re.findall("^[0-9a-f]{32}$", sender.output(), re.MULTILINE)[0]
    command = ("celery", "-A", "tasks", "worker", "-P", "solo", "--loglevel", "INFO")
    with instrumented(env, home, *command, cwd=tmp_path, variables=VARIABLES) as worker:
        wait_for(lambda: "n=2 thread loguru" in worker.output() and "n=3 alone loguru" in worker.output(), what="tasks")
        worker.stop(signal.SIGTERM)
    found = lines_of(worker.output())
    for number in "12":
        assert {line[:2] for line in found[number]} == {(trace_id, "job-17")}
        assert len(found[number]) == 6
    ((other, correlation_id),) = {line[:2] for line in found["3"]}
    assert correlation_id == "alone-3"
    assert other != trace_id
