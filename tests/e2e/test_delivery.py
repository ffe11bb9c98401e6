"""From the store to the real Collector, through what goes wrong in between: nothing is lost."""

import signal
import time

import pytest

from tests.e2e import programs
from tests.e2e.collector import Collector
from tests.e2e.steady import made_by, made_in_order, worker
from tests.e2e.support import wait_for
from tests.stored import batches, spans

SPANS = """
import logging, sys
from opentelemetry import metrics, trace
tracer = trace.get_tracer("t")
for number in range(int(sys.argv[1])):
    with tracer.start_as_current_span("work"):
        logging.getLogger("app").warning("line %d", number)
metrics.get_meter("m").create_counter("made").add(int(sys.argv[1]))
"""


@pytest.fixture
def collector(tmp_path):
    return Collector(tmp_path)


def pending(home):
    """Stored ids of spans."""
    return {(span.trace_id, span.span_id) for span in spans(home)}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_all_three_signals_arrive(protocol, compression, collector, home):
    with collector.running():
        done = programs.run(
            SPANS, home, "300", OTEL_PERF_STORE_EXIT="20s", OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url(protocol), OTEL_EXPORTER_OTLP_COMPRESSION=compression,
        )  # fmt: skip
        assert (done.status, done.err.count("WARNING")) == (0, 0), done.err
        ids = collector.wait_for_spans(300)
        wait_for(lambda: len(collector.received("logs")) >= 300, what="the log records arrive")
        wait_for(lambda: "made" in {metric["name"] for metric in collector.received("metrics")}, what="metrics")
    assert len(ids) == len(collector.spans()) == 300
    assert batches(home) == []


def found(collector):
    """Its spans: the usual port is everybody's, and another program of this machine may have found it, too."""
    return [span for span in collector.received("traces") if span["name"] == "work"]


def test_a_receiver_on_localhost_is_found_without_an_endpoint(collector, home):
    collector.http = 4318
    with collector.running():
        programs.run(SPANS, home, "5", OTEL_PERF_STORE_EXIT="20s", OTEL_PERF_STORE_PROBE="on")
        wait_for(lambda: len(found(collector)) >= 5, what="they arrive")
    assert len(found(collector)) == 5


def test_what_was_stored_while_nobody_listened_goes_out_at_the_next_start(collector, home):
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url(), "OTEL_PERF_STORE_EXIT": "20s"}
    began = time.monotonic()
    programs.run(SPANS, home, "40", **endpoint)
    assert time.monotonic() - began < 15  # refused at once: the twenty seconds are not used
    made = pending(home)
    assert len(made) == 40
    with collector.running():
        programs.run(SPANS, home, "1", **endpoint)
        assert made < collector.wait_for_spans(41)


def test_an_endpoint_that_was_mended_gets_what_was_stored_for_the_wrong_one(collector, home):
    service = {"OTEL_SERVICE_NAME": "shop", "OTEL_PERF_STORE_EXIT": "20s"}
    programs.run(SPANS, home, "7", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", **service)
    programs.run(
        SPANS, home, "3", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", **service | {"OTEL_SERVICE_NAME": "other"}
    )
    with collector.running():
        programs.run(SPANS, home, "1", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url(), **service)
        assert len(collector.wait_for_spans(8)) == 8  # the other service's wait for that service
    assert len(pending(home)) == 3


def test_a_killed_app_and_a_killed_collector_lose_nothing_that_was_committed(collector, home, tmp_path):
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url()}
    in_order = {"OTEL_PERF_BOTTLENECKS": "off"}  # which holds a span back that was slow, on a busy machine
    with collector.running() as receiver, worker(home, tmp_path, 1, **endpoint, **in_order) as app:
        collector.wait_for_spans(200)
        receiver.send(signal.SIGKILL)
        before = len(pending(home))
        wait_for(lambda: len(pending(home)) > before + 200, what="a backlog grows")
        app.send(signal.SIGKILL)
        app.wait()
    committed = pending(home)
    with collector.running(), worker(home, tmp_path, 2, **endpoint):
        wait_for(lambda: committed <= set(collector.spans()), 30, "what was committed arrives")
        assert len(made_by(tmp_path, 1) - set(collector.spans())) < 100  # at most the last delay's
        arrived = collector.spans()
    made = [span for span in made_in_order(tmp_path, 1) if span in set(arrived)]
    assert [span for span in dict.fromkeys(arrived) if span in set(made)] == made, "in the order of their making"
    assert len(arrived) - len(set(arrived)) <= 1024, "twice comes only what was unanswered"


