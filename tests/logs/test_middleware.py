"""Requests keep their ids in every kind of app, and the middleware works once, with us and without."""

import asyncio
import contextvars
import logging

import pytest
from opentelemetry import propagate, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

import otel_perf as perf
from otel_perf.core.correlation import current
from otel_perf.core.ids import KEY, attach, detach, now, span_of
from otel_perf.core.served import begin_request, end_request, request
from otel_perf.logs.correlation import CORRELATION_ID, TRACE_ID
from otel_perf.logs.middleware import MARK, within_request
from tests.stored import spans

ID = (b"x-request-id", b"mine")


@pytest.fixture(params=[True, False], ids=["on", "off"])
def running(request, otel_globals):
    """With the distribution on, and off: the middleware is the same to the app."""
    if request.param:
        request.getfixturevalue("start")()
    return request.param


def http(*headers, kind="http", path="/"):
    return {
        "type": kind, "headers": list(headers), "query_string": b"", "path": path, "raw_path": path.encode(),
        "root_path": "", "method": "GET", "scheme": "http", "http_version": "1.1", "server": ("shop", 80),
    }  # fmt: skip


def call(app, scope):
    """What the app sends."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    asyncio.run(app(scope, receive, send))
    return sent


def answer(*headers, kind="http.response.start"):
    async def app(scope, receive, send):
        await send({"type": kind, "status": 200, **({"headers": list(headers)} if headers else {})})
        await send({"type": "http.response.body", "body": current().encode()})

    return app


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("name", [b"x-request-id", b"x-correlation-id"])
def test_asgi_sends_the_id_back(running, kind, name):
    message = "http.response.start" if kind == "http" else "websocket.accept"
    sent = call(perf.CorrelationMiddleware(answer((b"a", b"b"), kind=message)), http((name, b"mine"), kind=kind))
    assert sent[0]["headers"] == [(b"a", b"b"), (name, b"mine")]
    assert sent[1]["body"] == b"mine"
    assert current() == ""


def test_asgi_leaves_an_answer_without_headers_and_one_that_has_the_header(running):
    assert call(perf.CorrelationMiddleware(answer()), http(ID))[0]["headers"] == [ID]
    theirs = (b"X-Request-Id", b"theirs")
    assert call(perf.CorrelationMiddleware(answer(theirs)), http(ID))[0]["headers"] == [theirs]
    assert "headers" not in call(perf.CorrelationMiddleware(answer()), http())[0]


@pytest.mark.parametrize("headers", [[("a", "b")], [(b"a", b"b", b"c")], [(b"X-Request-ID", b"theirs")]])
def test_asgi_hands_on_headers_of_any_kind(running, headers):
    """GIVEN headers that are none, or that can be read once THEN the server gets what it would without us."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "headers": iter(headers)})

    assert list(call(perf.CorrelationMiddleware(app), http(ID))[0]["headers"]) == headers


def test_asgi_hands_on_what_the_app_returns(running):
    """A server judges it: uvicorn ends the connection of an app that returns something."""

    async def app(scope, receive, send):
        return "something"

    for scope in (http(ID), http(), {"type": "lifespan"}):
        assert asyncio.run(perf.CorrelationMiddleware(app)(scope, None, None)) == "something"


def test_asgi_passes_the_lifespan_on_untouched(running):
    seen = []

    async def app(scope, receive, send):
        seen.append((scope, receive, send))

    scope = {"type": "lifespan"}
    asyncio.run(perf.CorrelationMiddleware(app)(scope, 1, 2))
    assert seen == [(scope, 1, 2)]
    assert MARK not in scope


def test_many_around_one_app_work_once(running):
    app = answer()
    for _ in range(3):
        app = perf.CorrelationMiddleware(app)
    assert call(app, http(ID))[0]["headers"] == [ID]


def test_an_error_of_the_apps_is_the_apps(running):
    async def app(scope, receive, send):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call(perf.CorrelationMiddleware(app), http(ID))
    assert current() == ""
    assert request.get() is None


@pytest.mark.usefixtures("absorbing")
def test_headers_that_are_none_cost_the_app_nothing(running):
    scope = http()
    scope["headers"] = [(b"x-request-id", None)]
    assert call(perf.CorrelationMiddleware(answer()), scope)[1]["body"] == b""


def test_an_app_that_calls_another_within_its_request(running):
    async def outer(scope, receive, send):
        inner = []

        async def keep(message):
            inner.append(message)

        await perf.CorrelationMiddleware(answer())(http((b"x-request-id", b"inner")), receive, keep)
        await send({"type": "http.response.start", "headers": inner[0]["headers"]})
        await send({"type": "http.response.body", "body": inner[1]["body"] + b" in " + current().encode()})

    sent = call(perf.CorrelationMiddleware(outer), http(ID))
    assert sent[1]["body"] == b"inner in mine"


# --- WSGI ----------------------------------------------------------------------------------------------


