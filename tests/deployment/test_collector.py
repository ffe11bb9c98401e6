"""collector/*.yaml: what the real Collector says to them, and what all three have to have in common."""

import json
import os
import subprocess

import jsonschema
import pytest
import yaml

from tests.deployment.files import COLLECTOR, ROOT, VERSION, load
from tests.e2e.collector import binary

NAMES = ("config", "agent", "gateway")
CONFIGS = {name: load(COLLECTOR / f"{name}.yaml") for name in NAMES}
SCHEMA = json.loads((ROOT / "tests" / "deployment" / "loadbalancing.schema.json").read_text())


def exporters(config):
    return config["exporters"].items()


def without_loadbalancing(config):
    """The agent's configuration for the Collector that is built here: the exporter inside of loadbalancing in its place."""
    changed = json.loads(json.dumps(config))
    outer = changed["exporters"].pop("loadbalancing")
    inner = outer["protocol"]["otlp"] | {"endpoint": "${env:OTELCOL_GATEWAY:-gateway:4317}"}
    changed["exporters"]["otlp_grpc/gateways"] = inner | {
        name: outer[name] for name in ("sending_queue", "retry_on_failure")
    }
    traces = changed["service"]["pipelines"]["traces"]
    traces["exporters"] = ["otlp_grpc/gateways" if name == "loadbalancing" else name for name in traces["exporters"]]
    return changed


@pytest.mark.parametrize("name", NAMES)
def test_the_real_collector_takes_it(name, tmp_path):
    """All but loadbalancing, which no module build can have and the schema below reads."""
    config = CONFIGS[name]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(without_loadbalancing(config) if name == "agent" else config))
    environ = {**os.environ, "OTELCOL_STORAGE": str(tmp_path / "storage")}
    command = [binary(), "validate", "--config", file]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), "deprecated names are said here, too"


def test_loadbalancing_is_as_its_schema_says():
    jsonschema.validate(CONFIGS["agent"]["exporters"]["loadbalancing"], SCHEMA)


@pytest.mark.parametrize(
    "change", [{"routing_key": "service"}, {"resolver": {}}, {"sending_qeue": {}}, {"protocol": {"otlp": {}}}]
)
def test_the_schema_refuses_mistakes(change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(CONFIGS["agent"]["exporters"]["loadbalancing"] | change, SCHEMA)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_an_exporter_has_taken_is_on_disk(name):
    config = CONFIGS[name]
    assert config["extensions"]["file_storage"]["fsync"] is True
    assert "file_storage" in config["service"]["extensions"]
    for key, exporter in exporters(config):
        queue = exporter["sending_queue"]
        assert queue["storage"] == "file_storage", key
        assert queue["queue_size"] > 0
        assert queue["batch"]["max_size"] < 4 << 20, "gRPC takes 4 MiB"
        assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s", "it never gives up"
    for pipeline in config["service"]["pipelines"].values():
        if "batch" in pipeline.get("processors", ()):  # else before a queue on disk it would hold what was acknowledged
            assert pipeline["processors"][-2:] == ["tail_sampling", "batch"], "the sampler has held it already"


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_limited_where_something_comes_in(name):
    for key, pipeline in CONFIGS[name]["service"]["pipelines"].items():
        if "otlp" in pipeline["receivers"]:
            assert pipeline["processors"][0] == "memory_limiter", key
    for protocol in CONFIGS[name]["receivers"]["otlp"]["protocols"].values():
        assert "cors" not in protocol


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_watched(name):
    service = CONFIGS[name]["service"]
    assert "health_check" in service["extensions"]
    (reader,) = service["telemetry"]["metrics"]["readers"]
    assert reader["pull"]["exporter"]["prometheus"]["port"] == "${env:OTELCOL_METRICS_PORT:-8888}"


@pytest.mark.parametrize("name", ["config", "agent"])
def test_secrets_are_hidden_where_they_come_in(name):
    for key, pipeline in CONFIGS[name]["service"]["pipelines"].items():
        if "otlp" in pipeline["receivers"]:
            assert "redaction" in pipeline["processors"], key


def test_spans_are_counted_in_the_tier_before_sampling():
    one, agent, gateway = (CONFIGS[name]["service"]["pipelines"] for name in NAMES)
    assert "span_metrics" in one["traces/in"]["exporters"]
    assert "tail_sampling" not in one["traces/in"]["processors"]
    assert "span_metrics" in agent["traces"]["exporters"]
    assert "tail_sampling" in gateway["traces"]["processors"]
    assert "connectors" not in CONFIGS["gateway"]


def test_the_two_tiers_together_do_what_the_one_does():
    """Copies, which only stay the same because this holds them to it."""
    one, agent, gateway = (CONFIGS[name] for name in NAMES)
    for name in one["processors"].keys() - {"memory_limiter"}:
        assert one["processors"][name] == (agent if name in agent["processors"] else gateway)["processors"][name], name
    assert one["connectors"]["span_metrics"] == agent["connectors"]["span_metrics"]
    assert one["exporters"] == gateway["exporters"]
    assert one["receivers"] == agent["receivers"] == gateway["receivers"]
    assert one["extensions"] == agent["extensions"] == gateway["extensions"]


def test_the_documents_say_which_image_has_it():
    """Of what the module build lacks, and by the version that the deployments name."""
    text = (ROOT / "docs" / "collector.md").read_text()
    assert f"collector-contrib:{VERSION}" in text
    assert "loadbalancing" in text
