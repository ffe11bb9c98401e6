"""docker-compose.yml: every service by the same rules, and every file and port it names is there."""

import json
import math
import re
import subprocess

import pytest
import yaml

from tests.deployment.files import COLLECTOR, ROOT, VERSION, limits_fit, load
from tests.e2e.prometheus import FLAGS
from tools import environments

DOCUMENT = ROOT / "docs" / "collector.md"
COMPOSE = load(ROOT / "docker-compose.yml")
SERVICES = COMPOSE["services"]
LASTING = {name: service for name, service in SERVICES.items() if name != "prepare"}
IMAGES = {
    "collector": f"otel/opentelemetry-collector-contrib:{VERSION}",
    "prometheus": "prom/prometheus:v3.14.0",
    "tempo": "grafana/tempo:3.0.3",
    "loki": "grafana/loki:3.7.6",
    "grafana": "grafana/grafana:13.2.0",
}


def mounts(service):
    """Source, place and mode of each mount."""
    return [(*volume.split(":"), "rw")[:3] for volume in service.get("volumes", ())]


def each(services=SERVICES):
    return pytest.mark.parametrize("name", services)


@pytest.fixture(scope="module")
def compose():
    """Compose itself, told to read the file."""
    folder = environments.ensure("deployment")

    def run(*arguments, **variables):
        command = [folder / "bin" / "docker-compose", *arguments]
        environ = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **variables}
        return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)

    return run


def test_compose_reads_it(compose):
    done = compose("config", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["services"].keys() == {*IMAGES, "prepare"}
    demo = json.loads(compose("--profile", "demo", "config", "--format", "json").stdout)
    assert demo["services"].keys() == SERVICES.keys()


def test_ports_can_be_changed(compose):
    done = compose("config", "--format", "json", GRAFANA_PORT="3333", OTLP_HTTP_PORT="5318")
    services = json.loads(done.stdout)["services"]
    assert services["grafana"]["ports"][0]["published"] == "3333"
    assert services["grafana"]["environment"]["GF_SERVER_ROOT_URL"] == "http://localhost:3333/"
    assert {port["published"] for port in services["collector"]["ports"]} == {"4317", "5318"}


def test_variables_of_the_collector_reach_it(compose):
    """GIVEN those that do not say where something is THEN they are handed on, and by default are what the configuration says."""
    text = (COLLECTOR / "config.yaml").read_text()
    defaults = dict(re.findall(r"\$\{env:(OTELCOL_\w+):-([^}]*)\}", text))
    places = {"GRPC", "HTTP", "HEALTH", "STORAGE", "TEMPO", "PROMETHEUS", "LOKI", "METRICS_HOST", "METRICS_PORT"}
    wanted = {name: value for name, value in defaults.items() if name.removeprefix("OTELCOL_") not in places}

    def handed_on(**variables):
        environ = json.loads(compose("config", "--format", "json", **variables).stdout)["services"]["collector"][
            "environment"
        ]
        return {name: value for name, value in environ.items() if name.startswith("OTELCOL_")}

    assert handed_on() == wanted
    assert handed_on(**dict.fromkeys(wanted, "")) == wanted, "one that is empty would end the Collector"
    assert handed_on(**dict.fromkeys(wanted, "7")) == dict.fromkeys(wanted, "7")


@each()
def test_images_have_a_tag(name):
    """None says latest. What is built here is built from a file that is there."""
    service = SERVICES[name]
    if "build" in service:
        assert (ROOT / service["build"]["dockerfile"]).exists()
    elif service["image"] != SERVICES["shop"]["image"]:
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), service["image"]
    assert service["image"] == IMAGES.get(name, service["image"])


@each()
def test_nothing_listens_beyond_this_machine(name):
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("127.0.0.1:"), port