def wsgi(app, body=list, **environ):
    """Status, headers and body, with the body made in another context, as servers do that know nothing of us."""
    started = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": "", **environ}
    made = app(environ, lambda *arguments: started.append(arguments))
    parts = contextvars.Context().run(body, made)
    if hasattr(made, "close"):
        made.close()
    return started[0][0], started[0][1], parts


def say_hello(environ, start_response):
    start_response("200 OK", [("A", "b")])
    return [current().encode()]


def test_wsgi_sends_the_id_back(running):
    app = perf.WSGICorrelationMiddleware(perf.WSGICorrelationMiddleware(say_hello))
    assert wsgi(app, HTTP_X_REQUEST_ID="mine") == ("200 OK", [("A", "b"), ("X-Request-ID", "mine")], [b"mine"])
    found = wsgi(app, HTTP_X_CORRELATION_ID="other", HTTP_X_REQUEST_ID="bro\nken")
    assert found == ("200 OK", [("A", "b"), ("X-Correlation-ID", "other")], [b"other"])
    assert wsgi(app)[1] == [("A", "b")]
    assert request.get() is None


def test_wsgi_leaves_a_header_of_the_apps_and_its_exc_info(running):
    seen = []

    def app(environ, start_response):
        start_response("500 Oh", [("x-request-ID", "theirs")], "exc_info")
        return []

    perf.WSGICorrelationMiddleware(app)({"HTTP_X_REQUEST_ID": "mine"}, lambda *given: seen.append(given))
    assert seen == [("500 Oh", [("x-request-ID", "theirs")], "exc_info")]


def test_wsgi_takes_what_servers_take(running):
    """GIVEN exc_info by its name, headers that can be read once, or none THEN the server gets what it would get."""
    seen = []

    def start_response(status, headers, exc_info=None):
        seen.append((list(headers), exc_info))

    def app(environ, start_response):
        start_response("500 Oh", iter([("A", "b")]), exc_info="info")
        start_response("500 Oh", iter([("X-Request-ID", "theirs")]))
        start_response("500 Oh", [("too", "many", "parts")])
        return []

    perf.WSGICorrelationMiddleware(app)({"HTTP_X_REQUEST_ID": "mine"}, start_response)
    assert seen == [
        ([("A", "b"), ("X-Request-ID", "mine")], "info"), ([("X-Request-ID", "theirs")], None),
        ([("too", "many", "parts")], None),
    ]  # fmt: skip


def test_a_body_that_is_made_later_belongs_to_the_request(running):
    closed = []

    class Body:
        def __init__(self):
            self.left = 2

        def __iter__(self):
            return self

        def __next__(self):
            self.left -= 1
            if self.left < 0:
                raise StopIteration
            return current().encode()

        def close(self):
            closed.append(current())

    def app(environ, start_response):
        start_response("200 OK", [])
        return Body()

    found = wsgi(perf.WSGICorrelationMiddleware(app), HTTP_X_REQUEST_ID="mine")
    assert found[2] == [b"mine", b"mine"]
    assert closed == ["mine"]
    assert current() == ""


def test_a_body_that_the_server_looks_at_stays_what_it_is(running):
    class FileWrapper:
        def __iter__(self):
            return iter([b"x"])

    made = FileWrapper()

    def app(environ, start_response):
        start_response("200 OK", [])
        return made

    middleware = perf.WSGICorrelationMiddleware(app)
    assert middleware({"wsgi.file_wrapper": FileWrapper, "HTTP_X_REQUEST_ID": "x"}, lambda *_: None) is made
    assert middleware({"HTTP_X_REQUEST_ID": "x"}, lambda *_: None) is not made


def test_a_file_stays_what_it_is(running, tmp_path):
    """uWSGI's wrapper is a function that returns the file; it sends the file by itself if it gets that back."""
    (tmp_path / "file").write_bytes(b"x")

    def app(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](opened)

    with (tmp_path / "file").open("rb") as opened:
        environ = {"wsgi.file_wrapper": lambda file, size=0: file, "HTTP_X_REQUEST_ID": "x"}
        assert perf.WSGICorrelationMiddleware(app)(environ, lambda *_: None) is opened


def goes_on(app):
    """As OpenTelemetry's WSGI middleware: what it attaches is current until the body is closed."""

    def outer(environ, start_response):
        context = set_span_in_context(NonRecordingSpan(SpanContext(0xAB, 1, is_remote=False)))
        token = attach(context)
        body = app(environ, start_response)

        def parts():
            try:
                yield from body
            finally:
                detach(token)

        return parts()

    return outer


def streams(environ, start_response):
    start_response("200 OK", [])
    return (text for text in [current().encode(), f"{span_of(now()).trace_id:x}".encode()])


