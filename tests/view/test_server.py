"""The real server, over real sockets."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from otel_perf.view import serving
from tests.e2e.support import Running, wait_for
from tests.view.conftest import ROOT
from tests.view.test_index import one_span, put


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    """A server on free ports, with a receiver; its home, and what it said at its start."""
    home = tmp_path_factory.mktemp("view") / "home"
    put(home, "traces", one_span(name="<script>alert('a')</script>"))
    log = home.parent / "view.log"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [
        sys.executable,
        "-m",
        "otel_perf",
        "view",
        str(home),
        "--json",
        "--port",
        "0",
        "--receive",
        "0",
        "--source",
        str(ROOT),
    ]
    with Running(command, environ, ROOT, log) as running:
        wait_for(lambda: "url" in running.output(), what="the server's line")
        said = json.loads(running.output().splitlines()[0])
        said["port"] = int(re.search(r":(\d+)/", said["url"])[1])
        said["receive_port"] = int(re.search(r":(\d+)/", said["receive"])[1])
        said["running"], said["home"] = running, home
        wait_for(lambda: get(said, "/api/state")[0] == 200, what="the index")
        yield said


def get(view, path, *, port="port", method="GET", headers=None, body=None):
    with closing(http.client.HTTPConnection("127.0.0.1", view[port], timeout=20)) as connection:
        connection.request(method, path, body=body, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_the_page_and_its_files_are_there_and_nothing_of_them_is_from_elsewhere(view):
    status, page, headers = get(view, "/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert not re.findall(rb'(?:src|href)="(?:https?:)?//', page)
    assert b"<style" not in page
    assert not re.findall(rb"\son\w+=|\sstyle=", page)
    for name in re.findall(rb'(?:src|href)="([\w./-]+)"', page):
        status, body, headers = get(view, f"/{name.decode()}")
        assert status == 200, name
        assert body
    assert b"uPlot" in get(view, "/uplot.js")[1]
    mark = get(view, "/app.js")[2]["etag"]
    assert get(view, "/app.js", headers={"if-none-match": mark})[0] == 304


@pytest.mark.parametrize(
    "path",
    ["/../pyproject.toml", "/static/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc%2fpasswd", "//etc/passwd", "/server.py",
     "/static/server.py", "/index.html%00.py", "/app.js/../../server.py", "/api/../server.py", "/telemetry.db"],
)  # fmt: skip
def test_no_path_leads_out_of_our_files(view, path):
    status, body, _ = get(view, path)
    assert status in {400, 404}
    assert b"root:" not in body
    assert b"import" not in body


def test_a_foreign_host_another_origin_and_other_methods_are_refused(view):
    assert get(view, "/api/state", headers={"Host": "evil.example"})[0] == 421
    assert get(view, "/api/state", headers={"Origin": "http://evil.example"})[0] == 403
    assert get(view, "/api/state", method="POST", body=b"x")[0] == 405
    assert (
        get(view, "/v1/traces", port="receive_port", method="POST", headers={"Host": "evil.example"}, body=b"x")[0]
        == 421
    )
    assert get(view, "/v1/traces", port="receive_port", headers={})[0] == 405


def test_bad_questions_are_answered_with_what_is_wrong(view):
    status, body, _ = get(view, "/api/traces?limit=x")
    assert status == 400
    assert b"whole number" in body
    assert get(view, "/api/source?path=../../../../etc/passwd&line=1")[1] == b'{"missing":true}'
    assert get(view, "/api/source?path=otel_perf/view/server.py&line=1")[0] == 200


def test_what_is_received_is_seen_at_once_and_told_to_open_pages(view):
    """GIVEN an open stream WHEN a program sends a span THEN the stream says so, and the span is in the traces."""
    with closing(http.client.HTTPConnection("127.0.0.1", view["port"], timeout=20)) as connection:
        connection.request("GET", "/api/live")
        stream = connection.getresponse()
        first = json.loads(stream.readline().removeprefix(b"data: "))
        assert get(view, "/v1/traces", port="receive_port", method="POST", headers={"content-type": "application/x-protobuf"},
                   body=one_span(tid=b"z" * 16, name="from afar").SerializeToString())[0] == 200  # fmt: skip
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            line = stream.readline()
            if line.startswith(b"data: ") and json.loads(line[6:])["items"].get("traces", 0) > first["items"].get(
                "traces", 0
            ):
                break
        else:
            pytest.fail("the stream did not tell")
    names = {row["name"] for row in json.loads(get(view, "/api/traces")[1])["traces"]}
    assert names >= {"from afar", "<script>alert('a')</script>"}


def test_a_gigabyte_is_refused_without_being_kept(view):
    """GIVEN a client that sends 1 GB WHEN the first bytes are there THEN it is told no, and no memory was taken."""
    before = resident(view["running"].pid)
    for length in (f"Content-Length: {2**30}\r\n", "Transfer-Encoding: chunked\r\n"):
        with socket.create_connection(("127.0.0.1", view["receive_port"]), timeout=20) as client:
            head = f"POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1:{view['receive_port']}\r\nContent-Type: application/x-protobuf\r\n{length}\r\n"
            client.sendall(head.encode())
            chunk, sent = b"100000\r\n" + b"x" * 2**20 + b"\r\n", 0
            try:
                for _ in range(2**10):
                    client.sendall(chunk)
                    sent += len(chunk)
            except OSError:
                pass  # it was closed
            assert sent < 2**28
    assert resident(view["running"].pid) - before < 120_000_000
    assert get(view, "/api/state")[0] == 200


def test_headers_without_end_are_refused(view):
    with socket.create_connection(("127.0.0.1", view["port"]), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: " + b"a" * 100_000)
        assert b"400" in client.recv(200)


def test_many_slow_clients_keep_nobody_out(view):
    """GIVEN as many clients as may be that never finish a request WHEN another asks THEN it is answered."""
    slow = [socket.create_connection(("127.0.0.1", view["port"])) for _ in range(serving.CONNECTIONS // 2)]
    try:
        for client in slow:
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127")
        assert get(view, "/api/state")[0] == 200
    finally:
        for client in slow:
            client.close()


def test_a_request_that_does_not_come_in_is_ended(monkeypatch):
    """GIVEN a client that sends a letter from time to time WHEN the time is over THEN the connection is closed."""
    import asyncio

    from tests.view.test_guard import inner

    monkeypatch.setattr(serving, "INCOMING", 0.3)

    async def scene():
        stop = asyncio.Event()
        listener = serving.listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        server = asyncio.create_task(serving.serve([(inner, listener)], stop))
        ended = []
        for start in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\nab"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began = time.monotonic()
            writer.write(start)
            while time.monotonic() - began < 5:
                try:
                    if not await asyncio.wait_for(reader.read(1000), 0.1):
                        break
                except TimeoutError:
                    writer.write(b"x")
                except ConnectionError:
                    break
            ended.append(time.monotonic() - began)
            writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answered = await reader.read(15)
        writer.close()
        stop.set()
        await server
        return ended, answered

    ended, answered = asyncio.run(scene())
    assert all(took < 3 for took in ended)
    assert answered == b"HTTP/1.1 200 OK"


def test_it_ends_by_a_signal_and_leaves_no_process(view, tmp_path):
    home = tmp_path / "home"
    put(home, "traces", one_span())
    with Running(
        [sys.executable, "-m", "otel_perf", "view", str(home), "--json", "--port", "0"],
        os.environ,
        ROOT,
        tmp_path / "log",
    ) as running:
        wait_for(lambda: (home / "index.db").exists(), what="the index")
        assert running.stop() == 0
        leftover = subprocess.run(["pgrep", "-f", f"analysis.index {home}"], capture_output=True, check=False)
        assert leftover.returncode == 1


def run(*arguments):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-m", "otel_perf", "view", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_wrong_usage_is_named(tmp_path, view):
    assert "no store at" in run(str(tmp_path / "none")).stderr
    assert run("--port", "99999").returncode == 2
    taken = run(str(view["home"]), "--port", str(view["port"]))
    assert taken.returncode == 2
    assert "choose another with --port" in taken.stderr
    short = tmp_path / "token"
    short.write_text("short")
    assert "16 or more letters" in run(str(view["home"]), "--port", "0", "--token-file", str(short)).stderr
    assert "cannot be read" in run(str(view["home"]), "--port", "0", "--token-file", str(tmp_path / "none")).stderr


def test_elsewhere_than_on_this_machine_it_needs_a_token(tmp_path):
    home = tmp_path / "home"
    put(home, "traces", one_span())
    with Running(
        [sys.executable, "-m", "otel_perf", "view", str(home), "--json", "--port", "0", "--listen", "0.0.0.0"],
        os.environ,
        ROOT,
        tmp_path / "log",
    ) as running:
        wait_for(lambda: "url" in running.output(), what="the server's line")
        url = json.loads(running.output().splitlines()[0])["url"]
        port, token = int(re.search(r":(\d+)/", url)[1]), re.search(r"token=([\w-]+)", url)[1]
        said = {"port": port}
        assert get(said, "/api/about")[0] == 401
        assert get(said, f"/?token={token}")[0] == 303
        assert get(said, "/api/about", headers={"Authorization": f"Bearer {token}"})[0] == 200


def test_without_the_extra_the_command_is_named(tmp_path):
    code = "import sys; sys.modules['starlette'] = None; from otel_perf.cli import main; sys.exit(main(['view', '--port', '0']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "pip install 'otel-perf[view]'" in done.stderr
