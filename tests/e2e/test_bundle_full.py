"""collector/config.yaml when a backend is away until its queue is full: what was acknowledged is not lost, others go on."""

import http.client
import json
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import yaml

from tests.e2e import otlp_json as otlp
from tests.e2e.bundle import CONFIG, Bundle
from tests.e2e.collector import Collector
from tests.e2e.support import wait_for

SHORT = {"OTELCOL_SAMPLE_WAIT": "1s", "OTELCOL_SAMPLE_SETTLE": "1s", "OTELCOL_FLUSH": "1s"}
LIMITS = {"logs": (110, 10), "traces": (160, 10), "metrics": (300, 20)}  # MiB, and GOMEMLIMIT between the last two
QUEUES = {"logs": "otlp_http/loki", "traces": "otlp_grpc/tempo"}
LARGE = "x" * 500_000


@pytest.fixture
def behind(tmp_path):
    """What stands for the backend that is away at first."""
    return Collector(tmp_path)


@pytest.fixture
def other(tmp_path):
    """What stands for those that are there."""
    (tmp_path / "other").mkdir()
    return Collector(tmp_path / "other")


def bundle(folder, behind, sizes, limits=(), **variables):
    """A Collector of the bundle's configuration with small queues and limits."""
    config = yaml.safe_load(CONFIG.read_text())
    for exporter, size in sizes.items():
        queue = config["exporters"][exporter]["sending_queue"]
        queue |= {"queue_size": size, "batch": queue["batch"] | {"min_size": 10_000, "flush_timeout": "200ms"}}
    for name, (limit, spike) in dict(limits).items():
        config["processors"][f"memory_limiter/{name}"] |= {"limit_mib": limit, "spike_limit_mib": spike}
    config["processors"]["logdedup"]["interval"] = "1s"
    if "otlp_grpc/tempo" in sizes:
        config["processors"]["batch/kept"] |= {"send_batch_size": 4, "send_batch_max_size": 4}  # less than such a queue
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    return Bundle(folder / "bundle", behind, file, **SHORT, GOMEMLIMIT="200MiB", **variables)


def offer(url, kind, item, timeout=2.0):
    """The status of the answer; ``None`` where there is none."""
    group = {"traces": ("resourceSpans", "scopeSpans", "spans"), "logs": ("resourceLogs", "scopeLogs", "logRecords")}
    of_resource, of_scope, of_items = group[kind]
    body = json.dumps({of_resource: [{of_scope: [{of_items: [item]}]}]})
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=timeout)
    try:
        connection.request("POST", f"/v1/{kind}", body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    except TimeoutError:
        return None
    finally:
        connection.close()


def item(kind, name):
    """A span that is kept, or a line that stays as it is."""
    if kind == "traces":
        return otlp.span(name, status=otlp.ERROR, attributes=otlp.attributes({"large": LARGE}))
    return otlp.record(f"{name} {LARGE}", 17)


def flood(url, kind):
    """Offer large ones until for 3 s all are refused at once. The names of those that were acknowledged.

    A line that can be folded is among them: while it waits for room, all others wait behind it, whoever has gone.
    """
    numbers, taken, deadline = count(), [], time.monotonic() + 60
    let_in = [time.monotonic()]  # the last one that was taken, or that waits

    def one(worker):
        while (now := time.monotonic()) < let_in[0] + 3:
            assert now < deadline, "nothing is refused"
            name = f"large-{next(numbers)}"
            if kind == "logs" and worker == 0:
                offer(url, kind, otlp.record(f"folded {name} {LARGE}"), timeout=1.0)
            status = offer(url, kind, item(kind, name), timeout=1.0)
            if status == 200:
                taken.append(name)
            if status != 503:
                let_in[0] = max(let_in[0], now)
            else:
                time.sleep(0.05)  # who is refused comes later

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(one, range(20)))
    return taken


def names(collector, kind):
    if kind == "traces":
        return {span["name"] for span in collector.received("traces")}
    return {record["body"]["stringValue"].split(" ")[0] for record in collector.received("logs")}


