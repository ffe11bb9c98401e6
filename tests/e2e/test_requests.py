"""Wide records, business events and the summary of real apps: FastAPI under uvicorn, Flask under gunicorn, no code of ours
in the way but ``perf.business_event``."""

import http.client
import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.support import free_port, instrumented
from tests.stored import events, spans
from tools.environments import ensure

FASTAPI = """
import asyncio, logging, sqlite3
import fastapi, httpx
from fastapi.responses import StreamingResponse
import otel_perf as perf

app = fastapi.FastAPI()
log = logging.getLogger("shop")

def query(number):
    connection = sqlite3.connect(":memory:")
    for index in range(number):
        connection.cursor().execute("SELECT ?", (index,)).fetchall()
    connection.close()

@app.get("/orders/{number}")
async def order(number: int):
    query(number)
    await asyncio.sleep(0.01)
    for _ in range(number % 3):
        log.warning("order %d", number)
    perf.business_event("order.seen", number=number)
    return {"number": number}

@app.get("/sync/{number}")
def sync(number: int):
    query(number)
    log.error("sync %d", number)
    return {"number": number}

@app.get("/stream")
async def stream():
    async def body():
        for index in range(3):
            await asyncio.sleep(0.02)
            query(1)
            log.warning("part %d", index)
            yield f"{index}"
    return StreamingResponse(body())

@app.get("/fails")
async def fails():
    query(2)
    raise ValueError("no such order")

@app.get("/calls-itself")
async def calls_itself(request: fastapi.Request):
    query(1)
    async with httpx.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{request.url.port}/orders/7")
    query(1)
"""

FLASK = """
import logging, sqlite3
import flask
import otel_perf as perf

app = flask.Flask("shop")

@app.get("/orders/<int:number>")
def order(number):
    connection = sqlite3.connect(":memory:")
    for index in range(number):
        connection.cursor().execute("SELECT ?", (index,)).fetchall()
    app.logger.error("order %d", number)
    perf.business_event("order.seen", number=number)
    if number == 13:
        raise ValueError("no such order")
    return {"number": number}
"""


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={"Connection": "close"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def records(home):
    return events(home, "perf.request")


def by_name(home):
    found = {}
    for record in records(home):
        found.setdefault(record.attributes["http.route"], []).append(record)
    return found


@pytest.fixture
def fastapi(tmp_path, home):
    (tmp_path / "service.py").write_text(FASTAPI)
    port = free_port()
    command = ("uvicorn", "service:app", "--port", str(port), "--log-level", "warning")
    with instrumented(ensure("shop"), home, *command, cwd=tmp_path, variables={"OTEL_SERVICE_NAME": "shop"}) as process:
        process.wait_until_listening(port, 60)
        yield port, process


def test_each_of_many_concurrent_requests_has_its_own_numbers(fastapi, home):
    port, process = fastapi
    paths = [f"/{kind}/{number}" for number in range(20) for kind in ("orders", "sync")] * 3
    with ThreadPoolExecutor(20) as pool:
        assert {status for status, _ in pool.map(lambda path: get(port, path), paths)} == {200}
    process.stop(signal.SIGTERM)
    found = records(home)
    assert len(found) == len(paths)
    served = {(span.trace_id, span.span_id): span for span in spans(home) if span.kind == "SERVER"}
    assert {(record.trace_id, record.span_id) for record in found} == set(served)
    counted = Counter()
    for record in found:
        span, own = served[record.trace_id, record.span_id], record.attributes
        number = int(
            next(str(v) for k, v in span.attributes.items() if k in {"http.target", "url.path"}).rpartition("/")[2]
        )
        is_sync = own["http.route"].startswith("/sync")
        assert own.get("perf.request.db.calls", 0) == number
        assert own.get("perf.request.logs.warn", 0) == (0 if is_sync else number % 3)
        assert own.get("perf.request.logs.error", 0) == (1 if is_sync else 0)
        assert own["http.response.status_code"] == 200
        assert 0 < own["perf.request.duration"] < 30
        counted[own["http.route"]] += 1
    assert counted == {"/orders/{number}": 60, "/sync/{number}": 60}
    seen = Counter(event.attributes["number"] for event in events(home, "order.seen"))
    assert seen == dict.fromkeys(range(20), 3)
    mirrored = [name for span in served.values() for name, _ in span.events if name == "order.seen"]
    assert len(mirrored) == 60


def test_streams_errors_and_a_service_that_calls_itself(fastapi, home):
    port, process = fastapi
    assert get(port, "/stream") == (200, b"012")
    assert get(port, "/fails")[0] == 500
    assert get(port, "/calls-itself")[0] == 200
    process.stop(signal.SIGTERM)
    found = by_name(home)
    (stream,), (fails,), (outer,), (inner,) = (
        found[route] for route in ("/stream", "/fails", "/calls-itself", "/orders/{number}")
    )
    assert stream.attributes["perf.request.duration"] >= 0.06
    assert stream.attributes["perf.request.db.calls"] == 3
    assert stream.attributes["perf.request.logs.warn"] == 3
    assert fails.severity_text == "ERROR"
    assert fails.attributes["exception.type"] == "ValueError"
    assert fails.attributes["exception.message"] == "no such order"
    assert fails.attributes["perf.request.db.calls"] == 2
    assert inner.trace_id == outer.trace_id
    assert (outer.attributes["perf.request.db.calls"], inner.attributes["perf.request.db.calls"]) == (2, 7)
    assert outer.attributes["perf.request.http.calls"] == 1
    assert "perf.request.http.calls" not in inner.attributes
    (summary,) = events(home, "perf.summary")
    assert summary.attributes["perf.summary.reason"] == "exit"
    assert summary.attributes["perf.summary.requests"] == 4
    assert summary.attributes["perf.summary.requests.failed"] == 1


def test_flask_under_gunicorn(tmp_path, home):
    (tmp_path / "service.py").write_text(FLASK)
    port = free_port()
    command = ("gunicorn", "--workers", "2", "--threads", "4", "--control-socket", "gunicorn.ctl", "--bind", f"127.0.0.1:{port}", "service:app")  # fmt: skip
    with instrumented(ensure("apps"), home, *command, cwd=tmp_path) as process:
        process.wait_until_listening(port, 60)
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda number: get(port, f"/orders/{number}")[0], range(20)))
        assert process.stop(signal.SIGTERM) == 0
    assert statuses == [500 if number == 13 else 200 for number in range(20)]
    found = records(home)
    assert len(found) == 20
    assert sorted(record.attributes.get("perf.request.db.calls", 0) for record in found) == list(range(20))
    failed = [record for record in found if record.severity_text == "ERROR"]
    assert [record.attributes["exception.type"] for record in failed] == ["ValueError"]
    assert all(record.attributes["perf.request.logs.error"] >= 1 for record in found)
    seen = [event.attributes["number"] for event in events(home, "order.seen")]
    assert sorted(seen) == list(range(20))
    told = [summary.attributes.get("perf.summary.requests", 0) for summary in events(home, "perf.summary")]
    assert sum(told) == 20
