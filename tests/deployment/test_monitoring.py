"""collector/kubernetes/monitoring: the Collectors are scraped under the name that rules ask for, and the rules are the same."""

import re
import subprocess

import pytest
import yaml

from tests.built import built
from tests.deployment.files import COLLECTOR, load, load_all
from tests.deployment.test_kubernetes import BY_KIND, WORKLOADS, container
from tests.e2e.prometheus import FLAGS, promtool
from tools import queries

FOLDER = COLLECTOR / "kubernetes" / "monitoring"
RULES = {name: load(COLLECTOR / "prometheus" / f"{name}.yml")["groups"] for name in ("recording", "alerts")}


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """What ``kubectl apply -k`` would send, by kind."""
    done = subprocess.run([built("kustomize"), "build", FOLDER], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), "deprecated fields are said here"
    file = tmp_path_factory.mktemp("monitoring") / "applied.yaml"
    file.write_text(done.stdout)
    return {resource["kind"]: resource for resource in load_all(file)}


def test_it_is_in_the_namespace_of_the_collectors(applied):
    assert applied.keys() == {"PodMonitor", "PrometheusRule"}
    for resource in applied.values():
        assert resource["apiVersion"] == "monitoring.coreos.com/v1"
        assert resource["metadata"]["namespace"] == BY_KIND["Namespace", "otel-perf"]["metadata"]["name"]
        assert resource["metadata"]["labels"] == {"app.kubernetes.io/part-of": "otel-perf"}


def test_every_collector_is_scraped_at_its_own_port(applied):
    """The Operator's schema is its own; these are the fields that it reads, by their names there."""
    spec = applied["PodMonitor"]["spec"]
    assert spec.keys() == {"selector", "podMetricsEndpoints"}
    (choice,) = spec["selector"]["matchExpressions"]
    assert choice["operator"] == "In"
    pods = [workload["spec"]["template"]["metadata"]["labels"] for workload in WORKLOADS.values()]
    assert sorted(labels[choice["key"]] for labels in pods) == sorted(choice["values"])
    (endpoint,) = spec["podMetricsEndpoints"]
    assert endpoint.keys() == {"port", "interval", "relabelings"}
    for name in WORKLOADS:
        ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
        assert f"OTELCOL_METRICS_PORT:-{ports[endpoint['port']]}" in (COLLECTOR / f"{name}.yaml").read_text()


def test_they_have_the_job_that_rules_and_dashboards_ask_for(applied):
    """GIVEN the labels that a pod is found by WHEN they are changed THEN they are those of the compose file's job."""
    labels = {"__meta_kubernetes_pod_name": "gateway-3", "job": "otel-perf/otelcol", "instance": "10.0.0.7:8888"}
    (endpoint,) = applied["PodMonitor"]["spec"]["podMetricsEndpoints"]
    for step in endpoint["relabelings"]:
        assert step.keys() <= {"sourceLabels", "targetLabel", "replacement"}
        labels[step["targetLabel"]] = step.get("replacement") or labels[step["sourceLabels"][0]]
    (scraped,) = load(COLLECTOR / "prometheus" / "prometheus.yml")["scrape_configs"]
    assert (labels["job"], labels["instance"]) == (scraped["job_name"], "gateway-3")
    asked = [rule["expr"] for groups in RULES.values() for group in groups for rule in group["rules"]]
    asked += [query.text for query in queries.made() if query.source == "prometheus"]
    assert set(re.findall(r'\bjob="(.*?)"', " ".join(asked))) == {labels["job"]}


def test_the_rules_are_those_of_compose(applied, tmp_path):
    """And Prometheus takes them as the Operator hands them on."""
    spec = applied["PrometheusRule"]["spec"]
    wanted = [group | {"name": f"{name}-{group['name']}"} for name, groups in RULES.items() for group in groups]
    assert spec == {"groups": wanted}
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(spec))
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_is_applied():
    assert {FOLDER / name for name in load(FOLDER / "kustomization.yaml")["resources"]} == {
        file for file in FOLDER.iterdir() if file.name != "kustomization.yaml"
    }


def test_the_operators_prometheus_is_told_what_composes_is():
    """GIVEN what the document asks for WHEN compared with prometheus.yml and its flags THEN none of it is left out."""
    text = (COLLECTOR.parent / "docs" / "collector.md").read_text()
    (block,) = [each for each in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "enableOTLPReceiver" in each]
    told, has = yaml.safe_load(block), load(COLLECTOR / "prometheus" / "prometheus.yml")
    flags = [flag.partition("=")[2] for flag in FLAGS if flag.startswith("--enable-feature=")]
    assert told["enableOTLPReceiver"] is ("--web.enable-otlp-receiver" in FLAGS)
    assert told["enableFeatures"] == flags[0].split(",")
    assert told["tsdb"]["outOfOrderTimeWindow"] == has["storage"]["tsdb"]["out_of_order_time_window"]
    assert told["otlp"] == {
        "translationStrategy": has["otlp"]["translation_strategy"],
        "promoteResourceAttributes": has["otlp"]["promote_resource_attributes"],
    }
    assert told["externalLabels"].keys() == has["global"]["external_labels"].keys()
