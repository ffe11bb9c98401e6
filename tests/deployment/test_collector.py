"""collector/*.yaml: what the real Collector says to them, and what all three have to have in common."""

import json
import os
import re
import subprocess

import jsonschema
import pytest
import yaml

from tests.deployment.files import COLLECTOR, ROOT, VERSION, load
from tests.e2e.collector import binary

NAMES = ("config", "agent", "gateway")
CONFIGS = {name: load(COLLECTOR / f"{name}.yaml") for name in NAMES}
# By what may wait in memory: requests of logs behind logdedup, of traces behind the sampler.
ORDER = {
    "config": ["logs", "traces", "metrics"],
    "agent": ["logs", "traces", "metrics"],
    "gateway": ["traces", "logs", "metrics"],
}
METRICS = ("otlp_http/prometheus", "otlp_grpc/metrics")
SCHEMA = json.loads((ROOT / "tests" / "deployment" / "load_balancing.schema.json").read_text())


def exporters(config):
    return config["exporters"].items()


def without_load_balancing(config):
    """The agent's configuration for the Collector that is built here: the exporter inside of load_balancing in its place."""
    changed = json.loads(json.dumps(config))
    outer = changed["exporters"].pop("load_balancing")
    inner = outer["protocol"]["otlp"] | {"endpoint": "${env:OTELCOL_GATEWAY:-gateway-instances:4317}"}
    changed["exporters"]["otlp_grpc/gateways"] = inner | {
        name: outer[name] for name in ("sending_queue", "retry_on_failure")
    }
    traces = changed["service"]["pipelines"]["traces"]
    traces["exporters"] = ["otlp_grpc/gateways" if name == "load_balancing" else name for name in traces["exporters"]]
    return changed


@pytest.mark.parametrize("name", NAMES)
def test_the_real_collector_takes_it(name, tmp_path):
    """All but load_balancing, which no module build can have and the schema below reads."""
    config = CONFIGS[name]
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(without_load_balancing(config) if name == "agent" else config))
    environ = {**os.environ, "OTELCOL_STORAGE": str(tmp_path / "storage")}
    command = [binary(), "validate", "--config", file]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), "deprecated names are said here, too"


