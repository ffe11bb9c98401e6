"""collector/kustomization.yaml and what it applies: by Kubernetes' schemas, and by what the schemas do not know."""

import re
import shutil
import subprocess

import pytest
import yaml

from otel_perf import __version__
from tests.built import built
from tests.deployment.files import COLLECTOR, ROOT, VERSION, limits_fit, load, load_all
from tools import environments

DOCUMENT = ROOT / "docs" / "collector.md"
FILES = sorted((COLLECTOR / "kubernetes").glob("*.yaml"))
RESOURCES = [resource for file in FILES for resource in load_all(file)]
BY_KIND = {(resource["kind"], resource["metadata"]["name"]): resource for resource in RESOURCES}
WORKLOADS = {name: BY_KIND[kind, name] for kind, name in (("DaemonSet", "agent"), ("StatefulSet", "gateway"))}
ONE = pytest.mark.parametrize("name", WORKLOADS)


def pod(name):
    return WORKLOADS[name]["spec"]["template"]["spec"]


def container(name):
    (only,) = pod(name)["containers"]
    return only


@pytest.fixture(scope="module")
def applied(tmp_path_factory):
    """What ``kubectl apply -k collector`` would send."""
    done = subprocess.run([built("kustomize"), "build", COLLECTOR], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "deprecated fields are said here"
    file = tmp_path_factory.mktemp("kubernetes") / "applied.yaml"
    file.write_text(done.stdout)
    return file


def test_all_of_it_is_by_the_schemas(applied):
    """Strictly: an unknown field is a mistake."""
    command = [environments.ensure("deployment") / "bin" / "kubernetes-validate", "--strict", applied]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count(" passed for resource ") == len(load_all(applied))


def test_the_configurations_are_those_beside(applied):
    """GIVEN the same files as everywhere WHEN one changes THEN the name of its map does, and the pods are made anew."""
    made = load_all(applied)
    for name in WORKLOADS:
        (config,) = [each for each in made if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith(name)]
        assert config["data"] == {"config.yaml": (COLLECTOR / f"{name}.yaml").read_text()}
        assert config["metadata"]["name"] != name
        (workload,) = [each for each in made if each["kind"] == WORKLOADS[name]["kind"]]
        volumes = {volume["name"]: volume for volume in workload["spec"]["template"]["spec"]["volumes"]}
        assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]
    assert {each["metadata"].get("namespace") for each in made if each["kind"] != "Namespace"} == {"otel-perf"}


