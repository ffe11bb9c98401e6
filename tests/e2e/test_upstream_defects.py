"""What goes wrong under opentelemetry-distro and does not under ours, each shown on both.

A scenario is one program with one set of variables. It is run twice for real: under our distribution and under
upstream's, which has an environment of its own. Both send to the same Collector, and a test asserts what arrived there:
that ours is right and that upstream's still is not. So every test is seen to fail without our repair, and tells when
upstream mends the defect and the repair may go.
"""

import json
import signal
import sys
import time
import urllib.request
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.collector import Collector, items
from tests.e2e.support import free_port, instrumented, plain, wait_for
from tools import environments

MENDED = "upstream no longer shows this defect: is our repair still needed?"
NONE = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
# Nothing is sent before somebody asks for it, or the program ends: no test depends on when a timer goes off.
NO_TIMERS = {
    "OTEL_BSP_SCHEDULE_DELAY": "600000",
    "OTEL_BLRP_SCHEDULE_DELAY": "600000",
    "OTEL_METRIC_EXPORT_INTERVAL": "600000",
}


class Distribution:
    """One of the two: starts programs, and finds in the Collector's file what these sent."""

    def __init__(self, environment, collector, folder):
        self.environment = environment
        self.collector = collector
        self.folder = folder
        self.service = f"{folder.name}-{uuid.uuid4().hex}"
        folder.mkdir()

    def start(self, program, *arguments, **variables):
        """The program under ``opentelemetry-instrument``, to be entered with ``with``."""
        (self.folder / "program.py").write_text(program)
        variables = {
            "OTEL_SERVICE_NAME": self.service,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.collector.url(),
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_PERF_STORE_EXIT": "10s",  # what the exit would leave for the next start is sent now
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "sqlite3,threading",  # which upstream's environment does not have
            **variables,
        }
        command = ("python", "program.py", *map(str, arguments))
        return instrumented(self.environment, self.folder / "home", *command, variables=variables)

    def received(self, kind):
        """Process (its ``service.instance.id``) and item of every span, log record or metric that arrived."""
        self._settle()
        found = []
        for resource, item in items(self.collector.file.read_text(), kind):
            attributes = {attribute["key"]: attribute["value"] for attribute in resource["attributes"]}
            if attributes["service.name"] == {"stringValue": self.service}:
                found.append((attributes["service.instance.id"]["stringValue"], item))
        return found

    def spans(self):
        """The names of the spans, sorted."""
        return sorted(span["name"] for _, span in self.received("traces"))

    def bodies(self):
        """The texts of what the app logged: the log records that are no events."""
        return [record["body"]["stringValue"] for record in self.lines()]

    def lines(self):
        """The log records that are no events."""
        return [record for _, record in self.received("logs") if not record.get("eventName")]

    def last(self, name):
        """The last value of the metric in each process; the sum, where it has attributes."""
        found = {}
        for process, metric in self.received("metrics"):
            if metric["name"] == name:
                points = metric.get("sum", metric.get("gauge"))["dataPoints"]
                found[process] = sum(float(point.get("asInt", point.get("asDouble"))) for point in points)
        return found

    def _settle(self):
        """Wait until all that the Collector took is in its file: it writes in order, and this comes last."""
        mark = uuid.uuid4().hex
        service = {"attributes": [{"key": "service.name", "value": {"stringValue": "mark"}}]}
        record = {"resource": service, "scopeLogs": [{"logRecords": [{"body": {"stringValue": mark}}]}]}
        request = urllib.request.Request(
            f"{self.collector.url()}/v1/logs", json.dumps({"resourceLogs": [record]}).encode()
        )
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request, timeout=10).close()
        file = self.collector.file
        wait_for(lambda: file.exists() and mark in file.read_text(), what="the mark is in the Collector's file")


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    collector = Collector(tmp_path_factory.mktemp("collector"))
    with collector.running():
        yield collector


@pytest.fixture
def ours(collector, tmp_path):
    return Distribution(Path(sys.prefix), collector, tmp_path / "ours")


