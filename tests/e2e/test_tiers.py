"""agent.yaml and gateway.yaml as two real Collectors: what goes in at the one comes out behind the other."""

import contextlib
from collections import Counter

import pytest
import yaml

from tests.deployment.test_collector import CONFIGS, without_loadbalancing
from tests.e2e import otlp_json as otlp
from tests.e2e.bundle import Bundle, ContainerBundle
from tests.e2e.collector import ROOT, Collector, ContainerCollector, Network
from tests.e2e.support import wait_for

SHORT = {"OTELCOL_SAMPLE": "0", "OTELCOL_SAMPLE_WAIT": "4s", "OTELCOL_SAMPLE_SETTLE": "1s", "OTELCOL_FLUSH": "1s"}
GATEWAY = ROOT / "collector" / "gateway.yaml"


@contextlib.contextmanager
def processes(folder, config):
    """What stands for the backends, the gateway and the agent, each of them to be run."""
    behind = Collector(folder / "behind")
    gateway = Bundle(folder / "gateway", behind, GATEWAY, **SHORT)
    yield (
        behind,
        gateway,
        Bundle(folder / "agent", behind, config, OTELCOL_GATEWAY=f"127.0.0.1:{gateway.grpc}", **SHORT),
    )


@contextlib.contextmanager
def containers(folder, config):
    """The same ``FROM scratch``, with no rights, a read-only root and a volume."""
    with Network() as network:
        behind = ContainerCollector(folder / "behind")
        behind.network = network
        gateway = ContainerBundle(folder / "gateway", "gateway", network, GATEWAY, **SHORT)
        yield behind, gateway, ContainerBundle(folder / "agent", "agent", network, config, **SHORT)


@pytest.fixture(scope="module", params=[processes, containers], ids=["processes", "containers"])
def behind(request, tmp_path_factory):
    """What has arrived behind the gateway when the agent had gone through a time without it."""
    folder = tmp_path_factory.mktemp("tiers")
    (folder / "behind").mkdir()
    config = folder / "agent.yaml"
    config.write_text(yaml.safe_dump(without_loadbalancing(CONFIGS["agent"])))
    with request.param(folder, config) as (behind, gateway, agent):
        passed(behind, gateway, agent)
    return behind


def passed(behind, gateway, agent):
    """Let them have what the tests look for."""
    with behind.running(), agent.running():
        clean, failed = otlp.span("clean"), otlp.span("failed", status=otlp.ERROR)
        beneath = otlp.span("beneath", traceId=failed["traceId"], parentSpanId=failed["spanId"])
        otlp.send(agent.url(), "traces", [clean, beneath])
        otlp.send(agent.url(), "logs", [otlp.record("a line of password=hunter2", 17)])
        wait_for(lambda: all(agent.queued().values()), 20, "it waits for the gateway")
        with gateway.running():
            otlp.send(agent.url(), "traces", [failed])
            wait_for(lambda: len(behind.spans()) >= 2, 30, "the trace is judged")
            wait_for(lambda: behind.received("logs"), 20, "the line arrives")
            wait_for(lambda: "traces.span.metrics.calls" in metrics(behind), 20, "spans are counted")


def metrics(behind):
    return Counter(metric["name"] for metric in behind.received("metrics"))


def test_a_trace_that_came_in_parts_is_judged_whole(behind):
    """GIVEN a part that waited for the gateway and was no error WHEN the other part fails THEN both are kept, once."""
    assert sorted(span["name"] for span in behind.received("traces")) == ["beneath", "failed"]


def test_the_agent_hides_and_counts(behind):
    assert "hunter2" not in behind.file.read_text()
    assert len(behind.received("logs")) == 1
    counted = {
        attribute["value"]["stringValue"]
        for metric in behind.received("metrics")
        if metric["name"] == "traces.span.metrics.calls"
        for point in metric["sum"]["dataPoints"]
        for attribute in point["attributes"]
        if attribute["key"] == "span.name"
    }
    assert counted == {"clean", "beneath", "failed"}, "what was not kept is counted, too"
