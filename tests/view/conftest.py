"""A filled store with its index, and a way to ask an ASGI application."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from otel_perf.analysis.index import Builder
from otel_perf.view import beside, server
from otel_perf.view.reading import Question, Reading

ROOT = Path(__file__).resolve().parents[2]
SPANS = LOGS = 10_240  # 20 batches of each
FILL = ROOT / "benchmarks" / "programs" / "view_store.py"


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A home with a store of an hour, and its index."""
    home = tmp_path_factory.mktemp("filled") / "home"
    subprocess.run([sys.executable, str(FILL), str(home), str(SPANS), str(LOGS), "1"], check=True, capture_output=True)
    builder = Builder(home / "index.db", [home])
    for _ in builder.update():
        pass
    builder.close()
    return home


@pytest.fixture
def ask(filled):
    """Ask a question of the filled store, as the page does."""
    reading = Reading(filled / "index.db")
    assert reading.begin()
    of = server.questions(beside.Beside([filled], [ROOT]))

    def ask(name, /, **parameters):
        return of[name](reading, Question({key: str(value) for key, value in parameters.items()}))

    yield ask
    reading.close()


@pytest.fixture
def ask_of(tmp_path):
    """Index these homes, and ask of them."""
    readings = []

    def index(*homes):
        builder = Builder(tmp_path / "index.db", homes)
        for _ in builder.update():
            pass
        builder.close()
        reading = Reading(tmp_path / "index.db")
        assert reading.begin()
        readings.append(reading)
        of = server.questions(beside.Beside(homes, []))
        return lambda name, /, **said: of[name](reading, Question({key: str(value) for key, value in said.items()}))

    yield index
    for reading in readings:
        reading.close()


class Answered:
    """What an application answered."""

    def __init__(self):
        self.status = 0
        self.headers = {}
        self.body = b""


def request(app, path="/", *, method="GET", headers=(), body=b"", query="", pieces=None, server=("127.0.0.1", 4319)):
    """One request; ``pieces`` are those of its body, as they come."""
    given = {"host": "127.0.0.1:4319", **dict(headers)}
    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
        "query_string": query.encode(), "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in given.items() if v is not None],
        "scheme": "http", "server": server, "client": ("127.0.0.1", 5000), "asgi": {"version": "3.0"}, "state": {},
    }  # fmt: skip
    ahead = list(pieces if pieces is not None else [body])
    answered = Answered()

    async def receive():
        if not ahead:
            return {"type": "http.disconnect"}
        piece = ahead.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(ahead)}

    async def send(message):
        if message["type"] == "http.response.start":
            answered.status = message["status"]
            answered.headers = {k.decode(): v.decode() for k, v in message["headers"]}
        else:
            answered.body += message.get("body", b"")

    asyncio.run(app(scope, receive, send))
    return answered
