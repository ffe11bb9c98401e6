"""Set-ups that people have already keep working: their exporters beside ours, their vendor's endpoint, several receivers."""

import json
import signal
import subprocess
import urllib.request

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.e2e import programs
from tests.e2e.support import free_port, instrumented, wait_for
from tests.store.receiver import Receiver
from tests.stored import spans
from tools import environments

APP = """
import logging, sys, time
from opentelemetry import metrics, trace

tracer = trace.get_tracer("shop")
with tracer.start_as_current_span("order", attributes={"customer": 7}):
    with tracer.start_as_current_span("charge"):
        logging.getLogger("shop").warning("careful")
meter = metrics.get_meter("shop")
meter.create_counter("orders", unit="{order}").add(3, {"country": "PT"})
meter.create_histogram("charge.duration", unit="s").record(0.3)
if "stay" in sys.argv:
    print("ready", flush=True)
    time.sleep(60)
"""
OF_THE_PROCESS = {"process.memory.usage", "process.cpu.time", "process.thread.count", "cpython.gc.collections"}


@pytest.fixture
def receiver():
    with Receiver().running() as receiver:
        yield receiver


@pytest.fixture
def other():
    with Receiver().running() as receiver:
        yield receiver


@pytest.fixture
def setups():
    return environments.ensure("setups")


def sending(receiver, **variables):
    """The variables of a program that sends OTLP there, and does so before it ends."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_PERF_STORE_EXIT": "20s",
        "OTEL_SERVICE_NAME": "shop",
    } | variables


def paths(receiver):
    """Where something was posted to."""
    return {path for path, _, _ in receiver.requests}


def bodies(receiver, path):
    """What was posted to ``path``."""
    return [body for at, _, body in receiver.requests if at == path]


def otlp_spans(receiver, path="/v1/traces"):
    """Name and id of every span that was posted as OTLP."""
    return sorted(
        (span.name, span.span_id.hex())
        for body in bodies(receiver, path)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    )


def otlp_metrics(receiver, path="/v1/metrics"):
    """The names of the metrics that were posted as OTLP."""
    return {
        metric.name
        for body in bodies(receiver, path)
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def otlp_logs(receiver, path="/v1/logs"):
    """The texts of the log records that were posted as OTLP and are no events: what the app logged."""
    return [
        record.body.string_value
        for body in bodies(receiver, path)
        for resource in ExportLogsServiceRequest.FromString(body).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
        if not record.event_name
    ]


# --- Zipkin --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exporters", ["zipkin_json", "otlp,zipkin_json"])
def test_zipkin_gets_the_spans_alone_or_beside_otlp(exporters, setups, home, receiver, other):
    """``zipkin`` itself is protobuf 3's and cannot be installed beside any OTLP exporter of today."""
    variables = sending(
        receiver, OTEL_TRACES_EXPORTER=exporters, OTEL_EXPORTER_ZIPKIN_ENDPOINT=f"{other.url}/api/v2/spans"
    )
    with instrumented(setups, home, "python", "-c", APP, variables=variables) as app:
        assert app.wait() == 0
    assert app.output() == "careful\n"
    assert paths(other) == {"/api/v2/spans"}
    found = {span["name"]: span for body in bodies(other, "/api/v2/spans") for span in json.loads(body)}
    order, charge = found.pop("order"), found.pop("charge")
    assert found == {}
    assert (charge["parentId"], charge["traceId"]) == (order["id"], order["traceId"])
    assert (order["tags"]["customer"], order["localEndpoint"]) == ("7", {"serviceName": "shop"})
    also = [("charge", charge["id"]), ("order", order["id"])] if "otlp" in exporters.split(",") else []
    assert otlp_spans(receiver) == also
    assert otlp_logs(receiver) == ["careful"]
    assert otlp_metrics(receiver) > {"orders", *OF_THE_PROCESS}


# --- Prometheus ----------------------------------------------------------------------------------------------

PARSE = """
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
print(json.dumps([[family.name, family.type, [sample[:3] for sample in family.samples]] for family in parse(sys.stdin.read())]))
"""


