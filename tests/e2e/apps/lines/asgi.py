"""A FastAPI app that speaks in every place. ``asgi:app``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import requests
import said
from fastapi import BackgroundTasks, FastAPI, WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

said.configure()
said.start_processes()
app = FastAPI()


class ExpectedError(Exception):
    pass


def trace_id() -> str:
    return f"{trace.get_current_span().get_span_context().trace_id:032x}"


@app.middleware("http")
async def around(request: Any, call_next: Any) -> Any:
    number = request.query_params.get("n")
    if number:
        said.say(number, "middleware")
    response = await call_next(request)
    if number:
        said.say(number, "answered")
    return response


@app.exception_handler(ExpectedError)
async def expected(request: Any, error: ExpectedError) -> JSONResponse:
    said.say(request.query_params["n"], "handler")
    return JSONResponse({"trace_id": trace_id()}, 418)


async def task(number: str) -> None:
    await asyncio.sleep(0.01)
    said.say(number, "task")


def later(number: str) -> None:
    said.say(number, "background")


@app.get("/work")
async def work(n: str, background: BackgroundTasks) -> dict[str, str]:
    background.add_task(later, n)
    said.say(n, "here")
    running = asyncio.create_task(task(n))
    await asyncio.to_thread(said.in_thread, n)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(said.executor, said.say, n, "executor")
    await asyncio.wrap_future(said.processes.submit(said.say, n, "process"))
    await running
    return {"trace_id": trace_id()}


@app.get("/expected")
async def fails(n: str) -> None:
    await asyncio.sleep(0.01)
    raise ExpectedError(n)


@app.get("/boom")
async def boom(n: str) -> None:
    await asyncio.sleep(0.01)
    raise RuntimeError(f"n={n} boom")


@app.get("/stream")
async def stream(n: str) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for part in range(3):
            said.say(n, f"part{part}")
            yield trace_id()
            await asyncio.sleep(0.005)

    return StreamingResponse(parts())


@app.websocket("/socket")
async def socket(connection: WebSocket) -> None:
    await connection.accept()
    number = await connection.receive_text()
    said.say(number, "socket")
    await asyncio.sleep(0.01)
    await connection.send_text(trace_id())
    await connection.receive_text()
    said.say(number, "later")
    await connection.close()


@app.get("/out")
async def out(n: str, url: str) -> dict[str, str]:
    """Ask ``url`` with each client."""
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"{url}/httpx-async")
    httpx.get(f"{url}/httpx", trust_env=False)  # noqa: ASYNC210  it may block: nobody else is served
    with requests.Session() as session:
        session.trust_env = False
        session.get(f"{url}/requests")
        session.get(f"{url}/own", headers={"X-Request-ID": "mine"})
    said.say(n, "out")
    return {"trace_id": trace_id()}
