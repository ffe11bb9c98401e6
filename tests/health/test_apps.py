"""The end points mounted in apps: Starlette, and WSGI beneath another app."""

import asyncio
import json
import time

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

import otel_perf as perf
from otel_perf.health import present
from tests.health.reports import report

pytestmark = pytest.mark.usefixtures("alone")


class Known:
    """A runner that knows something."""

    def __init__(self, **changed):
        self.report = report(**changed)


@pytest.fixture
def bad():
    present.running.append(Known(ready=False, status="unhealthy"))


def ask_asgi(app, path, method="GET", kind="http"):
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": kind, "path": path, "root_path": "", "method": method, "headers": [], "query_string": b""}
    asyncio.run(app(scope, receive, send))
    return sent


@pytest.mark.parametrize("mounted", [True, False])
@pytest.mark.parametrize(
    ("probe", "status"), [("livez", 200), ("readyz", 503), ("healthz", 503), ("", 503), ("x", 404)]
)
def test_asgi(bad, mounted, probe, status):
    app = Starlette(routes=[Mount("/health", perf.health.asgi_app)]) if mounted else perf.health.asgi_app
    start, body = ask_asgi(app, f"/health/{probe}" if mounted else f"/{probe}")
    assert start["status"] == status
    assert (b"content-type", b"application/health+json") in start["headers"]
    assert json.loads(body["body"])["status"] == ("pass" if status == 200 else "fail")


def test_asgi_methods_and_other_kinds(bad):
    start, body = ask_asgi(perf.health.asgi_app, "/readyz", "HEAD")
    assert (start["status"], body["body"]) == (503, b"")
    assert ask_asgi(perf.health.asgi_app, "/readyz", "POST")[0]["status"] == 405
    assert ask_asgi(perf.health.asgi_app, "/readyz", kind="websocket")[0]["type"] == "websocket.close"


def test_asgi_lifespan():
    messages = iter(({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}))
    sent = []

    async def receive():
        return next(messages)

    async def send(message):
        sent.append(message["type"])

    asyncio.run(perf.health.asgi_app({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/livez", "GET", "200 OK"), ("/readyz", "GET", "503 Service Unavailable"), ("", "GET", "503 Service Unavailable"),
     ("/readyz", "HEAD", "503 Service Unavailable"), ("/x", "GET", "404 Not Found"), ("/livez", "PUT", "405 Method Not Allowed")],
)  # fmt: skip
def test_wsgi(bad, path, method, status):
    said = []
    environ = {"REQUEST_METHOD": method, "SCRIPT_NAME": "/health", "PATH_INFO": path}
    (body,) = perf.health.wsgi_app(environ, lambda *given: said.append(given))
    assert said[0][0] == status
    assert bool(body) == (method == "GET")


def test_a_look_that_is_long_ago_is_no_good_answer():
    present.running.append(Known(made=time.monotonic() - 20))
    assert ask_asgi(perf.health.asgi_app, "/readyz")[0]["status"] == 503


def test_the_present_status_is_a_copy(bad):
    perf.health.status()["ready"] = True
    assert not perf.health.status()["ready"]