def scrape(setups, port):
    """Type and samples of every family, as prometheus_client itself reads them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read()
    done = subprocess.run([setups / "bin" / "python", "-c", PARSE], input=text, capture_output=True, check=True)
    families = {}
    for name, kind, samples in json.loads(done.stdout):
        assert name not in families, f"{name} is there twice"
        families[name] = (kind, samples)
    return families


@pytest.mark.parametrize("exporters", ["prometheus", "otlp,prometheus"])
def test_prometheus_can_scrape_alone_or_beside_otlp(exporters, setups, home, receiver):
    port = free_port()
    variables = sending(receiver, OTEL_METRICS_EXPORTER=exporters, OTEL_EXPORTER_PROMETHEUS_PORT=str(port))
    with instrumented(setups, home, "python", "-c", APP, "stay", variables=variables) as app:
        wait_for(lambda: "ready" in app.output(), what="the app has counted")
        first, families = scrape(setups, port), scrape(setups, port)
        assert app.stop(signal.SIGTERM) == -signal.SIGTERM
    assert app.output() == "careful\nready\n"
    assert first.keys() == families.keys()  # a scrape takes nothing away
    kind, ((name, labels, value),) = families["orders"]
    assert (kind, name, labels["country"], value) == ("counter", "orders_total", "PT", 3)
    assert families["charge_duration_seconds"][0] == "histogram"
    for name, unit, kind in (
        ("process_memory_usage", "_bytes", "gauge"),
        ("process_cpu_time", "_seconds", "counter"),
        ("process_thread_count", "", "gauge"),
        ("cpython_gc_collections", "", "counter"),
    ):
        found, samples = families[name + unit]
        assert found == kind
        assert sum(value for _, _, value in samples) > 0
    by_otlp = {"orders", "charge.duration", *OF_THE_PROCESS} if "otlp" in exporters.split(",") else set()
    assert otlp_metrics(receiver) >= by_otlp
    assert bool(otlp_metrics(receiver)) == bool(by_otlp)
    assert [name for name, _ in otlp_spans(receiver)] == ["charge", "order"]
    assert otlp_logs(receiver) == ["careful"]


# --- OTLP to a vendor, and to several ------------------------------------------------------------------------


def headers(receiver, name):
    """Path of every request, and the value of its header ``name``, ``None`` where it came without."""
    return {
        (path, {key.lower(): value for key, value in of_request.items()}.get(name))
        for path, of_request, _ in receiver.requests
    }


def test_a_vendors_path_and_headers_are_on_every_request(home, receiver):
    variables = sending(
        receiver,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"{receiver.url}/vendor/otlp",
        OTEL_EXPORTER_OTLP_HEADERS="Authorization=Basic%20b3J0ZWw%3D,x-tenant=acme",
    )
    done = programs.run(APP, home, **variables)
    assert done == programs.Ended(0, "", "careful\n")
    places = [f"/vendor/otlp/v1/{signal}" for signal in ("traces", "metrics", "logs")]
    assert headers(receiver, "authorization") == {(place, "Basic b3J0ZWw=") for place in places}
    assert headers(receiver, "x-tenant") == {(place, "acme") for place in places}
    assert [name for name, _ in otlp_spans(receiver, places[0])] == ["charge", "order"]
    assert otlp_metrics(receiver, places[1]) > {"orders", *OF_THE_PROCESS}
    assert otlp_logs(receiver, places[2]) == ["careful"]


def test_a_signal_with_an_endpoint_and_headers_of_its_own_goes_there_only(home, receiver, other):
    """And no receiver gets the credentials for the other one."""
    variables = sending(
        receiver,
        OTEL_EXPORTER_OTLP_HEADERS="api-key=general",
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{other.url}/only/traces",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="api-key=traces",
    )
    done = programs.run(APP, home, **variables)
    assert done == programs.Ended(0, "", "careful\n")
    assert headers(other, "api-key") == {("/only/traces", "traces")}
    assert headers(receiver, "api-key") == {("/v1/metrics", "general"), ("/v1/logs", "general")}
    assert [name for name, _ in otlp_spans(other, "/only/traces")] == ["charge", "order"]
    assert otlp_metrics(receiver) > {"orders", *OF_THE_PROCESS}
    assert otlp_logs(receiver) == ["careful"]


# --- console and none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("exporter", ["console", "none"])
def test_a_signal_for_the_console_or_for_nobody_is_not_sent(exporter, home, receiver):
    done = programs.run(APP, home, **sending(receiver, OTEL_TRACES_EXPORTER=exporter))
    assert (done.status, done.err) == (0, "careful\n")
    printed = [line.strip() for line in done.out.splitlines() if '"name"' in line]
    assert printed == (['"name": "charge",', '"name": "order",'] if exporter == "console" else [])
    assert paths(receiver) == {"/v1/metrics", "/v1/logs"}
    assert spans(home) == []