@pytest.fixture
def upstream(collector, tmp_path):
    return Distribution(environments.ensure("defects"), collector, tmp_path / "upstream")


@pytest.fixture
def run(ours, upstream):
    """Runs a program to its end, under both at once; what each printed."""

    def run(program, *arguments, **variables):
        with ExitStack() as stack:
            both = [stack.enter_context(side.start(program, *arguments, **variables)) for side in (ours, upstream)]
            assert [process.wait(60) for process in both] == [0, 0]
            return [process.output() for process in both]

    return run


# --- 1: the silenced console -------------------------------------------------------------------------------

LOGGING = {
    "never configured": ("", "careful\n", {}),
    "basicConfig": (
        "logging.basicConfig(format='mine %(message)s')\n",
        "mine careful\n",
        {"OTEL_PYTHON_LOG_CORRELATION": "true"},
    ),
}


@pytest.mark.parametrize("setup", LOGGING)
def test_the_console_is_not_silenced(setup, ours, upstream, run):
    """Upstream has a handler on the root logger. With it ``logging.lastResort`` prints nothing, and where
    ``OTEL_PYTHON_LOG_CORRELATION`` had it call ``basicConfig``, the app's own ``basicConfig`` does nothing."""
    configure, printed, variables = LOGGING[setup]
    program = f"import logging\n{configure}logging.getLogger('shop').warning('careful')\n"
    our_output, their_output = run(program, **variables)
    with plain(ours.environment, ours.folder / "home", "python", "program.py") as without:
        assert without.wait() == 0
    assert our_output == without.output() == printed
    assert ours.bodies() == upstream.bodies() == ["careful"]
    assert printed not in their_output, MENDED


# --- 2: servers that raise the signal again ------------------------------------------------------------------

SERVER = """
import sys, uvicorn
from opentelemetry import trace
tracer = trace.get_tracer("shop")

async def app(scope, receive, send):
    if scope["type"] == "http":
        with tracer.start_as_current_span("order"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})

if __name__ == "__main__":
    uvicorn.run("program:app", port=int(sys.argv[1]), workers=int(sys.argv[2]), log_level="error")
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_uvicorn_stopped_with_sigterm_loses_no_span(workers, ours, upstream):
    """uvicorn puts the handlers back that it found and raises the signal anew: ``atexit``, where upstream flushes,
    never runs. Its workers are stopped like that too."""
    statuses = []
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(side.start(SERVER, port, workers, **NO_TIMERS))
            for side, port in zip((ours, upstream), ports, strict=True)
        ]
        for server, port in zip(servers, ports, strict=True):
            server.wait_until_listening(port)
            for _ in range(5):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).close()
            statuses.append(server.stop(signal.SIGTERM))
    assert statuses == ([0, 0] if workers > 1 else [-signal.SIGTERM, -signal.SIGTERM])
    assert ours.spans() == ["order"] * 5
    assert upstream.spans() == [], MENDED


# --- 3: children ---------------------------------------------------------------------------------------------

CHILDREN = """
import multiprocessing, sys
from opentelemetry import trace

def work(number):
    with trace.get_tracer("shop").start_as_current_span(f"child {number}"):
        return number

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    child = context.Process(target=work, args=(1,))
    child.start()
    child.join()
    with context.Pool(1) as pool:
        assert pool.map(work, [2, 3]) == [2, 3]
