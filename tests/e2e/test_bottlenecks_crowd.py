"""Two hundred requests at once under uvicorn, in tasks, nested groups and threads: each finding is on its own trace."""

import asyncio
import json
from collections import Counter

import pytest

from tests.e2e import programs
from tests.e2e.support import Running, free_port
from tests.stored import points, spans

pytestmark = pytest.mark.alone
CROWD = 200
SHAPES = ("repeated", "alone", "grouped", "threaded")

PROGRAM = """
import asyncio, contextvars, random, sys, time, uvicorn
from concurrent.futures import ThreadPoolExecutor
from opentelemetry import trace
from opentelemetry.trace import SpanKind

tracer = trace.get_tracer("t")
threads = ThreadPoolExecutor(100)  # so that nobody waits for one

def query(shape):
    statement = f"SELECT name FROM {shape} WHERE id = 7"
    return tracer.start_as_current_span("SELECT", kind=SpanKind.CLIENT,
                                         attributes={"db.system": "postgresql", "db.statement": statement})

async def asked(shape, seconds):
    with query(shape):
        await asyncio.sleep(seconds)

async def repeated():
    seconds = random.uniform(0.03, 0.2)  # not all are done at once
    for _ in range(15):
        await asked("repeated", seconds)

async def alone():
    await asked("alone", random.uniform(0.6, 3))

async def grouped():
    async with asyncio.TaskGroup() as outer:
        for _ in range(3):
            outer.create_task(group())

async def group():
    with tracer.start_as_current_span("group"):
        async with asyncio.TaskGroup() as inner:
            for _ in range(4):
                inner.create_task(asked("grouped", 0.2))

def in_thread():
    with query("threaded"):
        time.sleep(random.uniform(0.6, 3))

async def threaded():
    await asyncio.get_running_loop().run_in_executor(threads, contextvars.copy_context().run, in_thread)

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    shape = scope["path"].strip("/")
    with tracer.start_as_current_span(f"GET /{shape}", kind=SpanKind.SERVER):
        await globals()[shape]()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

uvicorn.run(app, port=int(sys.argv[1]), log_level="error", loop=sys.argv[2], backlog=512)
"""


async def load(port):
    """Each shape once, then two hundred requests at once; the status lines."""

    async def one(number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /{SHAPES[number % len(SHAPES)]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        status = await reader.readline()
        writer.close()
        return status

    await asyncio.gather(*(one(number) for number in range(len(SHAPES))))
    return await asyncio.gather(*(one(number) for number in range(CROWD)))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_findings_of_a_crowd_stay_on_their_traces(home, tmp_path, loop):
    port = free_port()
    command = programs.command(PROGRAM, str(port), loop)
    environ = programs.environment(home)
    with Running(command, environ, tmp_path, tmp_path / "log") as server:
        server.wait_until_listening(port)
        assert set(asyncio.run(load(port))) == {b"HTTP/1.1 200 OK\r\n"}
        server.stop()
    stored = spans(home)
    assert len({span.span_id for span in stored}) == len(stored)
    roots = {span.trace_id: span for span in stored if span.name.startswith("GET /")}
    assert Counter(span.name for span in roots.values()) == {f"GET /{shape}": CROWD // 4 + 1 for shape in SHAPES}
    found = Counter()
    for span in stored:
        shape = roots[span.trace_id].name.removeprefix("GET /")
        for _, finding in span.events:
            found[shape, finding["perf.bottleneck.kind"]] += 1
            assert not [other for other in SHAPES if other != shape and other in json.dumps(finding)], finding
    expected = {"repeated": "n_plus_one", "alone": "slow_io", "threaded": "slow_io"}
    missing = sum(CROWD // 4 + 1 - found[shape, kind] for shape, kind in expected.items())
    skipped = [point for point in points(home) if point.name == "perf.bottlenecks.skipped"]
    late = sum(point.value for point in skipped if point.attributes["reason"] == "late")
    assert missing <= late < CROWD // 2, found
    assert {key for key in found if key[1] in {"n_plus_one", "serial_io", "slow_io"}} == set(expected.items())