@pytest.mark.parametrize("server", ["known", "unknown", "granian"])
@pytest.mark.parametrize("given", ["mine", ""])
def test_a_body_goes_on_in_what_others_have_attached_for_it(running, server, given):
    """... and nothing of it is left for the next request of the thread."""
    before = now()
    app = perf.WSGICorrelationMiddleware(goes_on(streams))
    environ = {"HTTP_X_REQUEST_ID": given} if given else {}
    tokens = None if server == "unknown" else begin_request()
    body = app(environ, lambda *_: None)
    if server == "granian":
        body = within_request(body, environ)
        end_request(tokens)
    assert list(body) == [given.encode() or f"{0xAB:032x}".encode(), b"ab"]
    body.close()
    if server == "known":
        end_request(tokens)
    assert now() is before
    assert request.get() is None


@pytest.mark.parametrize("server", ["known", "unknown"])
def test_what_begins_and_goes_out_in_a_body_has_the_id(start, home, server):
    pipeline = start()
    sent = {}

    def app(environ, start_response):
        start_response("200 OK", [])
        with trace.get_tracer("t").start_as_current_span("in the body"):
            propagate.inject(sent)
        yield b"x"

    tokens = begin_request() if server == "known" else None
    body = perf.WSGICorrelationMiddleware(app)({"HTTP_X_REQUEST_ID": "mine"}, lambda *_: None)
    assert list(body) == [b"x"]
    if tokens is not None:
        end_request(tokens)
    pipeline.shutdown()
    assert sent["X-Request-ID"] == "mine"
    assert [span.attributes.get(KEY) for span in spans(home)] == ["mine"]


@pytest.mark.parametrize("server", ["known", "unknown"])
def test_an_app_that_leaves_something_attached_is_not_the_next_requests_trouble(running, server):
    before = now()

    def app(environ, start_response):
        start_response("200 OK", [])
        attach(set_span_in_context(NonRecordingSpan(SpanContext(0xAB, 1, is_remote=False))))
        return [b"x"]

    tokens = begin_request() if server == "known" else None
    assert perf.WSGICorrelationMiddleware(app)({"HTTP_X_REQUEST_ID": "mine"}, lambda *_: None) == [b"x"]
    if tokens is not None:
        end_request(tokens)
    assert now() is before


# --- without code --------------------------------------------------------------------------------------


@pytest.fixture
def kept():
    records = []

    class Keep(logging.Handler):
        def emit(self, record):
            records.append((record.getMessage(), record.__dict__[TRACE_ID], record.__dict__[CORRELATION_ID]))

    handler, logger = Keep(), logging.getLogger("shop")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


log = logging.getLogger("shop")


def server_span():
    return trace.get_tracer("t").start_as_current_span("server", kind=trace.SpanKind.SERVER)


def test_starlette(start, kept):
    start()
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.middleware import Middleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    class Spans:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            log.info("before")
            with server_span():
                await self.app(scope, receive, send)
            log.info("after")

    async def work(request):
        log.info("within")
        return PlainTextResponse("x", background=BackgroundTask(log.info, "background"))

    inner = Starlette(routes=[Route("/work", work)])
    app = Starlette(routes=[Mount("/inner", inner)], middleware=[Middleware(Spans)])
    app = perf.CorrelationMiddleware(app)
    given = call(app, http(ID, path="/inner/work"))
    without = call(app, http(path="/inner/work"))
    assert given[0]["headers"].count(ID) == 1
    assert ID[0] not in dict(without[0]["headers"])
    assert [text for text, *_ in kept] == ["before", "within", "background", "after"] * 2
    ((first, correlation_id),) = {line[1:] for line in kept[:4]}
    assert correlation_id == "mine"
    ((second, correlation_id),) = {line[1:] for line in kept[4:]}
    assert second == correlation_id != first
    assert "0" not in {first, second}


def test_flask(start, kept):
    start()
    from flask import Flask, Response

    app = Flask("shop")

    @app.get("/work")
    def work():
        def parts():
            log.info("part")
            yield "x"

        with server_span():
            log.info("within")
        log.info("after")
        return Response(parts())

    app.wsgi_app = perf.WSGICorrelationMiddleware(app.wsgi_app)
    client = app.test_client()
    given = client.get("/work", headers={"X-Correlation-ID": "mine"}, buffered=True)
    client.get("/work", buffered=True)
    assert given.headers.getlist("X-Correlation-ID") == ["mine"]
    assert [text for text, *_ in kept] == ["within", "after", "part"] * 2
    assert len({line[1] for line in kept[:3]}) == 1
    assert {line[2] for line in kept[:3]} == {"mine"}
    ((second, correlation_id),) = {line[1:] for line in kept[3:]}
    assert second == correlation_id != kept[0][1]
    assert second != "0"


def test_the_undo_leaves_the_frameworks_as_they_were(start):
    from flask import Flask
    from starlette.applications import Starlette

    before = (Flask.__call__, Starlette.__call__)
    pipeline = start()
    ours = (Flask.__call__, Starlette.__call__)
    pipeline.shutdown()
    assert (Flask.__call__, Starlette.__call__) == before
    assert not set(before) & set(ours)


def test_without_the_feature_they_are_untouched(start):
    from flask import Flask

    before = Flask.__call__
    start(OTEL_PERF_LOGS="off")
    assert Flask.__call__ is before