"""


KEPT_UPSTREAM = {"fork": [], "forkserver": [], "spawn": ["child 1"]}


@pytest.mark.parametrize("method", KEPT_UPSTREAM)
def test_multiprocessing_children_lose_no_span(method, ours, upstream, run):
    """Children that were forked end with ``os._exit``, past ``atexit``. One that was spawned ends as any program does
    and upstream keeps its spans; but not those of a pool, whose ``with`` ends its workers with a SIGTERM."""
    run(CHILDREN, method, **NO_TIMERS)
    assert ours.spans() == ["child 1", "child 2", "child 3"]
    assert upstream.spans() == KEPT_UPSTREAM[method], MENDED


FORK = """
import os
from opentelemetry import metrics
orders = metrics.get_meter("shop").create_counter("orders")
orders.add(5)
metrics.get_meter_provider().force_flush()  # reads the process's memory, which is where upstream remembers the process
pid = os.fork()
if pid == 0:
    kept = b"x" * 100_000_000
    orders.add(2)
    metrics.get_meter_provider().force_flush()
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_a_forked_child_reports_itself_and_not_its_parent(ours, upstream, run):
    """Upstream's child goes on from its parent's totals, so that a backend counts these twice, and reports the memory of
    its parent, since the instrumentor has one ``psutil.Process`` for life."""
    run(FORK, **NO_TIMERS)
    orders, memory = ours.last("orders"), ours.last("process.memory.usage")
    child, parent = sorted(orders, key=orders.get)
    assert (orders[child], orders[parent]) == (2, 5)
    assert memory[child] > memory[parent] + 80_000_000

    orders, memory = upstream.last("orders"), upstream.last("process.memory.usage")
    parent, child = sorted(orders, key=orders.get)
    assert (orders[child], orders[parent]) == (7, 5), MENDED
    assert memory[child] < memory[parent] + 50_000_000, MENDED


# --- 4: nobody takes what is sent ----------------------------------------------------------------------------

WORK = """
import json, logging, sys, time
from opentelemetry import metrics, trace

with trace.get_tracer("shop").start_as_current_span("order"):
    logging.getLogger("shop").warning("careful")
metrics.get_meter("shop").create_counter("orders").add(1)
if sys.argv[1] == "flush":
    began = time.monotonic()
    answer = trace.get_tracer_provider().force_flush(200)
    print(json.dumps({"answer": answer, "took": time.monotonic() - began}))
    time.sleep(60)
print(json.dumps({"end": time.time()}))
"""


def said(process):
    """The line of JSON among what the process has printed, if it is there by now."""
    lines = [line for line in process.output().splitlines() if line.startswith("{") and line.endswith("}")]
    return json.loads(lines[0]) if lines else None


def flushing(process):
    """What ``force_flush`` answered, and the seconds it took."""
    answer = wait_for(lambda: said(process), what="force_flush returns")
    return answer["answer"], answer["took"]


def ending(process):
    """Seconds from the program's last line to the end of its process."""
    assert process.wait(60) == 0
    return time.time() - said(process)["end"]


@pytest.mark.alone
def test_a_receiver_that_is_down_costs_neither_the_exit_nor_the_data(ours, upstream):
    """Upstream tries again and again while the program waits to end, or for its ``force_flush``, which then says that all
    is well; and what was not taken is gone. Ours ends as soon as with no exporter, and sends at the next start."""
    down = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_PERF_STORE_EXIT": "0.2s"}
    with ours.start(WORK, "exit", **NONE) as without:
        least = ending(without)
    with ours.start(WORK, "exit", **down) as exiting:
        assert ending(exiting) < least + 1.5
    with ours.start(WORK, "flush", **down) as flushed:
        answer, took = flushing(flushed)
        assert (answer, took < 1.0) == (True, True)  # it is stored, and will not be lost

    with upstream.start(WORK, "exit", **down) as exiting, upstream.start(WORK, "flush", **down) as flushed:
        assert ending(exiting) > least + 5.0, MENDED
        answer, took = flushing(flushed)
        assert (answer, took > 1.0) == (True, True), MENDED
    for side, arrives in ((ours, 3), (upstream, 1)):
        with side.start(WORK, "exit") as later:
            assert later.wait() == 0
        assert side.spans() == ["order"] * arrives, MENDED if side is upstream else "not all was sent"


MANY = """
from opentelemetry import trace
tracer = trace.get_tracer("shop")
for _ in range(3000):
    tracer.start_span("order").end()
"""