def test_lines_that_were_acknowledged_are_not_lost(tmp_path, behind):
    """GIVEN a full queue WHEN lines are sent THEN they are not acknowledged, and those that were arrive."""
    collector, taken = bundle(tmp_path, behind, {"otlp_http/loki": 20_000}), []
    with collector.running() as process:
        for number in range(200):
            if offer(collector.url(), "logs", otlp.record(f"line-{number} {'x' * 200}", 17), timeout=1.0) != 200:
                break
            taken.append(f"line-{number}")
        assert 10 < len(taken) < 199, "the queue was full at some time"
        process.stop(signal.SIGKILL)
    with behind.running(), collector.running():
        wait_for(lambda: names(behind, "logs") >= {*taken}, 30, "all lines that were acknowledged arrive")


@pytest.mark.parametrize("kind", ["logs", pytest.param("traces", marks=pytest.mark.soak)])
def test_a_backend_that_is_away_does_not_stop_the_others(kind, tmp_path, behind, other):
    """GIVEN its queue full and requests waiting WHEN it is refused THEN other signals are taken, and nothing is lost."""
    places = {"logs": "OTELCOL_LOKI", "traces": "OTELCOL_TEMPO"}
    elsewhere = {
        "OTELCOL_LOKI": other.url(),
        "OTELCOL_PROMETHEUS": other.url(),
        "OTELCOL_TEMPO": f"127.0.0.1:{other.grpc}",
    }
    del elsewhere[places[kind]]
    collector = bundle(tmp_path, behind, {QUEUES[kind]: 10_000_000}, LIMITS, **elsewhere)
    with other.running(), collector.running():
        taken = flood(collector.url(), kind)
        assert len(taken) > 5
        otlp.send(collector.url(), "metrics", [otlp.counter("meanwhile", 1)])
        wait_for(lambda: "meanwhile" in {metric["name"] for metric in other.received("metrics")}, what="metrics arrive")
        if kind == "logs":
            # What was refused may still be in memory, of which traces have a larger share: a sender tries again.
            meanwhile = otlp.span("meanwhile", status=otlp.ERROR)
            wait_for(lambda: offer(collector.url(), "traces", meanwhile) == 200, 30, "traces are taken")
            wait_for(lambda: "meanwhile" in names(other, "traces"), what="traces arrive")
        with behind.running():
            wait_for(lambda: names(behind, kind) >= {*taken}, 60, "all that was acknowledged arrives")
            wait_for(lambda: offer(collector.url(), kind, item(kind, "after")) == 200, 30, "it is taken again")


def test_what_was_not_judged_is_handed_on_by_one_that_is_stopped(tmp_path, behind):
    """GIVEN nobody behind it and traces that wait WHEN it is stopped THEN it ends, and they arrive after its next start."""
    collector = bundle(tmp_path, behind, {})
    collector.settings["OTELCOL_SAMPLE_WAIT"] = "60s"
    collector.settings["OTELCOL_SAMPLE_SETTLE"] = "60s"
    with collector.running() as process:
        otlp.send(collector.url(), "traces", [otlp.span(f"held-{number}", status=otlp.ERROR) for number in range(1000)])
        otlp.send(collector.url(), "logs", [otlp.record("folded") for _ in range(5)])
        assert process.stop(signal.SIGTERM, timeout=60) == 0
    with behind.running(), collector.running():
        wait_for(lambda: len(names(behind, "traces")) == 1000, 30, "the traces arrive")
        wait_for(lambda: names(behind, "logs") == {"folded"}, 30, "the line arrives")
    assert len(behind.received("traces")) == 1000


def test_kept_traces_are_written_to_disk_together(tmp_path, behind):
    """GIVEN each of a queue's items is synced several times WHEN many traces are kept at once THEN they are a few items."""
    collector = bundle(tmp_path, behind, {})
    with collector.running() as process, behind.running():
        before = written(process)
        otlp.send(collector.url(), "traces", [otlp.span("kept", status=otlp.ERROR) for _ in range(1000)])
        wait_for(lambda: len(behind.received("traces")) == 1000, 60, "the traces arrive")
        assert written(process) - before < 1000, "one for each trace at least"


def written(process):
    """How often it has called the kernel to write something."""
    return int(re.search(r"^syscw: (\d+)$", Path(f"/proc/{process.pid}/io").read_text(), re.MULTILINE)[1])