def test_it_runs_by_hand_as_the_document_says(tmp_path):
    """GIVEN what docs/collector.md exports THEN every variable is one of the configuration, and nothing listens elsewhere."""
    (block,) = re.findall(r"```sh\n(export OTELCOL_.*?)```", (ROOT / "docs" / "collector.md").read_text(), re.DOTALL)
    *exports, start = block.splitlines()
    command, _, config = start.partition(" #")[0].partition(" --config ")
    assert command == "$(make -s collector)"
    program = "\n".join([*exports, f"env; exec {binary()} validate --config {config}"])
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(["sh", "-c", program], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    said = dict(line.split("=", 1) for line in done.stdout.splitlines() if line.startswith("OTELCOL_"))
    text = (ROOT / config.strip()).read_text()
    defaults = dict(re.findall(r"\$\{env:(OTELCOL_\w+):-([^}]*)\}", text))
    assert said.keys() <= defaults.keys()
    assert {name for name, value in defaults.items() if value.startswith("0.0.0.0")} <= said.keys()
    assert "0.0.0.0" not in "".join(said.values())


def test_the_document_has_every_variable_with_its_default():
    """In one row: its name in the first column, what it is without being set in the second."""
    defaults = {}
    for name in NAMES:
        defaults |= re.findall(r"\$\{env:(OTELCOL_\w+):-([^}]*)\}", (COLLECTOR / f"{name}.yaml").read_text())
    text = (ROOT / "docs" / "collector.md").read_text()
    rows = re.findall(r"^\|([^|]*`OTELCOL_[^|]*)\|([^|]*)\|$", text, re.MULTILINE)
    said = {name: value for names, value in rows for name in re.findall(r"`(OTELCOL_\w+)`", names)}
    assert said.keys() == defaults.keys()
    assert [name for name, value in defaults.items() if value.removeprefix("0.0.0.0") not in said[name]] == []


def test_load_balancing_is_as_its_schema_says():
    jsonschema.validate(CONFIGS["agent"]["exporters"]["load_balancing"], SCHEMA)


@pytest.mark.parametrize(
    "change", [{"routing_key": "service"}, {"resolver": {}}, {"sending_qeue": {}}, {"protocol": {"otlp": {}}}]
)
def test_the_schema_refuses_mistakes(change):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(CONFIGS["agent"]["exporters"]["load_balancing"] | change, SCHEMA)


@pytest.mark.parametrize("name", NAMES)
def test_whatever_an_exporter_has_taken_is_on_disk(name):
    config = CONFIGS[name]
    assert config["extensions"]["file_storage"]["fsync"] is True
    assert "file_storage" in config["service"]["extensions"]
    for key, exporter in exporters(config):
        queue = exporter["sending_queue"]
        assert queue["storage"] == "file_storage", key
        assert queue["queue_size"] > 0
        if key in METRICS:
            assert "batch" not in queue, "Prometheus turns a whole request away for one point"
        else:
            assert queue["batch"]["max_size"] < 4 << 20, "gRPC takes 4 MiB"
        assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s", "it never gives up"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_holds_in_memory_what_was_acknowledged(name):
    """A batch processor does: it comes only after the sampler, which does so as well."""
    for key, pipeline in CONFIGS[name]["service"]["pipelines"].items():
        processors = pipeline.get("processors", [])
        if "tail_sampling" in processors:
            assert processors[processors.index("tail_sampling") + 1 :] == ["batch/kept"], key
        else:
            assert not [each for each in processors if each.startswith("batch")], key


@pytest.mark.parametrize("name", NAMES)
def test_who_would_lose_what_a_full_queue_refuses_waits(name):
    """logdedup and the sampler say that they have taken it, whatever the next one says; receivers ask the sender to keep it."""
    config = CONFIGS[name]
    for key, pipeline in config["service"]["pipelines"].items():
        swallows = {"logdedup", "tail_sampling"} & {*pipeline.get("processors", ())}
        for exporter in {*pipeline["exporters"]} & config["exporters"].keys():
            waits = config["exporters"][exporter]["sending_queue"].get("block_on_overflow", False)
            assert waits is bool(swallows), (key, exporter)


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_limited_where_something_comes_in(name):
    """What may wait in memory is refused first."""
    refuses = {}
    for key, pipeline in CONFIGS[name]["service"]["pipelines"].items():
        if "otlp" in pipeline["receivers"]:
            limiter = pipeline["processors"][0]
            assert limiter == f"memory_limiter/{key.split('/')[0]}"
            settings = CONFIGS[name]["processors"][limiter]
            refuses[key.split("/")[0]] = settings["limit_mib"] - settings["spike_limit_mib"]
    assert sorted(refuses, key=refuses.get) == ORDER[name]
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


def test_who_acknowledges_lines_that_may_not_be_queued_is_known_by_the_filter_before():
    """A rule tells by it whether log lines that found no room are lost, or will be sent again."""
    for name in NAMES:
        processors = CONFIGS[name]["service"]["pipelines"]["logs"]["processors"]
        assert ("filter/noise" in processors) == ("logdedup" in processors) == (name != "gateway")


def test_spans_are_counted_in_the_tier_before_sampling():
    one, agent, gateway = (CONFIGS[name]["service"]["pipelines"] for name in NAMES)
    assert "span_metrics" in one["traces/in"]["exporters"]
    assert "tail_sampling" not in one["traces/in"]["processors"]
    assert "span_metrics" in agent["traces"]["exporters"]
    assert "tail_sampling" in gateway["traces"]["processors"]
    assert "connectors" not in CONFIGS["gateway"]


def test_counts_of_what_seldom_happens_stay():
    """A series that went and came again at 1 would show no increase: an error a day would never be seen."""
    for name in ("config", "agent"):
        counted = CONFIGS[name]["connectors"]["span_metrics"]
        assert "series_expiration" not in counted
        assert counted["metrics_expiration"].endswith("h")
        assert counted["aggregation_cardinality_limit"] > 0


def test_agents_go_round_the_gateways_and_wait_for_none():
    """GIVEN one address for several instances THEN a connection is to one of them for good; hence all, in turn."""
    found = CONFIGS["agent"]["exporters"]
    for name in ("otlp_grpc/metrics", "otlp_grpc/logs"):
        assert found[name]["endpoint"] == "${env:OTELCOL_GATEWAY:-dns:///gateway-instances:4317}"
        assert found[name]["balancer_name"] == "round_robin"
    inner = found["load_balancing"]["protocol"]["otlp"]
    assert inner["retry_on_failure"] == {"enabled": False}
    assert inner["timeout"] == "5s"


def test_the_two_tiers_together_do_what_the_one_does():
    """Copies, which only stay the same because this holds them to it."""
    one, agent, gateway = (CONFIGS[name] for name in NAMES)
    for name in one["processors"]:
        if not name.startswith("memory_limiter"):
            found = (agent if name in agent["processors"] else gateway)["processors"][name]
            assert one["processors"][name] == found, name
    assert one["connectors"]["span_metrics"] == agent["connectors"]["span_metrics"]
    of_one, of_gateway = json.loads(json.dumps(one["exporters"])), gateway["exporters"]
    assert of_one["otlp_http/loki"]["sending_queue"].pop("block_on_overflow") is True, "there logdedup comes before it"
    assert of_one == of_gateway
    assert one["receivers"] == agent["receivers"]
    gateway_grpc = dict(gateway["receivers"]["otlp"]["protocols"]["grpc"])
    assert gateway_grpc.pop("keepalive")["server_parameters"]["max_connection_age"] == "5m", (
        "or it finds no new instance"
    )
    assert gateway_grpc == one["receivers"]["otlp"]["protocols"]["grpc"]
    assert one["extensions"] == agent["extensions"] == gateway["extensions"]


def test_the_documents_say_which_image_has_it():
    """Of what the module build lacks, and by the version that the deployments name."""
    text = (ROOT / "docs" / "collector.md").read_text()
    assert f"collector-contrib:{VERSION}" in text
    assert "load_balancing" in text
