"""Logging as many services have it: a format of their own, and the request's id at the end of each line."""

from __future__ import annotations

import logging
import time
import uuid
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

request_id: ContextVar[str] = ContextVar("request_id", default="-")


def configure() -> None:
    """Log to standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)


class RequestLog(logging.LoggerAdapter[logging.Logger]):
    """Adds the id of the current request to each message."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{msg} request={request_id.get()}", kwargs


def logger(name: str) -> RequestLog:
    """The log ``name``."""
    return RequestLog(logging.getLogger(name))


_log = logger("shop.http")


class RequestIds:
    """ASGI middleware: takes the id from ``X-Request-ID`` or makes one, answers with it, logs each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")[:64]
        token = request_id.set(given or uuid.uuid4().hex)
        started = time.perf_counter()
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.get().encode("latin-1"))]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            took = (time.perf_counter() - started) * 1000
            _log.info("%s %s answered %d in %.1f ms", scope["method"], scope["path"], status, took)
            request_id.reset(token)
