"""agent.yaml and gateway.yaml as two real Collectors: what goes in at the one comes out behind the other."""

from collections import Counter

import pytest
import yaml

from tests.deployment.test_collector import CONFIGS, without_load_balancing
from tests.e2e import otlp_json as otlp
from tests.e2e.bundle import Bundle
from tests.e2e.collector import ROOT, Collector
from tests.e2e.support import wait_for


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """What has arrived behind the gateway when the agent had gone through a time without it."""
    folder = tmp_path_factory.mktemp("tiers")
    (folder / "behind").mkdir()
    behind = Collector(folder / "behind")
    short = {"OTELCOL_SAMPLE": "0", "OTELCOL_SAMPLE_WAIT": "4s", "OTELCOL_SAMPLE_SETTLE": "1s", "OTELCOL_FLUSH": "1s"}
    gateway = Bundle(folder / "gateway", behind, ROOT / "collector" / "gateway.yaml", **short)
    config = folder / "agent.yaml"
    config.write_text(yaml.safe_dump(without_load_balancing(CONFIGS["agent"])))
    agent = Bundle(folder / "agent", behind, config, OTELCOL_GATEWAY=f"127.0.0.1:{gateway.grpc}", **short)
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
    return behind


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
