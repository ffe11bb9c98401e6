"""The shop, untouched, sends to the real Collector: what arrives is what was made, once."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.collector import Certificates, Collector, ContainerCollector, items
from tests.e2e.support import environment, wait_for
from tools import environments

ROOT = Path(__file__).resolve().parents[2]
SIGNALS = ("traces", "metrics", "logs")


def key_of(signal, resource, item):
    """What tells one item from every other."""
    if signal == "traces":
        return item["traceId"], item["spanId"]
    if signal == "logs":
        times = item.get("timeUnixNano"), item.get("observedTimeUnixNano")
        return *times, item.get("traceId", ""), item.get("spanId", ""), json.dumps(item.get("body"), sort_keys=True)
    instance = next(a["value"]["stringValue"] for a in resource["attributes"] if a["key"] == "service.instance.id")
    data = next(item[kind] for kind in ("sum", "gauge", "histogram", "exponentialHistogram") if kind in item)
    return instance, item["name"], max(point["timeUnixNano"] for point in data["dataPoints"])


def keys(lines, signal):
    return [key_of(signal, resource, item) for resource, item in items(lines, signal)]


@pytest.mark.parametrize(
    ("kind", "protocol", "secure"),
    [
        (Collector, "http/protobuf", False),
        (Collector, "grpc", True),
        (ContainerCollector, "grpc", False),
        (ContainerCollector, "http/protobuf", True),
    ],
    ids=["process-http", "process-grpc-mtls", "container-grpc", "container-http-mtls"],
)
def test_all_that_the_shop_makes_arrives_once(tmp_path, kind, protocol, secure):
    """GIVEN the Collector WHEN the demo has run THEN spans, metrics and records received are those made."""
    home, folder = tmp_path / ".otel-perf", environments.ensure("shop")
    collector = kind(tmp_path, Certificates(tmp_path / "tls") if secure else None)
    with collector.running():
        variables = collector.variables(protocol) | {"OTEL_PERF_STORE_KEEP": "on", "OTEL_PERF_STORE_EXIT": "20s"}
        demo = subprocess.run(
            [folder / "bin" / "python", "-m", "examples.shop.demo", "--home", home, "--seconds", "3", "--rate", "30"],
            cwd=ROOT, env=environment(folder, home, variables), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert demo.returncode == 0, demo.stdout + demo.stderr
        made = {signal: keys(exported(folder, home, signal), signal) for signal in SIGNALS}
        for signal in SIGNALS:
            wait_for(lambda signal=signal: len(received(collector, signal)) >= len(made[signal]), what=signal)
    answered = sum(
        json.loads(next(line for line in demo.stdout.splitlines() if line.startswith("{")))["answered"].values()
    )
    assert len(made["traces"]) == len(set(made["traces"])) > answered > 50
    for signal in SIGNALS:
        assert sorted(received(collector, signal)) == sorted(made[signal])


def exported(folder, home, signal):
    """What was stored, sent or not, as ``otel-perf export`` writes it."""
    command = [folder / "bin" / "otel-perf", "export", "--signal", signal, "--home", home]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def received(collector, signal):
    return keys(collector.file.read_text(), signal) if collector.file.exists() else []
