"""agent.yaml and gateway.yaml as two real Collectors: what goes in at the one comes out behind the other."""

import contextlib
from collections import Counter

import pytest
import yaml

from tests.deployment.test_collector import CONFIGS, without_load_balancing
from tests.e2e import otlp_json as otlp
from tests.e2e.bundle import Bundle, ContainerBundle
from tests.e2e.collector import ROOT, Collector, ContainerCollector, Network
from tests.e2e.dns import Names
from tests.e2e.support import wait_for

GATEWAY = ROOT / "collector" / "gateway.yaml"
AGAIN = 60  # seconds: an exporter tries again after 30, give or take a half
SHORT = {"OTELCOL_SAMPLE": "0", "OTELCOL_SAMPLE_WAIT": "4s", "OTELCOL_SAMPLE_SETTLE": "1s", "OTELCOL_FLUSH": "1s"}


def agent_config(folder):
    """agent.yaml as far as the Collector built from modules can run it."""
    config = folder / "agent.yaml"
    config.write_text(yaml.safe_dump(without_load_balancing(CONFIGS["agent"])))
    return config


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
        gateway = ContainerBundle(folder / "gateway", "gateway-instances", network, GATEWAY, **SHORT)
        yield behind, gateway, ContainerBundle(folder / "agent", "agent", network, config, **SHORT)


@pytest.fixture(scope="module", params=[processes, containers], ids=["processes", "containers"])
def behind(request, tmp_path_factory):
    """What has arrived behind the gateway when the agent had gone through a time without it."""
    folder = tmp_path_factory.mktemp("tiers")
    (folder / "behind").mkdir()
    with request.param(folder, agent_config(folder)) as (behind, gateway, agent):
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
            wait_for(lambda: len(behind.spans()) >= 2, AGAIN, "the trace is judged")
            wait_for(lambda: behind.received("logs"), AGAIN, "the line arrives")
            wait_for(lambda: "traces.span.metrics.calls" in metrics(behind), AGAIN, "spans are counted")


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


def test_metrics_go_to_every_gateway_in_turn_and_to_those_that_are_left(tmp_path):
    """GIVEN two gateways by one name WHEN one goes THEN both had their part, and all arrives."""
    (tmp_path / "behind").mkdir()
    behind, names = Collector(tmp_path / "behind"), Names("127.0.0.1", "127.0.0.2")
    first = Bundle(tmp_path / "first", behind, GATEWAY, **SHORT)
    second = Bundle(tmp_path / "second", behind, GATEWAY, OTELCOL_GRPC=f"127.0.0.2:{first.grpc}", **SHORT)
    gateways = f"dns://127.0.0.1:{names.port}/gateways.test:{first.grpc}"
    agent = Bundle(tmp_path / "agent", behind, agent_config(tmp_path), OTELCOL_GATEWAY=gateways, **SHORT)
    sent = [f"metric.{number}" for number in range(20)]
    with names.running(), behind.running(), second.running():
        with first.running(), agent.running():
            for name in sent[:10]:
                otlp.send(agent.url(), "metrics", [otlp.counter(name, 1)])
            wait_for(lambda: metrics(behind).keys() >= {*sent[:10]}, 20, "the first arrive")
            accepted = [sum(each.own("otelcol_receiver_accepted_metric_points").values()) for each in (first, second)]
            assert all(accepted), accepted
        with agent.running():
            for name in sent[10:]:
                otlp.send(agent.url(), "metrics", [otlp.counter(name, 1)])
            wait_for(lambda: metrics(behind).keys() >= {*sent}, 30, "the others arrive")
