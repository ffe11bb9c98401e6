"""A Starlette app with a middleware in front of what its instrumentor adds. ``plain:app``."""

from __future__ import annotations

from typing import Any

import said
from opentelemetry import trace
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

said.configure()


def number_in(scope: dict[str, Any]) -> str:
    return str(scope["query_string"].decode().removeprefix("n="))


class Around:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            said.say(number_in(scope), "before")
        try:
            await self.app(scope, receive, send)
        finally:
            if scope["type"] == "http":
                said.say(number_in(scope), "after")


async def work(request: Any) -> PlainTextResponse:
    said.say(request.query_params["n"], "here")
    return PlainTextResponse(f"{trace.get_current_span().get_span_context().trace_id:032x}")


async def boom(request: Any) -> None:
    raise RuntimeError(f"n={request.query_params['n']} boom")


app = Starlette(routes=[Route("/work", work), Route("/boom", boom)])
app.add_middleware(Around)
