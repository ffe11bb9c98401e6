"""An app whose parts can be made ill: an ASGI app for uvicorn, a WSGI app for gunicorn."""

import os
import threading
import time

import otel_perf as perf

hangs = threading.Event()
state = {"raises": False, "kept": []}


@perf.health.check("hangs", critical=True, timeout=0.5, every=0.25)
def may_hang():
    if hangs.is_set():
        time.sleep(20)


@perf.health.check("raises", critical=True, every=0.25)
async def may_raise():
    if state["raises"]:
        raise ConnectionError("no route to postgres://shop:secret@db/shop")


def do(what, amount):
    """Make a part ill, or well again."""
    if what == "block":  # computes, so that the interpreter is wanted as well
        end = time.monotonic() + float(amount)
        while time.monotonic() < end:
            sum(range(1000))
    elif what == "hang":
        (hangs.set if amount == "on" else hangs.clear)()
    elif what == "raise":
        state["raises"] = amount == "on"
    elif what == "grow":
        state["kept"] = [b"x" * 2**20 for _ in range(int(amount) // 2**20)]  # all at once would keep the interpreter
    elif what == "span":
        from opentelemetry import trace

        trace.get_tracer("shop").start_span("order").end()


async def app(scope, receive, send):
    """/do/WHAT/AMOUNT, and health beneath /health."""
    if scope["type"] == "lifespan" or scope["path"].startswith("/health"):
        await perf.health.asgi_app({**scope, "root_path": "/health"}, receive, send)
        return
    do(*scope["path"].split("/")[2:4])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def application(environ, start_response):
    """The same for WSGI; answers with the process that did it."""
    path = environ["PATH_INFO"]
    if path.startswith("/health"):
        inner = {**environ, "SCRIPT_NAME": "/health", "PATH_INFO": path.removeprefix("/health")}
        return perf.health.wsgi_app(
            inner, lambda status, headers: start_response(status, [*headers, ("X-Pid", str(os.getpid()))])
        )
    do(*path.split("/")[2:4])
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Pid", str(os.getpid()))])
    return [str(os.getpid()).encode()]
