"""A Flask app that speaks in every place. ``wsgi:app``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import said
from flask import Flask, Response, request
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import Iterator

said.configure()
said.start_processes()
app = Flask(__name__)


class ExpectedError(Exception):
    pass


def trace_id() -> str:
    return f"{trace.get_current_span().get_span_context().trace_id:032x}"


class Around:
    """WSGI middleware of the app's, outside of what Flask's instrumentor covers."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        number = environ["QUERY_STRING"].removeprefix("n=")
        if number:
            said.say(number, "middleware")
        body = self.inner(environ, start_response)
        if number:
            said.say(number, "answered")
        return body


app.wsgi_app = Around(app.wsgi_app)  # type: ignore[method-assign]


@app.errorhandler(ExpectedError)
def expected(error: ExpectedError) -> Any:
    said.say(request.args["n"], "handler")
    return {"trace_id": trace_id()}, 418


@app.get("/work")
def work() -> dict[str, str]:
    number = request.args["n"]
    said.say(number, "here")
    said.in_thread(number)
    said.executor.submit(said.say, number, "executor").result()
    said.processes.submit(said.say, number, "process").result()
    return {"trace_id": trace_id()}


@app.get("/expected")
def fails() -> None:
    raise ExpectedError(request.args["n"])


@app.get("/boom")
def boom() -> None:
    raise RuntimeError(f"n={request.args['n']} boom")


@app.get("/stream")
def stream() -> Response:
    number, own = request.args["n"], trace_id()

    def parts() -> Iterator[str]:
        for part in range(3):
            said.say(number, f"part{part}")
            yield own
            time.sleep(0.005)

    return Response(parts())
