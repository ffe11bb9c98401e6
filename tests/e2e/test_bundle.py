"""collector/config.yaml on the real Collector: what is kept, counted, hidden and folded, and what outlives a kill."""

import json
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e import otlp_json as otlp
from tests.e2e.bundle import Bundle
from tests.e2e.collector import Collector, items
from tests.e2e.support import environment, wait_for
from tests.stored import spans
from tools import environments

ROOT = Path(__file__).resolve().parents[2]
# Long enough for the slowest request of a shop that is short of CPU, whose spans leave it in parts.
SHORT = {
    "OTELCOL_SAMPLE": "20", "OTELCOL_SAMPLE_WAIT": "20s", "OTELCOL_SAMPLE_SETTLE": "3s", "OTELCOL_FLUSH": "2s",
}  # fmt: skip
SECRETS = {
    "db.password": "hunter2",
    "clientSecret": "hunter2",
    "http.request.header.authorization": "hunter2",
    "http.request.header.cookie": "hunter2",
    "X-Api-Key": "hunter2",
    "session.token": "hunter2",
    "note": "Authorization: Bearer hunter2hunter2",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.hunter2",
    "url.full": "https://me:hunter2@example.org/?x=1&access_token=hunter2&api_key=hunter2",
    "headers": ["Accept: */*", "Authorization: Token hunter2", "Cookie: a=hunter2; b=hunter2"],
    "settings": {"password": "hunter2", "depth": {"client_secret": "the hunter2"}},
}
# In the text of a line, each with what has to be left of it.
SAID = {
    "login password=hunter2 of me": "login p**** of me",
    "DB_PASSWORD=hunter2 DB_USER=me": "DB_P**** DB_USER=me",
    "password: hunter2": "p****",
    '{"user": "me", "password": "hunter2 hunter2"}': '{"user": "me", "p****"}',
    "{'client_secret': 'hunter2', 'user': 'me'}": "{'client_s****', 'user': 'me'}",
    '{"body": "{\\"api_key\\": \\"hunter2\\"}"}': None,
    "SECRET_KEY = 'a hunter2'": "S****'",
    "passphrase=hunter2, x=1": "p****, x=1",
    "Set-Cookie: sid=hunter2; Path=/hunter2": "Set-C****",
    "-H 'Authorization: hunter2'": None,
    "apiKey=hunter2&x=1": "a****&x=1",
    "no answer of redis://:hunter2@redis:6379/0": "no answer of redis****redis:6379/0",
    "AWS_SECRET_ACCESS_KEY=hunter2 AWS_REGION=eu": "AWS_S**** AWS_REGION=eu",
    '{"SecretAccessKey": "hunter2", "user": "me"}': '{"S****", "user": "me"}',
    "secretKey: hunter2, x=1": "s****, x=1",
    "PRIVATE_KEY=hunter2": "P****",
    "private_key: hunter2": "p****",
}
HARMLESS = {"gen_ai.usage.input_tokens": "1200", "http.route": "/x", "code.function.name": "cache.key", "db.user": "me"}
IN_A_TRACE = {"traceId": "ab" * 16, "spanId": "cd" * 8}
PROBE = '10.0.0.1:5 - "GET /health HTTP/1.1" {}'
WAIT = {"kind": 5, "attributes": otlp.attributes({"perf.signal.names": "READY"})}


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """What stands for Tempo, Prometheus and Loki."""
    return Collector(tmp_path_factory.mktemp("behind"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, behind):
    return Bundle(tmp_path_factory.mktemp("bundle") / "collector", behind, **SHORT)


@pytest.fixture(scope="module")
def run(tmp_path_factory, behind, bundle):
    """The shop's traffic and that of others; then a kill while nobody takes anything. What the shop made."""
    folder = tmp_path_factory.mktemp("shop")
    home, shop = folder / ".otel-perf", environments.ensure("shop")
    with behind.running():
        with bundle.running() as process:
            variables = bundle.variables() | {
                "OTEL_PERF_STORE_KEEP": "on", "OTEL_PERF_STORE_EXIT": "20s", "OTEL_BSP_SCHEDULE_DELAY": "500",
            }  # fmt: skip
            demo = subprocess.run(
                [shop / "bin" / "python", "-m", "examples.shop.demo", "--home", home, "--seconds", "4", "--rate", "20", "--errors", "0.1"],
                cwd=ROOT, env=environment(shop, home, variables), capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert demo.returncode == 0, demo.stdout + demo.stderr
            send_others(bundle.url())
            wait_for(lambda: bodies(behind)["equal"], 40, "logs arrive")
            wait_for(lambda: names(behind)["failed"] and not bundle.own_waits(), 40, "traces are judged")
            judged = bundle.judged()
            wait_for(lambda: called(behind, "other") >= 263, 20, "spans are counted")
        assert judged >= 263
        assert "error" not in {line.split("\t")[1] for line in process.output().splitlines() if "\t" in line}
    with bundle.running() as process:
        send_last(bundle.url())
        wait_for(lambda: bundle.judged() >= 50 and not bundle.own_waits(), 40, "the last traces are judged")
        wait_for(lambda: bundle.handed_on() >= 50, 20, "they are in their queue")
        wait_for(lambda: all(bundle.queued().values()), 40, "all that was sent is in the queues")
        process.stop(signal.SIGKILL)
    with behind.running(), bundle.running():
        wait_for(lambda: names(behind)["last"] == 50 and bodies(behind)["last"] == 50, 60, "what was queued arrives")
    return spans(home)


def send_others(url):
    """263 traces and some lines, as other programs would send them."""
    clean = [otlp.span("clean") for _ in range(200)]
    failed = [otlp.span("failed", status=otlp.ERROR) for _ in range(10)]
    slow = [otlp.span("slow", seconds=0.6) for _ in range(10)]
    flagged = [otlp.span("flagged", attributes=otlp.attributes({"perf.bottleneck": True})) for _ in range(10)]
    told = otlp.ERROR | {"message": "no login with password=hunter2 at 10.0.0.1"}
    secret = [otlp.span("secret", status=told, attributes=otlp.attributes(SECRETS | HARMLESS)) for _ in range(3)]
    waits = [otlp.span("wait READY", seconds=0.6, **WAIT) for _ in range(20)]
    consumers = [otlp.span("consume", seconds=0.6, kind=5) for _ in range(10)]
    otlp.send(url, "traces", clean + failed + slow + flagged + secret + waits + consumers)
    lines = [otlp.record("equal") for _ in range(50)]
    lines += [otlp.record("error", 17) for _ in range(3)]
    lines += [otlp.record("in a trace", **IN_A_TRACE) for _ in range(3)]
    lines += [otlp.record("event", eventName="order.placed") for _ in range(3)]
    lines += [otlp.record("event of little weight", 5, eventName="order.placed")]
    lines += [otlp.record("debug", 5)]
    lines += [otlp.record(PROBE.format(status)) for status in ("200", "204 0", "503", "503 215")]
    lines += [otlp.record(line, attributes=otlp.attributes(SECRETS | HARMLESS)) for line in SAID]
    otlp.send(url, "logs", lines)
    otlp.send(url, "metrics", [otlp.counter("of.others", 1)])


def send_last(url):
    """What the Collector has to outlive with nobody behind it."""
    otlp.send(url, "traces", [otlp.span("last", status=otlp.ERROR) for _ in range(50)])
    otlp.send(url, "logs", [otlp.record("last", 17) for _ in range(50)])
    otlp.send(url, "metrics", [otlp.counter("last", 1)])


def names(behind):
    return Counter(span["name"] for span in behind.received("traces"))


def bodies(behind):
    return Counter(record["body"].get("stringValue", "") for record in behind.received("logs"))


def points(behind, metric, service):
    """Attributes and point of every point of a metric, the newest of each series."""
    newest = {}
    for resource, item in items(behind.file.read_text(), "metrics"):
        if item["name"] == metric and values(resource["attributes"])["service.name"] == service:
            for point in next(item[kind] for kind in ("sum", "histogram") if kind in item)["dataPoints"]:
                attributes = values(resource["attributes"]) | values(point["attributes"])
                newest[json.dumps(attributes, sort_keys=True)] = attributes, point
    return list(newest.values())


def exemplars(behind, metric, name):
    """Trace ids of the exemplars of a span's name: each is sent once."""
    found = set()
    for item in behind.received("metrics"):
        if item["name"] == metric:
            for point in item["histogram"]["dataPoints"]:
                if values(point["attributes"])["span.name"] == name:
                    found |= {exemplar["traceId"] for exemplar in point.get("exemplars", ())}
    return found


def values(attributes):
    return {item["key"]: next(iter(item["value"].values())) for item in attributes}


def called(behind, service):
    return sum(int(point["asInt"]) for _, point in points(behind, "traces.span.metrics.calls", service))


def test_every_flagged_failed_or_slow_trace_is_kept_and_a_share_of_the_others(run, behind):
    """GIVEN 20 % of the rest WHEN 263 traces came THEN the 43 that are worth a look are there, and about 40 others."""
    found = names(behind)
    assert {name: found[name] for name in ("failed", "slow", "flagged", "secret", "consume")} == {
        "failed": 10, "slow": 10, "flagged": 10, "secret": 3, "consume": 10,
    }  # fmt: skip
    assert 15 < found["clean"] < 80
    assert found["wait READY"] < 15, "a wait is not slow"


def test_of_the_shop_every_trace_worth_a_look_is_kept_whole(run, behind):
    """GIVEN what the shop has stored of its own THEN each flagged, failed or slow trace of it arrived with all its spans."""
    worth, sizes = set(), Counter(span.trace_id for span in run)
    for span in run:
        if span.error or span.attributes.get("perf.bottleneck") is True or span.end - span.start >= 0.5e9:
            worth.add(span.trace_id)
    arrived = Counter(span["traceId"] for span in behind.received("traces"))
    assert len(worth) >= 5
    assert {trace: arrived[trace] for trace in worth} == {trace: sizes[trace] for trace in worth}
    ids = [(span["traceId"], span["spanId"]) for span in behind.received("traces")]
    assert len(ids) == len(set(ids))
    assert len(sizes) > len(arrived.keys() & sizes.keys()) + 10, "no trace of the shop was left out"


def test_spans_are_counted_before_sampling(run, behind):
    """GIVEN traces that were not kept THEN they are in the RED metrics, with exemplars and the labels to ask for."""
    assert called(behind, "shop") == sum(span.resource["service.name"] == "shop" for span in run)
    assert called(behind, "other") >= 263
    by_name = {
        attributes["span.name"]: (attributes, point)
        for attributes, point in points(behind, "traces.span.metrics.duration", "other")
    }
    attributes, point = by_name["clean"]
    assert int(point["count"]) == 200
    clean = {span["traceId"] for span in behind.received("traces") if span["name"] == "clean"}
    assert exemplars(behind, "traces.span.metrics.duration", "clean") - clean, "one of a trace that was not kept"
    assert {
        "service.version": "1.2",
        "service.instance.id": "i",
        "perf.bottleneck": "false",
    }.items() <= attributes.items()
    assert by_name["flagged"][0]["perf.bottleneck"] is True
    assert point["explicitBounds"][0] == 0.005


def test_secrets_do_not_leave_the_collector(run, behind):
    text = behind.file.read_text()
    assert "hunter2" not in text
    marked = values(next(span for span in behind.received("traces") if span["name"] == "secret")["attributes"])
    assert {key for key in SECRETS if "****" in marked[key]} == SECRETS.keys()
    assert {key: marked[key] for key in HARMLESS} == HARMLESS
    told = next(span for span in behind.received("traces") if span["name"] == "secret")
    assert told["status"]["message"] == "no login with p**** at 10.0.0.1"
    assert "otelcol.status" not in marked
    found = bodies(behind)
    assert {line for line in SAID.values() if line} <= found.keys()


def test_equal_lines_are_one_and_what_says_something_of_its_own_stays(run, behind):
    found = bodies(behind)
    assert (found["equal"], found["error"], found["in a trace"], found["event"]) == (1, 3, 3, 3)
    folded = next(record for record in behind.received("logs") if record["body"].get("stringValue") == "equal")
    assert values(folded["attributes"])["log.count"] == "50"


def test_noise_is_left_out(run, behind):
    found = bodies(behind)
    assert (found["debug"], found[PROBE.format("200")], found[PROBE.format("204 0")]) == (0, 0, 0)
    assert (found["event of little weight"], found[PROBE.format("503")], found[PROBE.format("503 215")]) == (1, 1, 1)


def test_what_was_queued_outlives_a_kill(run, behind):
    """GIVEN nobody behind it WHEN the Collector is killed THEN all that its queues had arrives after its next start."""
    found = names(behind), bodies(behind)
    assert (found[0]["last"], found[1]["last"]) == (50, 50)
    assert [item for item in behind.received("metrics") if item["name"] == "last"]


def test_it_measures_itself(run, bundle):
    """Names that dashboards and alerts ask for; its own scrape endpoint."""
    with bundle.running():
        assert bundle.queued().keys() == {"logs", "metrics", "traces"}
        assert bundle.own("otelcol_process_memory_rss")
