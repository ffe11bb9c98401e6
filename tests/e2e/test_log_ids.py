"""Every line that is made while a request is served has that request's ids, and none has another's.

Real servers under ``opentelemetry-instrument`` and nothing else, 200 requests at once; what they print and what they
store is read line by line.
"""

from __future__ import annotations

import http.client
import json
import re
import secrets
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support import free_port, instrumented, wait_for
from tests.stored import lines as stored
from tests.stored import logs
from tools.environments import ensure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.e2e.support import Running

APPS = Path(__file__).parent / "apps" / "lines"
AT_ONCE = 200
A_FEW = 40  # at once, with servers that are much like another one
LIBRARIES = ("stdlib", "structlog", "loguru")
GUNICORN = ("gunicorn", "--control-socket", "gunicorn.ctl", "--access-logfile", "-", "--backlog", "512")
GRANIAN = ("granian", "--access-log", "--access-log-fmt", "%(method)s %(path)s?%(query_string)s %(status)d")
UVICORN = ("uvicorn", "--backlog", "512")
CROWDED = {"uvicorn", "gunicorn-uvicorn-worker", "gunicorn-sync", "gunicorn-gthread"}
# The others say nothing of an error after which the app answered by itself, or say it as text.
REPORTING = {
    "uvicorn",
    "uvicorn-h11-asyncio",
    "gunicorn-uvicorn-worker",
    "gunicorn-sync",
    "gunicorn-gthread",
    "granian-wsgi",
    "werkzeug",
}
EVERYWHERE = ("middleware", "here", "thread", "executor", "process", "answered")

SERVERS = {
    "uvicorn": (*UVICORN, "--port", "{port}", "asgi:app"),
    "uvicorn-h11-asyncio": (*UVICORN, "--http", "h11", "--loop", "asyncio", "--port", "{port}", "asgi:app"),
    "gunicorn-uvicorn-worker": (
        *GUNICORN, "-w", "2", "-k", "uvicorn.workers.UvicornWorker", "-b", "127.0.0.1:{port}", "asgi:app",
    ),
    "gunicorn-asgi": (*GUNICORN, "-w", "2", "-k", "asgi", "-b", "127.0.0.1:{port}", "asgi:app"),
    "granian-asgi": (*GRANIAN, "--interface", "asgi", "--port", "{port}", "asgi:app"),
    "gunicorn-sync": (*GUNICORN, "-w", "2", "-b", "127.0.0.1:{port}", "wsgi:app"),
    "gunicorn-gthread": (*GUNICORN, "-w", "2", "--threads", "50", "-b", "127.0.0.1:{port}", "wsgi:app"),
    "granian-wsgi": (*GRANIAN, "--interface", "wsgi", "--port", "{port}", "--blocking-threads", "16", "wsgi:app"),
    "werkzeug": ("flask", "--app", "wsgi", "run", "--port", "{port}"),
}  # fmt: skip


@pytest.fixture(scope="session")
def env() -> Path:
    """The environment with the servers and libraries."""
    return ensure("logs")


@dataclass
class Asked:
    """A request, and what came back."""

    number: str
    path: str
    given: str = ""  # X-Request-ID
    caller: str = ""  # the trace id of the caller
    status: int = 0
    trace_id: str = ""
    echoed: str = ""

    def ask(self, port: int) -> None:
        headers = {"X-Request-ID": self.given} if self.given else {}
        if self.caller:
            headers["traceparent"] = f"00-{self.caller}-{secrets.token_hex(8)}-01"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", f"{self.path}?n={self.number}", headers=headers)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        self.status, self.echoed = answer.status, answer.headers.get("X-Request-ID", "")
        if self.path == "/stream":
            assert len(body) == 3 * 32
            self.trace_id = body[:32]
        elif self.status != 500:
            self.trace_id = json.loads(body)["trace_id"]

    @property
    def expected(self) -> list[str]:
        """The lines of the app, without the library."""
        places = {
            "/work": (*EVERYWHERE, *(("task", "background") if self.is_asgi else ())),
            "/expected": ("middleware", "handler", "answered"),
            "/boom": ("middleware",) if self.is_asgi else ("middleware", "answered"),
            "/stream": ("middleware", "answered", "part0", "part1", "part2"),
        }
        return [f"n={self.number} {place}" for place in places[self.path]]

    is_asgi: bool = field(default=True)


