"""The real server, over real sockets."""

import asyncio
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from otel_perf.core.errors import SettingError
from otel_perf.view import serving
from tests.e2e.support import Running, wait_for
from tests.view.conftest import ROOT
from tests.view.test_guard import inner
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

        def told(least):
            deadline = time.monotonic() + 15
            while time.monotonic() < deadline:
                line = stream.readline()
                if line.startswith(b"data: ") and json.loads(line[6:])["items"].get("traces", 0) >= least:
                    return
            pytest.fail("the stream did not tell")

        told(1)
        assert get(view, "/v1/traces", port="receive_port", method="POST", headers={"content-type": "application/x-protobuf"},
                   body=one_span(tid=b"z" * 16, name="from afar").SerializeToString())[0] == 200  # fmt: skip
        told(2)
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
    """GIVEN more clients than may be that never finish a request WHEN others ask THEN they are answered."""
    slow = [socket.create_connection(("127.0.0.1", view["port"])) for _ in range(serving.CONNECTIONS + 50)]
    try:
        for client in slow:
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127")
        assert [get(view, "/api/state")[0] for _ in range(5)] == [200] * 5
        more = [socket.create_connection(("127.0.0.1", view["port"])) for _ in range(serving.CONNECTIONS)]
        slow += more
        assert get(view, "/api/state")[0] == 200
    finally:
        for client in slow:
            client.close()


LARGE = 8 * 2**20  # bytes of an answer, more than the kernel keeps for a client


async def large(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % LARGE)]})
    await send({"type": "http.response.body", "body": bytes(LARGE)})


async def streamed(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(2 * LARGE // 2**16):
        await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})


async def short(scope, receive, send):
    app = streamed if scope["path"] == "/stream" else large if scope["path"] == "/large" else inner
    await app(scope, receive, send)


@contextlib.asynccontextmanager
async def at_work():
    """A server of these apps; its port."""
    stop = asyncio.Event()
    listener = serving.listen("127.0.0.1", 0)
    server = asyncio.create_task(serving.serve([(short, listener)], stop))
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        await asyncio.wait_for(server, 20)


def never_reads(port, path):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


def drain(client):
    """How much there was for it until the connection ended."""
    client.settimeout(10)
    found = 0
    try:
        while piece := client.recv(2**20):
            found += len(piece)
    except ConnectionError:
        pass
    return found


async def status(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answered = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answered.split(b" ", 2)[1]


@pytest.mark.parametrize("path", ["/large", "/stream"])
def test_clients_that_do_not_read_keep_nobody_out(path):
    """GIVEN more clients than may be that ask and never read WHEN another asks THEN it is answered."""

    async def scene():
        async with at_work() as port:
            deaf = []
            for _ in range(serving.CONNECTIONS + 10):
                deaf.append(never_reads(port, path))
                await asyncio.sleep(0.002)
            found = [await status(port) for _ in range(5)]
            for client in deaf:
                client.close()
            return found

    assert asyncio.run(scene()) == [b"200"] * 5


@pytest.mark.parametrize("path", ["/large", "/stream"])
def test_an_answer_that_is_not_read_ends_its_connection(monkeypatch, path):
    """GIVEN a client that does not take its answer WHEN the time is over THEN the connection is gone, with the rest of it."""
    monkeypatch.setattr(serving, "OUTGOING", 0.3)

    async def scene():
        async with at_work() as port:
            client = never_reads(port, path)
            await asyncio.sleep(1.5)
            found = await asyncio.to_thread(drain, client)
            client.close()
            return found

    assert 0 < asyncio.run(scene()) < LARGE


def test_a_slow_reader_gets_all_of_its_answer(monkeypatch):
    """GIVEN a client that reads slowly but does read WHEN it is done in time THEN nothing is missing."""

    async def scene():
        async with at_work() as port:
            client = never_reads(port, "/large")
            await asyncio.sleep(0.5)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**20)

            def read():
                client.settimeout(10)
                head = client.recv(2**10)
                got = len(head.partition(b"\r\n\r\n")[2])
                while got < LARGE:
                    got += len(client.recv(2**20))
                return got

            found = await asyncio.to_thread(read)
            client.close()
            return found

    assert asyncio.run(scene()) == LARGE


def test_a_request_that_does_not_come_in_is_ended(monkeypatch):
    """GIVEN a client that sends a letter from time to time WHEN the time is over THEN the connection is closed."""
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


