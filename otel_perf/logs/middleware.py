"""ASGI and WSGI middleware: a request is known from its first line to its last, and its given id is sent back.

Zero-code the same is put around the apps of uvicorn, Starlette, FastAPI, Flask and Django, see
:mod:`otel_perf.logs.servers`; whichever is called first does it, the others pass the request on.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.guard import Guard
from otel_perf.core.ids import attach, checked, detach, explicit, given, now, span_of
from otel_perf.core.served import Request, request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping

    from opentelemetry.context import Context

    Scope = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    ASGIApp = Callable[[Scope, Receive, Send], Awaitable[Any]]
    WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
    # The token of a request that begins here, and token and context of what was attached.
    _Begun = tuple[Any, tuple[Any, Context] | None]

MARK: Final = "otel_perf.request"  # in a scope or environ that has been through here
_TYPES: Final = frozenset({"http", "websocket"})
_ANSWERS: Final = frozenset({"http.response.start", "websocket.accept"})
_ASGI_NAMES: Final = (b"x-request-id", b"x-correlation-id")  # in the order in which they are believed
_WSGI_NAMES: Final = (("HTTP_X_REQUEST_ID", "X-Request-ID"), ("HTTP_X_CORRELATION_ID", "X-Correlation-ID"))
_guard: Final = Guard("logs")


class CorrelationMiddleware:
    """ASGI middleware: every line and span of a request carries its correlation id, whatever the server.

    An id that came as ``X-Request-ID`` or ``X-Correlation-ID`` (1 to 128 printable ASCII characters, else it is
    ignored) goes into the baggage and is answered by the same header, unless the app sets that itself. Websockets and
    streamed responses keep it to their end. Put around an app any number of times, it works once. 3 µs a request, 7 µs
    with an id.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        """Serve one connection."""
        return await serve_asgi(self.app, scope, receive, send)


async def serve_asgi(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> Any:
    """Call ``app`` as within :class:`CorrelationMiddleware`; what it returns is for the server to judge."""
    if scope["type"] not in _TYPES or MARK in scope:
        return await app(scope, receive, send)
    begun: _Begun = (None, None)
    try:
        headers = scope["headers"]
        name, correlation_id = _asgi_id(headers)
        begun = _begin(correlation_id, functools.partial(_asgi_headers, headers))
        scope[MARK] = True
        if correlation_id:
            send = _answering(send, name, correlation_id.encode())
    except Exception as error:
        _guard.handle(error)
    try:
        return await app(scope, receive, send)
    finally:
        _end(begun)


def _asgi_id(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, str]:
    found: dict[bytes, str] = {}
    for name, value in headers:
        if name in _ASGI_NAMES and name not in found:
            found[name] = checked(value.decode("latin-1"))
    for name in _ASGI_NAMES:
        if found and found.get(name):
            return name, found[name]
    return b"", ""


def _asgi_headers(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}


def _answering(send: Send, name: bytes, value: bytes) -> Send:
    async def answer(message: MutableMapping[str, Any]) -> None:
        if message["type"] in _ANSWERS:
            with suppress(Exception):  # headers that are none are the server's to judge
                headers = list(message.get("headers") or ())  # any iterable, perhaps of one use
                message = {**message, "headers": headers}
                if not any(bytes(theirs).lower() == name for theirs, _ in headers):
                    headers.append((name, value))
        await send(message)

    return answer


class WSGICorrelationMiddleware:
    """WSGI middleware: as :class:`CorrelationMiddleware`. Thread-safe; 3 µs a request, 5 µs with an id."""

    def __init__(self, app: WSGIApp) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Serve one request."""
        return serve_wsgi(self.app, environ, start_response)


def serve_wsgi(app: WSGIApp, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Call ``app`` as within :class:`WSGICorrelationMiddleware`."""
    if MARK in environ:
        return app(environ, start_response)
    begun: _Begun = (None, None)
    try:
        name, correlation_id = _wsgi_id(environ)
        begun = _begin(correlation_id, functools.partial(_wsgi_headers, environ))
        environ[MARK] = True
        if correlation_id:
            start_response = _starting(start_response, name, correlation_id)
    except Exception as error:
        _guard.handle(error)
    try:
        body = app(environ, start_response)
        ours, theirs = begun
        if ours is not None:  # a server that is known tells the request's end; elsewhere the body has to
            body = within_request(body, environ)
        served = request.get()
        if theirs is not None and served is not None and now() is not theirs[1] and (ours is None or served.goes_on):
            # A middleware of others' goes on with the body, which is made after this call, and puts back what it
            # found: what we attached goes after that, not before.
            served.left, begun = theirs, (ours, None)
        return body
    finally:
        _end(begun)


def _wsgi_id(environ: Mapping[str, Any]) -> tuple[str, str]:
    for key, name in _WSGI_NAMES:
        found = checked(environ.get(key))
        if found:
            return name, found
    return "", ""


def _wsgi_headers(environ: Mapping[str, Any]) -> Mapping[str, str]:
    return {
        key[5:].replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_") and isinstance(value, str)
    }


def _starting(start_response: Callable[..., Any], name: str, value: str) -> Callable[..., Any]:
    def start(status: str, headers: Any, *error: Any, **named: Any) -> Any:
        with suppress(Exception):  # headers that are none are the server's to judge
            headers = list(headers)
            if not any(theirs.lower() == name.lower() for theirs, _ in headers):
                headers.append((name, value))
        return start_response(status, headers, *error, **named)  # exc_info may be named, though it should not

    return start


def within_request(body: Any, environ: Mapping[str, Any]) -> Any:
    """``body``, made within the request that is served now whenever the server asks for it."""
    served, wrapper = request.get(), environ.get("wsgi.file_wrapper")
    if served is None or hasattr(body, "__len__") or hasattr(body, "read"):
        return body  # it is there already, or a file, which uWSGI sends by itself
    if isinstance(wrapper, type) and isinstance(body, wrapper):
        return body  # the server looks at what it is, for sendfile
    return _Body(body, served)


class _Body:
    """A body whose making belongs to the request."""

    def __init__(self, body: Any, served: Request) -> None:
        self._body = body
        self._next = iter(body).__next__
        self._request = served
        served.goes_on = True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = request.set(self._request)
        try:
            return self._next()  # type: ignore[no-any-return]
        finally:
            request.reset(token)

    def close(self) -> None:
        """Close the app's, as the server would."""
        close = getattr(self._body, "close", None)
        try:
            if close is not None:
                token = request.set(self._request)
                try:
                    close()
                finally:
                    request.reset(token)
        finally:
            left, self._request.left = self._request.left, None
            if left is not None and now() is left[1]:
                detach(left[0])


def _begin(correlation_id: str, headers: Callable[[], Mapping[str, str]]) -> _Begun:
    """Tell the request what its headers say; one that no server told of begins here. What :func:`_end` undoes."""
    context = now()
    served, ours = request.get(), None
    if served is None or served.headers is not None:  # an app that calls another one within its own request
        served = Request(context)
        ours = request.set(served)
    served.headers, served.correlation = headers, correlation_id
    if served.span is None:
        served.span = span_of(context)  # in front of us there is an instrumentor's middleware
    theirs = None
    if correlation_id and explicit(context) != correlation_id:
        context = given(correlation_id, context)
        theirs = attach(context), context
    return ours, theirs


def _end(begun: _Begun) -> None:
    ours, theirs = begun
    if theirs is not None:
        detach(theirs[0])
    if ours is not None:
        with suppress(ValueError):
            request.reset(ours)
