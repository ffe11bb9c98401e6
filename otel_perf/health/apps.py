"""The end points as an ASGI app and as a WSGI app, to be mounted where one likes. They answer for their own process."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from otel_perf.health import present
from otel_perf.health.documents import Answer, answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_METHODS: Final = {"GET", "HEAD"}


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer ``/livez``, ``/readyz``, ``/startupz`` and ``/healthz``, beneath wherever it is mounted; 30 µs."""
    if scope["type"] == "lifespan":
        await _live(receive, send)
        return
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    found = _answer(scope["method"], scope["path"], scope.get("root_path", ""))
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in found.headers]
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    await send({"type": "http.response.body", "body": found.body if scope["method"] != "HEAD" else b""})


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """As :func:`asgi_app`, for WSGI."""
    method = environ.get("REQUEST_METHOD", "GET")
    found = _answer(method, environ.get("PATH_INFO", ""), "")
    start_response(f"{found.status} {HTTPStatus(found.status).phrase}", found.headers)
    return [found.body if method != "HEAD" else b""]


def _answer(method: str, path: str, root: str) -> Answer:
    if method not in _METHODS:
        return Answer(405, b"")
    report = present.report()
    return answer([] if report is None else [report], path, time.monotonic(), root=root)


async def _live(receive: Receive, send: Send) -> None:
    """The server starts and stops this app by itself."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