@each()
def test_containers_can_do_little(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["mem_limit"]
    assert not service.get("privileged")


@each(LASTING)
def test_nobody_stays_root(name):
    """An id and no name: images from scratch have no names."""
    user = SERVICES[name]["user"].split(":")
    assert int(user[0]) > 0


def test_who_prepares_the_volumes_may_change_owners_and_nothing_else():
    prepare = SERVICES["prepare"]
    assert (prepare["cap_add"], prepare["network_mode"]) == (["CHOWN"], "none")
    script = prepare["command"][2]
    for name, service in LASTING.items():
        for source, _, mode in mounts(service):
            if source in COMPOSE["volumes"] and mode == "rw":
                owned = re.search(rf"chown ([\d:]+) [^&]*/data/{source}\b", script)
                assert owned, f"{name}: nobody gives it {source}"
                assert owned[1].split(":")[0] == service["user"].split(":")[0]
    for source, place, _ in mounts(prepare):
        assert place in script, source


@each(LASTING)
def test_the_others_wait_for_it(name):
    """Directly, or for one that does."""
    after = {name}
    while "prepare" not in after:
        after = {other for each in after for other in SERVICES[each]["depends_on"]}
        assert after


@each(LASTING)
def test_health_is_asked_with_what_is_in_the_container(name):
    """Most images have no shell: what asks is mounted, or is the program's own Python."""
    check = SERVICES[name]["healthcheck"]
    if check.get("disable"):
        assert name in {"load", "machine"}
        return
    assert check["test"][0] == "CMD", "CMD-SHELL needs a shell"
    if check["test"][1] == "python":
        assert SERVICES[name]["image"] == SERVICES["shop"]["image"]
    else:
        assert check["test"][1] == "/tools/busybox"
        assert ("tools", "/tools", "ro") in mounts(SERVICES[name])
    assert check["interval"]
    assert check["retries"]


@each()
def test_what_is_mounted_exists(name):
    for source, _, mode in mounts(SERVICES[name]):
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert mode == "ro", f"{source} can be written"
        else:
            assert source in COMPOSE["volumes"]


def test_every_volume_is_used():
    used = {source for service in LASTING.values() for source, _, _ in mounts(service) if source[0] != "."}
    assert used == COMPOSE["volumes"].keys()


def test_the_ports_are_those_of_the_configurations():
    """Inside, where one program is told of another."""
    text = (COLLECTOR / "config.yaml").read_text()
    inside = {name: {port.rsplit(":", 1)[1] for port in service.get("ports", ())} for name, service in SERVICES.items()}
    for variable, port in (("GRPC", "4317"), ("HTTP", "4318")):
        assert f"${{env:OTELCOL_{variable}:-0.0.0.0:{port}}}" in text
        assert port in inside["collector"]
    tempo, loki = load(COLLECTOR / "tempo.yaml"), load(COLLECTOR / "loki.yaml")
    taken = tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rsplit(":", 1)[1]
    assert f"${{env:OTELCOL_TEMPO:-tempo:{taken}}}" in text
    assert f"${{env:OTELCOL_LOKI:-http://loki:{loki['server']['http_listen_port']}/otlp}}" in text
    assert "${env:OTELCOL_PROMETHEUS:-http://prometheus:9090/api/v1/otlp}" in text
    asked = {name: " ".join(service["healthcheck"].get("test", ())) for name, service in LASTING.items()}
    assert f":{tempo['server']['http_listen_port']}/" in asked["tempo"]
    assert f":{loki['server']['http_listen_port']}/" in asked["loki"]
    assert ":13133/" in asked["collector"]
    assert "${env:OTELCOL_HEALTH:-0.0.0.0:13133}" in text


def test_the_memory_limiter_is_below_the_containers_limit():
    """GIVEN a limiter that refuses late THEN the kernel would kill first."""
    limit = int(SERVICES["collector"]["mem_limit"].removesuffix("m"))
    goal = int(SERVICES["collector"]["environment"]["GOMEMLIMIT"].removesuffix("MiB"))
    limits_fit(load(COLLECTOR / "config.yaml"), limit, goal)


def test_the_readme_says_how_much_memory_it_may_take():
    units = {"m": 2**20, "g": 2**30}
    limits = [service["mem_limit"] for service in LASTING.values() if "profiles" not in service]
    most = sum(int(limit[:-1]) * units[limit[-1]] for limit in limits)
    (said,) = re.findall(r"Grafana; (\d+) GB of memory at most", (ROOT / "README.md").read_text())
    assert int(said) == math.ceil(most / 1e9)


def test_prometheus_takes_what_is_sent():
    flags = SERVICES["prometheus"]["command"]
    needed = (*FLAGS, "--web.enable-remote-write-receiver")
    assert {*needed} <= {*flags}


def test_no_page_of_another_origin_reads_prometheus():
    (flag,) = [flag for flag in SERVICES["prometheus"]["command"] if flag.startswith("--web.cors.origin=")]
    assert flag == "--web.cors.origin=http://localhost:${GRAFANA_PORT:-3000}"


def test_the_collector_has_time_to_hand_on_what_it_holds():
    assert int(SERVICES["collector"]["stop_grace_period"].removesuffix("s")) >= 60


def test_the_loopback_interface_of_the_demo_is_nobodys_who_starts_again():
    """GIVEN the interface of a container goes when it restarts THEN it belongs to one that does nothing."""
    shared = {name: service["network_mode"] for name, service in SERVICES.items() if "network_mode" in service}
    assert shared == {"prepare": "none", **dict.fromkeys(("shop", "payment", "load"), "service:machine")}
    assert SERVICES["machine"]["command"] == ["sleep", "infinity"]


def test_what_comes_late_is_taken_for_as_long_as_it_is_kept():
    """GIVEN stores and queues that wait for days THEN Prometheus, Loki, its queries and Tempo's blocks go back as far."""
    loki = load(COLLECTOR / "loki.yaml")
    kept = hours(loki["limits_config"]["retention_period"])
    assert (
        hours(load(COLLECTOR / "prometheus" / "prometheus.yml")["storage"]["tsdb"]["out_of_order_time_window"]) >= kept
    )
    tempo = load(COLLECTOR / "tempo.yaml")
    assert hours(tempo["overrides"]["defaults"]["compaction"]["block_retention"]) >= kept
    assert hours(tempo["live_store"]["wal"]["ingestion_time_range_slack"]) >= kept, (
        "a block is searched for the times that it has, which are moved to within this of now"
    )
    assert hours(loki["limits_config"]["reject_old_samples_max_age"]) >= kept
    assert hours(loki["ingester"]["max_chunk_age"]) / 2 >= kept, (
        "a stream takes lines up to half of it before its newest"
    )
    assert loki["querier"]["query_ingesters_within"] == "0s", "old lines may be in memory still"


@pytest.mark.parametrize("name", ["config.yaml", "gateway.yaml"])
def test_the_service_map_has_traces_that_the_sampler_has_held(name):
    """GIVEN spans of at most this age are counted THEN there is as much time for the way as for the judgement, and more."""
    sampler = load(COLLECTOR / name)["processors"]["tail_sampling"]
    held = int(re.fullmatch(r"\$\{env:OTELCOL_SAMPLE_WAIT:-(\d+)s\}", sampler["decision_wait"])[1])
    taken = load(COLLECTOR / "tempo.yaml")["metrics_generator"]["metrics_ingestion_time_range_slack"]
    assert int(taken.removesuffix("m")) * 60 >= 2 * held


def hours(text):
    return int(text.removesuffix("h"))


def test_grafana_has_no_password_to_know():
    settings = SERVICES["grafana"]["environment"]
    assert not [name for name in settings if "PASSWORD" in name]
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert settings["GF_AUTH_BASIC_ENABLED"] == "false"
    assert "Admin" not in settings["GF_AUTH_ANONYMOUS_ORG_ROLE"]


def test_accounts_of_the_document_are_an_override_that_compose_takes(compose, tmp_path):
    """GIVEN docs/collector.md's file THEN every setting of it takes the place of one that is there, or is the password's."""
    (example,) = re.findall(r"```yaml\n(# docker-compose\.override\.yml.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "override.yml").write_text(example)
    done = compose("-f", "docker-compose.yml", "-f", tmp_path / "override.yml", "config", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    grafana = json.loads(done.stdout)["services"]["grafana"]
    wanted = yaml.safe_load(example)["services"]["grafana"]["environment"]
    assert wanted.items() <= grafana["environment"].items()
    assert wanted.keys() - SERVICES["grafana"]["environment"].keys() == {"GF_SECURITY_ADMIN_PASSWORD__FILE"}
    (secret,) = grafana["secrets"]
    assert wanted["GF_SECURITY_ADMIN_PASSWORD__FILE"] == f"/run/secrets/{secret['source']}"


@pytest.mark.parametrize("old", ["ingester", "compactor"])
def test_tempo_has_no_block_that_version_3_does_not_know(old):
    assert old not in load(COLLECTOR / "tempo.yaml")


def test_tempo_and_loki_keep_their_files_in_their_volumes():
    """The rest of the container cannot be written."""
    tempo, loki = load(COLLECTOR / "tempo.yaml"), load(COLLECTOR / "loki.yaml")
    storage = tempo["storage"]["trace"]
    paths = [storage["wal"]["path"], storage["local"]["path"], tempo["metrics_generator"]["storage"]["path"]]
    assert all(path.startswith("/var/tempo/") for path in paths)
    paths = [loki["common"]["path_prefix"], loki["compactor"]["working_directory"]]
    assert all(path.startswith("/loki") for path in paths)
    assert loki["limits_config"]["allow_structured_metadata"] is True
    assert loki["compactor"]["retention_enabled"] is True
    assert loki["compactor"]["delete_request_store"] == "filesystem"


@pytest.mark.parametrize("name", ["examples/shop/Dockerfile", "collector/autoinstrumentation/Dockerfile"])
def test_what_the_images_copy_is_in_the_context(name):
    """The root's .dockerignore leaves out all that it does not name."""
    named = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / path).exists() for path in named)
    text = (ROOT / name).read_text()
    for path in re.findall(r"(?:-r|-c|COPY|/src/)\s?([a-z][\w./-]+(?:\.txt|\.py|examples))\b", text):
        assert any(path.startswith(each) for each in named), path
    assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE)