@contextlib.contextmanager
def listening(tmp_path, *arguments):
    """A page of its own with these arguments: what it said first, as JSON."""
    home = tmp_path / "home"
    put(home, "traces", one_span())
    command = [sys.executable, "-m", "otel_perf", "view", str(home), "--json", "--port", "0", *arguments]
    with Running(command, os.environ, ROOT, tmp_path / "log") as running:
        wait_for(lambda: '"url"' in running.output(), what="the server's line")
        said = json.loads(running.output().splitlines()[0])
        said["port"] = int(re.search(r":(\d+)/", said["url"])[1])
        yield said


def own_addresses():
    import psutil

    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    return [
        entry.address for name, entries in psutil.net_if_addrs().items() if name in up for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    ]  # fmt: skip


def test_elsewhere_than_on_this_machine_it_needs_a_token_and_is_reached_by_every_address(tmp_path):
    """GIVEN all addresses WHEN it is asked by one of them, or by a name THEN addresses are answered, a name if allowed."""
    with listening(tmp_path, "--listen", "0.0.0.0", "--receive", "0", "--allow-host", "View") as said:
        port, token = said["port"], re.search(r"token=([\w-]+)", said["url"])[1]
        assert get(said, "/api/about")[0] == 401
        assert get(said, f"/?token={token}")[0] == 303
        known = {"Authorization": f"Bearer {token}"}
        assert get(said, "/api/about", headers=known)[0] == 200
        assert get(said, "/api/about", headers={**known, "Host": f"view:{port}"})[0] == 200
        assert get(said, "/api/about", headers={**known, "Host": f"other:{port}"})[0] == 421
        assert [url.partition("?")[0] for url in said["urls"]] == [
            f"http://{address}:{port}/" for address in ("127.0.0.1", *own_addresses())
        ]
        taking = int(re.search(r":(\d+)/", said["receive"])[1])
        for url in said["urls"]:
            address = re.search(r"//([\d.]+):", url)[1]
            with closing(http.client.HTTPConnection(address, port, timeout=20)) as connection:
                connection.request("GET", "/api/about", headers=known)
                assert connection.getresponse().status == 200
            with closing(http.client.HTTPConnection(address, taking, timeout=20)) as connection:
                media = {"content-type": "application/x-protobuf"}
                connection.request("POST", "/v1/traces", one_span().SerializeToString(), {**known, **media})
                assert connection.getresponse().status == 200


@pytest.mark.parametrize("address", ["127.0.0.2", "[::1]"])
def test_the_address_that_it_prints_can_be_opened(tmp_path, address):
    if ":" in address:
        try:
            serving.listen("::1", 0).close()
        except (OSError, SettingError):
            pytest.skip("this machine has no IPv6")
    with listening(tmp_path, "--listen", address) as said:
        assert len(said["urls"]) == 1
        wait_for(lambda: urllib.request.urlopen(f"{said['url']}api/about", timeout=20).status == 200)
        assert "token" not in said["url"]


def test_a_platform_whose_loops_take_no_signals_ends_by_one_as_well(monkeypatch):
    """Windows: its loops raise NotImplementedError."""
    import signal

    from otel_perf.cli import view as command

    def not_there(*_):
        raise NotImplementedError

    async def scene():
        monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", not_there, raising=False)
        stop = asyncio.Event()
        command._stop_by_signal(stop)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 10)
        return True

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert asyncio.run(scene())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_elsewhere_it_says_that_nothing_is_encrypted(tmp_path):
    home = tmp_path / "home"
    put(home, "traces", one_span())
    command = [sys.executable, "-m", "otel_perf", "view", str(home), "--port", "0", "--listen"]
    for address, says in (("0.0.0.0", True), ("127.0.0.1", False)):
        with Running([*command, address], os.environ, ROOT, tmp_path / f"log-{address}") as running:
            wait_for(lambda running=running: "shows" in running.output(), what="the server's lines")
            running.stop()
            assert ("nothing is encrypted" in running.output()) is says


def test_without_the_extra_the_command_is_named(tmp_path):
    code = "import sys; sys.modules['starlette'] = None; from otel_perf.cli import main; sys.exit(main(['view', '--port', '0']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "pip install 'otel-perf[view]'" in done.stderr