def test_a_full_queue_drops_nothing(ours, upstream, run):
    """Upstream's queue drops the oldest when spans are made faster than they are sent. Ours has them wait."""
    run(MANY, OTEL_BSP_MAX_QUEUE_SIZE="64", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="64")
    assert ours.spans() == ["order"] * 3000
    assert len(upstream.spans()) < 3000, MENDED


# --- 5: the order in which the providers end -----------------------------------------------------------------

ENDING = """
import logging
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import SpanProcessor

class Counting(SpanProcessor):
    ended = 0
    def on_end(self, span):
        self.ended += 1
    def shutdown(self):
        counter.add(self.ended)
        logging.getLogger("shop").warning("%d spans", self.ended)

counter = metrics.get_meter("shop").create_counter("ended")
trace.get_tracer_provider().add_span_processor(Counting())
for _ in range(3):
    trace.get_tracer("shop").start_span("order").end()
"""


def test_what_is_counted_and_logged_while_the_traces_end_arrives(ours, upstream, run):
    """Upstream ends the logs first, then the metrics, the traces last: what the SDK itself and a span processor count and
    log at their end comes too late. The SDK counts for its batch processor, for which the console is here."""
    run(ENDING, OTEL_TRACES_EXPORTER="console", OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED="true", **NO_TIMERS)
    for counter in ("ended", "otel.sdk.processor.span.processed"):
        assert list(ours.last(counter).values()) == [3]
        assert upstream.last(counter) == {}, MENDED
    assert ours.bodies() == ["3 spans"]
    assert upstream.bodies() == [], MENDED


# --- 6: executors --------------------------------------------------------------------------------------------

EXECUTORS = """
import asyncio
from concurrent.futures import ThreadPoolExecutor
from opentelemetry import trace
tracer = trace.get_tracer("shop")

def work(name):
    tracer.start_span(name).end()

async def main():
    await asyncio.get_running_loop().run_in_executor(None, work, "run_in_executor")

with tracer.start_as_current_span("order"), ThreadPoolExecutor(1) as pool:
    pool.submit(work, "submit").result()
    list(pool.map(work, ["map"]))
    asyncio.run(main())
"""


def test_work_in_an_executor_belongs_to_who_submitted_it(ours, upstream, run):
    """Without the threading instrumentor, which is a package of its own and off here, upstream's executors have no
    context: what they do begins traces of its own."""
    run(EXECUTORS)
    for side, children in ((ours, ["map", "run_in_executor", "submit"]), (upstream, [])):
        found = [span for _, span in side.received("traces")]
        assert sorted(span["name"] for span in found) == ["map", "order", "run_in_executor", "submit"]
        (order,) = (span["spanId"] for span in found if span["name"] == "order")
        belonging = sorted(span["name"] for span in found if span.get("parentSpanId") == order)
        assert belonging == children, MENDED if side is upstream else "the context is lost"


# --- 9: attributes that are in the record already ------------------------------------------------------------

CORRELATED = """
import logging
from opentelemetry import trace
with trace.get_tracer("shop").start_as_current_span("order"):
    logging.getLogger("shop").warning("careful", extra={"customer": 7})
"""


def test_the_ids_for_formats_do_not_become_attributes(ours, upstream, run):
    """``otelTraceID`` and the like are put on a record so that formats can show them; OTLP has fields for them. Upstream
    exports them as attributes as well."""
    outputs = run(CORRELATED, OTEL_PYTHON_LOG_CORRELATION="true")
    names = {}
    for side, output in zip((ours, upstream), outputs, strict=True):
        (record,) = side.lines()
        ((_, span),) = side.received("traces")
        assert (record["traceId"], record["spanId"]) == (span["traceId"], span["spanId"])
        assert f"trace_id={record['traceId']}" in output
        names[side] = {attribute["key"] for attribute in record["attributes"]}
    assert names[ours] == {"customer"}
    assert {"otelTraceID", "otelSpanID", "otelServiceName", "otelTraceSampled"} < names[upstream], MENDED