def test_the_lease_moves_when_the_sender_is_killed(collector, home, tmp_path):
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url()}
    with collector.running(), worker(home, tmp_path, 0, **endpoint) as first:
        collector.wait_for_spans(20)
        with worker(home, tmp_path, 1, **endpoint):
            wait_for(lambda: len(made_by(tmp_path, 1)) > 100, what="the second works")
            first.send(signal.SIGKILL)
            first.wait()
            wait_for(lambda: len(made_by(tmp_path, 1) & set(collector.spans())) > 200, 30, "the second one sends")
    assert len(collector.spans()) - len(set(collector.spans())) <= 512


@pytest.mark.alone
def test_the_exit_does_not_wait_for_a_receiver_that_hangs(home):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as hanging:
        endpoint = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        program = (
            "import time\nfrom opentelemetry import trace\ntrace.get_tracer('t').start_span('x').end()\n"
            "trace.get_tracer_provider().force_flush(); time.sleep(2)  # a request is under way\n"
            "from otel_perf.distro import pipeline\nbegan = time.monotonic()\npipeline().shutdown()\n"
            "print(time.monotonic() - began)"
        )
        done = programs.run(program, home, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        hanging.settimeout(1)
        hanging.accept()[0].close()
    assert float(done.out) < 1.0
    assert len(spans(home)) == 1


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_forked_child_sends_when_its_parent_is_gone(protocol, collector, home):
    program = """
import os, sys, time
from opentelemetry import trace
tracer = trace.get_tracer("t")
tracer.start_span("parent").end()
trace.get_tracer_provider().force_flush()
time.sleep(2)
if os.fork():
    os._exit(0)
for _ in range(300):
    tracer.start_span("child").end()
    time.sleep(0.01)
"""
    with collector.running():
        done = programs.run(program, home, timeout=60, **collector.variables(protocol))
        assert (done.status, done.err) == (0, "")
        collector.wait_for_spans(301)


def test_an_app_that_forks_may_use_grpc_itself(collector, home):
    """Its children call, with their own channel, while the parent sends over gRPC; its environment stays its own."""
    program = """
import os, time
from opentelemetry import trace
tracer = trace.get_tracer("t")
tracer.start_span("parent").end()
trace.get_tracer_provider().force_flush()
time.sleep(2)  # by now it has sent
assert not {"GRPC_VERBOSITY", "GRPC_ENABLE_FORK_SUPPORT"} & os.environ.keys()
pid = os.fork()
if pid == 0:
    import grpc
    address = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://")
    call = grpc.insecure_channel(address).unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
    call(b"", timeout=5)
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    with collector.running():
        done = programs.run(program, home, timeout=60, **collector.variables("grpc"))
        assert (done.status, done.err) == (0, "")


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_forks_while_it_sends_lose_nothing_and_hang_nobody(protocol, collector, home):
    """Neither urllib3's connections nor grpcio's threads survive a fork; children and parent make their own."""
    program = """
import os, threading, time, warnings
warnings.simplefilter("ignore")  # of a fork with threads, which the program means
from opentelemetry import trace
tracer = trace.get_tracer("t")
stop = threading.Event()
made = [0, 0]
def load(number):
    while not stop.is_set():
        tracer.start_span("parent").end()
        made[number] += 1
        time.sleep(0.001)
threads = [threading.Thread(target=load, args=(number,)) for number in (0, 1)]
for thread in threads: thread.start()
time.sleep(2)  # by now it sends
for number in range(40):
    child = os.fork()
    if child == 0:
        for _ in range(5): tracer.start_span("child").end()
        raise SystemExit(0)
    assert os.waitpid(child, 0)[1] == 0
    time.sleep(0.02)
stop.set()
for thread in threads: thread.join()
print(sum(made) + 40 * 5)
"""
    with collector.running():
        variables = collector.variables(protocol) | {"OTEL_PERF_STORE_DELAY": "20ms", "OTEL_PERF_STORE_EXIT": "20s"}
        done = programs.run(program, home, timeout=90, **variables)
        assert (done.status, done.err) == (0, "")
        collector.wait_for_spans(int(done.out))
    assert len(collector.spans()) == int(done.out)