def requests(count: int, is_asgi: bool) -> list[Asked]:
    """As many as are made at once: some with an id of their own, some with a caller's trace, some with both."""
    paths = ("/work", "/work", "/expected", "/boom", "/stream")
    return [
        Asked(
            f"{number}x",
            paths[number % len(paths)],
            given=f"given-{number}" if number % 2 else "",
            caller=secrets.token_hex(16) if number % 3 == 0 else "",
            is_asgi=is_asgi,
        )
        for number in range(count)
    ]


def lines_of(output: str) -> dict[str, list[tuple[str, str, str]]]:
    """By the number of the request: trace id, correlation id and text of the lines that were printed for it."""
    found = defaultdict(list)
    for line in output.splitlines():
        match = re.match(r"([^|]*)\|([^|]*)\|(.*n=(\w+).*)", line)
        if match:
            found[match[4]].append((match[1], match[2], match[3]))
    return found


def access_lines(server: Running) -> int:
    return len(re.findall(r"\|[^|]*GET /\w+\?n=", server.output()))


def stored_lines(home: Path) -> int:
    time.sleep(0.3)  # a look costs more than the server's next request
    return sum(
        1 for line in stored(home) if number_of(line.body) or number_of(line.attributes.get("exception.message"))
    )


def number_of(text: object) -> str:
    """The number of the request that a text is of."""
    match = re.match(r"n=(\w+) ", str(text))
    return match[1] if match else ""


@pytest.mark.parametrize("name", SERVERS)
def test_every_line_has_the_ids_of_its_request(env: Path, tmp_path: Path, name: str) -> None:
    home, port = tmp_path / "home", free_port()
    command = [part.format(port=port) for part in SERVERS[name]]
    asked = requests(AT_ONCE if name in CROWDED else A_FEW, command[-1] == "asgi:app")
    failing = sum(one.path == "/boom" for one in asked) if name in REPORTING else 0
    lines = sum(len(one.expected) for one in asked) * len(LIBRARIES) + failing
    with instrumented(env, home, *command, cwd=tmp_path, variables={"PYTHONPATH": str(APPS)}) as server:
        server.wait_until_listening(port)
        with ThreadPoolExecutor(len(asked)) as all_at_once:
            list(all_at_once.map(lambda one: one.ask(port), asked))
        wait_for(lambda: access_lines(server) >= len(asked), what="the access lines")
        wait_for(lambda: stored_lines(home) >= lines, what="the stored lines")
    statuses = {(one.path, one.status) for one in asked}
    assert statuses == {("/work", 200), ("/expected", 418), ("/boom", 500), ("/stream", 200)}
    check(asked, lines_of(server.output()))
    check_stored(asked, home, reporting=name in REPORTING)


def check(asked: Iterable[Asked], printed: dict[str, list[tuple[str, str, str]]]) -> None:
    """What was printed: each line once, with the ids of its request."""
    owners: dict[str, str] = {}
    for one in asked:
        lines = printed[one.number]
        (trace_id,) = {line[0] for line in lines}
        assert re.fullmatch("[0-9a-f]{32}", trace_id), lines
        assert one.trace_id in {"", trace_id}
        assert one.caller in {"", trace_id}
        assert owners.setdefault(trace_id, one.number) == one.number
        assert {line[1] for line in lines} == {one.given or trace_id}
        assert one.echoed == one.given
        said = Counter(line[2] for line in lines if re.search(r"(stdlib|structlog|loguru)$", line[2]))
        assert said == Counter(f"{text} {library}" for text in one.expected for library in LIBRARIES)
        assert sum("GET " in line[2] for line in lines) >= 1  # the access line


def check_stored(asked: Iterable[Asked], home: Path, *, reporting: bool) -> None:
    """What was exported: the same lines, once each, the errors that nobody caught, and a record of each request."""
    bodies = defaultdict(Counter)
    errors = defaultdict(set)
    records = defaultdict(list)
    for entry in logs(home):
        correlation_id = entry.attributes.get("perf.correlation.id", "")
        if entry.event_name == "perf.request":
            records[entry.trace_id].append(correlation_id)
        elif number := number_of(entry.body):
            bodies[number][entry.body, entry.trace_id, correlation_id] += 1
        elif number := number_of(entry.attributes.get("exception.message")):
            errors[number].add((entry.trace_id, correlation_id))
    for one in asked:
        found = bodies[one.number]
        (trace_id,) = {key[1] for key in found}
        assert one.trace_id in {"", trace_id}
        assert {key[2] for key in found} == {one.given}
        assert set(found.values()) == {1}
        assert {key[0] for key in found} == {f"{text} {library}" for text in one.expected for library in LIBRARIES}
        assert records[trace_id] == [one.given]
        assert errors[one.number] == ({(trace_id, one.given)} if reporting and one.path == "/boom" else set())
