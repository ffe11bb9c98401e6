"""The page and its questions, as an ASGI application."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import sqlite3
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from otel_perf.view import beside, charts, lines, live, summaries, traces
from otel_perf.view.reading import BadQuestionError, Question, Readings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.requests import Request

    Handler = Callable[[Request], Awaitable[Response]]
    Answer = Callable[[Any, Question], dict[str, Any]]

STATIC: Final = Path(__file__).parent / "static"
THREADS: Final = 3  # questions that are answered at a time
CHARTS: Final = ("youplot", "vendor/uplot.iife.min.js")  # the package that ships uPlot 1.6.31 as it was released
CHARTS_SHA256: Final = "2d27e8ad3d228164525ce213f9dc716f39b4e3aee0cc773fb3491c96cf4921a2"
_FRESH: Final = {"cache-control": "no-store"}
_TYPES: Final = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def questions(of: beside.Beside) -> dict[str, Answer]:
    """Every question by its path."""
    return {
        "state": summaries.state, "findings": summaries.findings, "finding": summaries.finding,
        "operations": summaries.operations, "timeline": summaries.timeline, "errors": summaries.errors,
        "functions": summaries.functions, "flame": summaries.flame, "traces": traces.listed, "trace": traces.trace,
        "span": traces.span, "line": traces.line, "lines": lines.lines, "templates": lines.templates,
        "search": lines.search, "charts": charts.charts, "metrics": charts.metrics, "metric": charts.metric,
        "signals": beside.signals, "health": of.health, "audit": of.audit, "source": of.source,
    }  # fmt: skip


def application(
    index: Path, homes: Sequence[Path], told: live.Live, *, sources: Sequence[Path], about: dict[str, Any]
) -> Starlette:
    """The page of ``homes``. ``about`` is shown as it is."""
    readings = Readings(index)
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="otel-perf-view")
    routes = [Route(f"/{name}" if name != "index.html" else "/", _file(name)) for name in _names()]
    routes.append(Route("/uplot.js", _charts()))
    for name, function in questions(beside.Beside(homes, sources)).items():
        routes.append(Route(f"/api/{name}", _question(readings, threads, function)))

    async def stream(_: Request) -> Response:
        if told.is_full:
            return PlainTextResponse("too many pages are open", 503)
        return StreamingResponse(told.stream(), media_type="text/event-stream", headers=_FRESH)

    async def say_about(_: Request) -> Response:
        return Response(msgspec.json.encode(about), media_type="application/json", headers=_FRESH)

    routes += [Route("/api/live", stream), Route("/api/about", say_about)]
    return Starlette(routes=routes)


def _names() -> list[str]:
    """Our files, by their names: what is not in this list is not there."""
    return sorted(path.name for path in STATIC.iterdir() if path.suffix in _TYPES)


def _file(name: str) -> Handler:
    path = STATIC / name
    kind = _TYPES[path.suffix]

    async def handler(request: Request) -> Response:
        return _of_file(request, await asyncio.to_thread(path.read_bytes), kind)

    return handler


def _charts() -> Handler:
    """The chart library out of its package, if it is that very file; else charts say what to install."""
    spec = importlib.util.find_spec(CHARTS[0])
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    body = b""
    if folder is not None and (folder / CHARTS[1]).is_file():
        body = (folder / CHARTS[1]).read_bytes()
    if hashlib.sha256(body).hexdigest() != CHARTS_SHA256:
        body = b"// charts need uPlot 1.6.31: pip install 'otel-perf[view]'\n"

    async def handler(request: Request) -> Response:
        return _of_file(request, body, "text/javascript")

    return handler


def _of_file(request: Request, body: bytes, kind: str) -> Response:
    mark = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {"etag": mark, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == mark:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=kind, headers=headers)


def _question(readings: Readings, threads: ThreadPoolExecutor, function: Answer) -> Handler:
    def ask(given: dict[str, str]) -> tuple[int, bytes]:
        reading = readings.mine()
        try:
            if not reading.begin():
                return 503, msgspec.json.encode({"problem": "the index is being made", "indexing": True})
            with reading.as_it_is():
                return 200, msgspec.json.encode(function(reading, Question(given)))
        except BadQuestionError as error:
            return 400, msgspec.json.encode({"problem": str(error)})
        except sqlite3.Error as error:
            reading.close()
            late = "interrupted" in str(error)
            text = "this takes too long; ask for less time or fewer words" if late else f"the index: {error}"
            return 503, msgspec.json.encode({"problem": text})
        except Exception as error:  # whatever is in a store, anybody may have sent it: the next question is answered
            reading.close()
            traceback.print_exc()
            text = f"this cannot be shown ({type(error).__name__}: {str(error)[:200]}); please report it"
            return 500, msgspec.json.encode({"problem": text})

    async def handler(request: Request) -> Response:
        given = dict(request.query_params)
        status, body = await asyncio.get_running_loop().run_in_executor(threads, partial(ask, given))
        return Response(body, status, media_type="application/json", headers=_FRESH)

    return handler
