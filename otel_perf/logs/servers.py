"""Servers and frameworks tell a request's first and last line, without code: patched when the app imports them.

A server's patch is around all that it does for one request, its access line and what it says of the app's error
included, which it logs after the span has ended. A framework's is around the app, for servers that are not known here.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.patches import on_import, put
from otel_perf.core.served import begin_request, end_request
from otel_perf.logs.middleware import CorrelationMiddleware, serve_asgi, serve_wsgi, within_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from otel_perf.core.guard import Guard

# module → class and method: one call is one request.
_SYNC: Final = {
    "gunicorn.workers.sync": ("SyncWorker", "handle"),
    "gunicorn.workers.gthread": ("ThreadWorker", "handle"),
    "gunicorn.workers.base_async": ("AsyncWorker", "handle_request"),
    "werkzeug.serving": ("WSGIRequestHandler", "run_wsgi"),
    "django.core.servers.basehttp": ("WSGIRequestHandler", "handle_one_request"),
}
_ASYNC: Final = {
    "gunicorn.asgi.protocol": (
        ("ASGIProtocol", "_handle_http_request"),
        ("ASGIProtocol", "_handle_http2_request"),
        ("ASGIProtocol", "_handle_websocket"),
    ),
}
_UVICORN: Final = tuple(f"uvicorn.protocols.http.{name}_impl" for name in ("h11", "httptools", "zttp", "zttp_h2"))
_UVICORN_WEBSOCKETS: Final = {
    "uvicorn.protocols.websockets.websockets_impl": "WebSocketProtocol",
    "uvicorn.protocols.websockets.websockets_sansio_impl": "WebSocketsSansIOProtocol",
    "uvicorn.protocols.websockets.wsproto_impl": "WSProtocol",
}
# module → class whose ``__call__`` is an app
_ASGI: Final = {"starlette.applications": "Starlette", "django.core.handlers.asgi": "ASGIHandler"}
_WSGI: Final = {"flask.app": "Flask", "django.core.handlers.wsgi": "WSGIHandler"}


def install(guard: Guard, undo: ExitStack) -> None:
    """Patch them as they are imported, until the undo. What a version does not have is left out."""

    def patch(module: str, kind: str, method: str, wrap: Callable[[Any], Any]) -> None:
        def imported(found: Any) -> None:
            owner = getattr(found, kind, None)
            original = None if owner is None else vars(owner).get(method)
            if original is not None:
                put(owner, method, functools.wraps(original)(wrap(original)), undo)

        on_import(module, imported, undo, guard)

    for place in _patches():
        patch(*place)
    for module, wrap in (("granian.asgi", _granian_asgi), ("granian.wsgi", _granian_wsgi)):
        on_import(module, functools.partial(_put_granian, wrap, undo), undo, guard)


def _patches() -> Iterator[tuple[str, str, str, Callable[[Any], Any]]]:
    """Module, class and method, and what is put around it."""
    for module, (kind, method) in _SYNC.items():
        yield module, kind, method, _one_request
    for module, methods in _ASYNC.items():
        for kind, method in methods:
            yield module, kind, method, _one_async_request
    for module in _UVICORN:
        yield module, "RequestResponseCycle", "run_asgi", _uvicorn_request
    for module, kind in _UVICORN_WEBSOCKETS.items():
        yield module, kind, "run_asgi", _uvicorn_websocket
    for module, kind in _ASGI.items():
        yield module, kind, "__call__", _asgi_app
    for module, kind in _WSGI.items():
        yield module, kind, "__call__", _wsgi_app


def _one_request(original: Any) -> Any:
    def handle(*arguments: Any, **keywords: Any) -> Any:
        tokens = begin_request()
        try:
            return original(*arguments, **keywords)
        finally:
            end_request(tokens)

    return handle


def _one_async_request(original: Any) -> Any:
    async def handle(*arguments: Any, **keywords: Any) -> Any:
        tokens = begin_request()
        try:
            return await original(*arguments, **keywords)
        finally:
            end_request(tokens)

    return handle


def _uvicorn_request(original: Any) -> Any:
    async def run_asgi(self: Any, app: Any, *arguments: Any) -> Any:
        tokens = begin_request()
        try:
            return await original(self, CorrelationMiddleware(app), *arguments)
        finally:
            end_request(tokens)

    return run_asgi


def _uvicorn_websocket(original: Any) -> Any:
    async def run_asgi(self: Any) -> Any:
        tokens = begin_request()
        try:
            self.app = CorrelationMiddleware(self.app)
            return await original(self)
        finally:
            end_request(tokens)

    return run_asgi


def _put_granian(wrap: Callable[[Any], Any], undo: ExitStack, module: Any) -> None:
    put(module, "_callback_wrapper", wrap(module._callback_wrapper), undo)


def _granian_asgi(original: Any) -> Any:
    def callback_wrapper(callback: Any, *arguments: Any, **keywords: Any) -> Any:
        inner = original(CorrelationMiddleware(callback), *arguments, **keywords)

        async def serve(scope: Any, protocol: Any) -> Any:
            tokens = begin_request()
            try:
                return await inner(scope, protocol)
            finally:
                end_request(tokens)

        vars(serve).update(vars(inner))  # what it has of the app's
        return serve

    return callback_wrapper


def _granian_wsgi(original: Any) -> Any:
    def callback_wrapper(callback: Any, *arguments: Any, **keywords: Any) -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            return within_request(serve_wsgi(callback, environ, start_response), environ)  # it is read after the call

        functools.update_wrapper(app, callback, ("__module__", "__name__", "__qualname__", "__doc__"))
        return _one_request(original(app, *arguments, **keywords))

    return callback_wrapper


def _asgi_app(original: Any) -> Any:
    async def call(self: Any, scope: Any, receive: Any, send: Any) -> Any:
        return await serve_asgi(functools.partial(original, self), scope, receive, send)

    return call


def _wsgi_app(original: Any) -> Any:
    def call(self: Any, environ: Any, start_response: Any) -> Any:
        return serve_wsgi(functools.partial(original, self), environ, start_response)

    return call