def test_backends_are_said_by_the_kustomization_of_the_document(tmp_path):
    """docs/collector.md's, beside a checkout: what it sets arrives, and nothing of the container is lost."""
    (example,) = re.findall(r"```yaml\n(# kustomization\.yaml.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(example)
    shutil.copytree(COLLECTOR, tmp_path / "otel-perf" / "collector")
    done = subprocess.run([built("kustomize"), "build", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    made = [each for each in yaml.safe_load_all(done.stdout) if each["kind"] == "StatefulSet"]
    (found,) = made[0]["spec"]["template"]["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in found["env"]}
    assert variables.keys() == {"GOMEMLIMIT", "OTELCOL_TEMPO", "OTELCOL_PROMETHEUS", "OTELCOL_LOKI"}
    for name in variables.keys() - {"GOMEMLIMIT"}:
        (default,) = re.findall(rf"\$\{{env:{name}:-(.*?)\}}", (COLLECTOR / "gateway.yaml").read_text())
        host = default.removeprefix("http://").partition(":")[0]
        assert variables[name] == default.replace(f"{host}:", f"{host}.monitoring.svc:", 1)
    assert found["image"] == container("gateway")["image"]


def test_every_file_is_applied_but_the_operators():
    named = {COLLECTOR / path for path in load(COLLECTOR / "kustomization.yaml")["resources"]}
    assert {*FILES} - named == {COLLECTOR / "kubernetes" / "instrumentation.yaml"}
    assert named <= {*FILES}


@ONE
def test_selectors_choose_the_pods(name):
    labels = WORKLOADS[name]["spec"]["template"]["metadata"]["labels"]
    assert WORKLOADS[name]["spec"]["selector"]["matchLabels"].items() <= labels.items()
    services = [
        each for each in RESOURCES if each["kind"] == "Service" and each["spec"]["selector"].items() <= labels.items()
    ]
    assert services
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    for service in services:
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


@ONE
def test_ports_are_those_of_the_configuration(name):
    text = (COLLECTOR / f"{name}.yaml").read_text()
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    assert f"OTELCOL_GRPC:-0.0.0.0:{ports['otlp-grpc']}" in text
    assert f"OTELCOL_HEALTH:-0.0.0.0:{ports['health']}" in text
    assert f"OTELCOL_METRICS_PORT:-{ports['metrics']}" in text
    assert WORKLOADS[name]["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(name)[probe]["httpGet"]["port"] == "health"


@ONE
def test_the_configuration_fits_the_container(name):
    limit = container(name)["resources"]["limits"]["memory"]
    mib = int(limit.removesuffix("Mi")) if limit.endswith("Mi") else int(limit.removesuffix("Gi")) * 1024
    (goal,) = [
        int(each["value"].removesuffix("MiB")) for each in container(name)["env"] if each["name"] == "GOMEMLIMIT"
    ]
    limits_fit(load(COLLECTOR / f"{name}.yaml"), mib, goal)
    assert container(name)["resources"]["requests"].keys() == {"cpu", "memory"}
    mounted = {mount["mountPath"]: mount for mount in container(name)["volumeMounts"]}
    assert container(name)["args"] == ["--config=/etc/otelcol/config.yaml"]
    assert mounted["/etc/otelcol"]["readOnly"] is True
    assert f"OTELCOL_STORAGE:-{'/var/lib/otelcol'}" in (COLLECTOR / f"{name}.yaml").read_text()
    assert "/var/lib/otelcol" in mounted


@ONE
def test_containers_can_do_little(name):
    for each in [container(name), *pod(name).get("initContainers", ())]:
        security = pod(name)["securityContext"] | each["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert security["capabilities"]["drop"] == ["ALL"]
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        if each["name"] == "owner":
            assert security["capabilities"]["add"] == ["CHOWN"]
        else:
            assert security["runAsNonRoot"] is True
            assert "add" not in security["capabilities"]
        assert ":" in each["image"]
    assert container(name)["image"] == f"otel/opentelemetry-collector-contrib:{VERSION}"
    assert pod(name)["automountServiceAccountToken"] is False


def test_what_is_queued_outlives_the_pod():
    queue = next(volume for volume in pod("agent")["volumes"] if volume["name"] == "queue")
    assert "hostPath" in queue
    assert WORKLOADS["gateway"]["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "queue"
    assert WORKLOADS["gateway"]["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"] == "Retain"


@ONE
def test_pods_have_time_to_hand_on_what_they_hold(name):
    assert pod(name)["terminationGracePeriodSeconds"] >= 60


def test_agents_find_every_gateway():
    """The service without an address of its own is the StatefulSet's, and the one that the agent resolves."""
    headless = BY_KIND["Service", "gateway-instances"]
    assert headless["spec"]["clusterIP"] == "None"
    assert "publishNotReadyAddresses" not in headless["spec"], "agents would wait for one that is not there"
    assert WORKLOADS["gateway"]["spec"]["serviceName"] == "gateway-instances"
    agent = (COLLECTOR / "agent.yaml").read_text()
    assert "${env:OTELCOL_GATEWAYS:-gateway-instances}" in agent
    assert "${env:OTELCOL_GATEWAY:-dns:///gateway-instances:4317}" in agent
    assert BY_KIND["Service", "agent"]["spec"]["internalTrafficPolicy"] == "Local"


def test_the_gateway_scales_and_is_not_drained_at_once():
    scaler, budget = (
        BY_KIND["HorizontalPodAutoscaler", "gateway"]["spec"],
        BY_KIND["PodDisruptionBudget", "gateway"]["spec"],
    )
    target = scaler["scaleTargetRef"]
    assert (target["kind"], target["name"]) in BY_KIND
    assert scaler["minReplicas"] >= 2
    (metric,) = scaler["metrics"]
    assert metric["resource"]["name"] == "cpu", "the queue's file is part of the memory that is measured"
    share, request = (
        metric["resource"]["target"]["averageUtilization"],
        container("gateway")["resources"]["requests"]["cpu"],
    )
    said = " ".join((ROOT / "docs" / "scale.md").read_text().split())
    assert f"CPU alone, at neither memory nor `num_traces`: it adds one when they use {share} % of what" in said
    assert f"(`cpu: {request}`)" in said
    assert f"`maxReplicas: {scaler['maxReplicas']}`" in said
    assert "replicas" not in WORKLOADS["gateway"]["spec"], "the autoscaler's number would be undone by each apply"
    assert budget["selector"] == WORKLOADS["gateway"]["spec"]["selector"]
    assert budget["maxUnavailable"] < scaler["minReplicas"]


def test_the_operators_resource_sends_to_the_agent():
    """Its schema is the Operator's own; these are the fields that it reads, by their names there."""
    resource = BY_KIND["Instrumentation", "otel-perf"]
    assert resource["apiVersion"] == "opentelemetry.io/v1alpha1"
    spec = resource["spec"]
    assert spec.keys() <= {"exporter", "propagators", "sampler", "python", "env", "resource", "defaults"}
    assert spec["python"].keys() <= {"image", "env", "resourceRequirements", "volumeLimitSize", "volumeClaimTemplate"}
    service, namespace = spec["exporter"]["endpoint"].removeprefix("http://").removesuffix(":4318").split(".")[:2]
    assert ("Service", service) in BY_KIND
    assert namespace == BY_KIND["Namespace", "otel-perf"]["metadata"]["name"]
    variables = {each["name"]: each["value"] for each in spec["python"]["env"]}
    assert variables["OTEL_EXPORTER_OTLP_PROTOCOL"] == "http/protobuf"
    image = spec["python"]["image"]
    assert image.rsplit(":", 1)[1] == __version__
    for file in (COLLECTOR / "autoinstrumentation" / "Dockerfile", DOCUMENT):
        assert f" -t REGISTRY/{image} .\n" in file.read_text()


def test_the_recipe_sends_to_the_agent():
    endpoint = BY_KIND["Instrumentation", "otel-perf"]["spec"]["exporter"]["endpoint"]
    recipe = (ROOT / "docs" / "recipes" / "kubernetes.md").read_text()
    assert f'OTEL_EXPORTER_OTLP_ENDPOINT, value: "{endpoint}"' in recipe
    assert endpoint in DOCUMENT.read_text()
