"""The bundle with real traffic: shop, Collector, Prometheus, and every query of every dashboard, rule and alert.

One run of all of it: the shop under load, a program that does what the shop does not, ``collector/config.yaml`` with
other endpoints, ``collector/prometheus/`` with another port to scrape. Tempo and Loki run only as images: what they are
sent is kept here, and their queries are parsed and looked for in that.
"""

import json
import math
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.e2e import logql, programs
from tests.e2e.backends import Backends
from tests.e2e.bundle import Bundle
from tests.e2e.collector import Collector
from tests.e2e.prometheus import Prometheus, QueryError
from tests.e2e.support import Running, environment, wait_for
from tests.e2e.traceql import Parser
from tools import environments, queries

ROOT = Path(__file__).resolve().parents[2]
SERVICES = "(everything|payment|shop)"
SHORT = {"OTELCOL_FLUSH": "2s", "OTELCOL_SAMPLE": "100", "OTELCOL_SAMPLE_WAIT": "5s", "OTELCOL_SAMPLE_SETTLE": "1s"}
ALL = list(queries.made())
PROMQL = [query for query in ALL if query.source == "prometheus"]
LOGQL = [query for query in ALL if query.source == "loki"]
# Not TraceQL: the id of a trace, which opens it.
TRACEQL = [query for query in ALL if query.source == "tempo" and query.text != "${search}"]
# What is only there when something is wrong, which it is not in this run.
QUIET = {
    "Suspected leaks": 'event_name="perf.memory.leak_suspected"',  # tests/e2e/test_memory_leak.py has it
    "What otel-perf turned off": 'event_name="perf.feature.changed"',
}


class Run:
    """What came of it."""

    def __init__(self, prometheus, backends):
        self.prometheus, self.backends = prometheus, backends
        self.spans, self.records = backends.spans(), backends.records()
        of_shop = (record for record in self.records if record["service_name"] == "shop")
        self.trace = next(record["trace_id"] for record in of_shop if record.get("trace_id"))

    def filled(self, text, every=True):
        """A query as Grafana makes it, with "All" or with chosen services: the intervals are those of an hour on a screen."""
        found = text.replace("$__rate_interval", "4m").replace("$__range", "3600s").replace("$__auto", "1m")
        found = found.replace("${__tags}", 'service_name="shop"').replace("$__tags", 'service_name="shop"')
        found = found.replace("${__trace.traceId}", self.trace).replace("${search}", self.trace)
        found = re.sub(r"\$\{?service(:pipe)?\}?", ".+" if every else SERVICES, found)
        found = re.sub(r"\$\{?(version|instance)(:pipe)?\}?", ".*", found)
        assert "$" not in found, found
        return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All of it, for about a minute."""
    folder = tmp_path_factory.mktemp("observability")
    backends = Backends()
    collector = Bundle(
        folder / "collector", Collector(folder), **SHORT, OTELCOL_TEMPO=backends.tempo, OTELCOL_LOKI=backends.loki
    )
    prometheus = Prometheus(folder, collector.metrics)
    collector.settings["OTELCOL_PROMETHEUS"] = f"{prometheus.url}/api/v1/otlp"
    with backends.running(), prometheus.running(), collector.running():
        sends = collector.variables() | {"OTEL_METRIC_EXPORT_INTERVAL": "2000", "OTEL_PERF_STORE_EXIT": "5s"}
        send_growth(collector.url())
        wait_for(lambda: prometheus.query('process_memory_usage_bytes{service_instance_id="grows"}'), what="it arrives")
        send_what_is_too_old(collector.url())
        with everything(folder, sends) as process:
            wait_for(lambda: "ready" in process.output(), what="the program is ready")
            demo(folder, sends)
            wait_for(lambda: all(map(prometheus.query, recorded(prometheus))), 60, "all rules have recorded")
            wait_for(lambda: not growth_is_missing(prometheus), 60, "memory has grown")
            assert process.stop() == 0
        wait_for(lambda: not collector.own_waits(), 30, "traces are judged")
        wait_for(lambda: not any(collector.queued().values()), 30, "the queues are empty")
        yield Run(prometheus, backends)


def everything(folder, sends):
    """tests/e2e/apps/everything.py, with less memory than it wants."""
    home = folder / "everything" / ".otel-perf"
    home.parent.mkdir()
    variables = {
        **sends,
        "OTEL_SERVICE_NAME": "everything",
        "OTEL_RESOURCE_ATTRIBUTES": "service.version=2.0",
        "OTEL_PERF_MEMORY_LIMIT": "100MB",
        "OTEL_PERF_LOGS_LEVELS": "everything.chatty=ERROR",
    }
    command = [str(programs.BIN / "opentelemetry-instrument"), sys.executable, "-m", "tests.e2e.apps.everything"]
    return Running(command, programs.environment(home, **variables), ROOT, folder / "everything.log")


def demo(folder, sends):
    """The shop under load."""
    home, shop = folder / "shop" / ".otel-perf", environments.ensure("shop")
    variables = {**sends, "OTEL_RESOURCE_ATTRIBUTES": "service.version=1.7"}
    done = subprocess.run(
        [shop / "bin" / "python", "-m", "examples.shop.demo", "--home", home, "--seconds", "15", "--rate", "12", "--errors", "0.1"],
        cwd=ROOT, env=environment(shop, home, variables), capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def recorded(prometheus):
    """The series that rules record."""
    groups = prometheus.get("rules", type="record")["groups"]
    return [rule["name"] for group in groups for rule in group["rules"]]


def growth_is_missing(prometheus):
    return not prometheus.query("deriv(instance:process_memory_floor_bytes:min2m[30m]) > 0")


def send_metrics(url, name, unit, points, kind="gauge", **resource):
    """Points of one metric as other programs send them: pairs of seconds ago and a value."""
    now = time.time()
    made = [{"timeUnixNano": str(int((now - ago) * 1e9)), "asDouble": value} for ago, value in points]
    data = {"dataPoints": made}
    if kind == "sum":
        data |= {"aggregationTemporality": 2, "isMonotonic": False}
    metric = {"name": name, "unit": unit, kind: data}
    attributes = [{"key": key.replace("_", "."), "value": {"stringValue": value}} for key, value in resource.items()]
    body = {"resourceMetrics": [{"resource": {"attributes": attributes}, "scopeMetrics": [{"metrics": [metric]}]}]}
    request = urllib.request.Request(
        f"{url}/v1/metrics", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=10).close()


def send_what_is_too_old(url):
    """A point that Prometheus turns away, so that the Collector fails to deliver something."""
    send_metrics(url, "too.old", "1", [(30 * 24 * 3600, 1.0)], service_name="old")


def send_growth(url):
    """A process of the shop that has grown by 1 MB every 15 s for ten minutes, told late."""
    which = {"service_name": "shop", "service_instance_id": "grows", "service_version": "1.6"}
    ago = range(600, -90, -15)  # and some that are to come, while the test goes on
    grown = [(seconds, 2e8 + (600 - seconds) / 15 * 1e6) for seconds in ago]
    send_metrics(url, "process.memory.usage", "By", grown, "sum", **which)
    send_metrics(url, "perf.memory.limit", "By", [(seconds, 1e9) for seconds in ago], **which)


def numbers(series):
    """The values of a series that are numbers; of a native histogram its counts."""
    values = series.get("values") or ([series["value"]] if "value" in series else [])
    histograms = series.get("histograms") or ([series["histogram"]] if "histogram" in series else [])
    found = [float(value) for _, value in values] + [float(histogram["count"]) for _, histogram in histograms]
    return [value for value in found if not math.isnan(value)]


def answer(run, query, every):
    """The series that have a number; fails with what Prometheus said where it takes no such query."""
    text = run.filled(query.text, every)
    at_once = query.way == "panel" and query.target.get("instant")
    try:
        found = run.prometheus.query(text) if at_once else run.prometheus.course(text)
    except QueryError as error:
        pytest.fail(str(error))
    return [series for series in found if numbers(series)]


def place(query):
    number = query.target["refId"] if query.way == "panel" else query.way
    return f"{query.board}-{query.panel}-{number}"


# --- PromQL ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [True, False], ids=["all", "chosen"])
@pytest.mark.parametrize("query", PROMQL, ids=place)
def test_every_promql_expression_returns_data_with_its_labels(run, query, every):
    found = answer(run, query, every)
    assert found, run.filled(query.text, every)
    legend = query.target.get("legendFormat", "") if query.way == "panel" else ""
    wanted = set(re.findall(r"\{\{(\w+)\}\}", legend))
    if query.way == "panel" and query.target.get("instant"):
        wanted = {name.strip() for name in (re.findall(r"\bby \(([^)]*)\)", query.text) or [""])[0].split(",")} - {""}
    if "le" in wanted:
        wanted.remove("le")  # histogram_quantile takes it
    assert any(all(series["metric"].get(label) for label in wanted) for series in found), (wanted, found[:3])


@pytest.mark.parametrize("query", [q for q in PROMQL if q.way == "panel" and q.target.get("exemplar")], ids=place)
def test_exemplars_lead_to_traces(run, query):
    now = time.time()
    found = run.prometheus.get("query_exemplars", query=run.filled(query.text), start=now - 3600, end=now)
    traces = {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}
    assert traces
    assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in traces)


def test_every_rule_is_evaluated_and_every_recording_has_data(run):
    groups = run.prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 20
    assert {rule["health"] for rule in rules} == {"ok"}, [rule.get("lastError") for rule in rules]
    for rule in rules:
        if rule["type"] == "recording":
            assert run.prometheus.query(rule["name"]), rule["name"]
            assert run.prometheus.query(rule["query"]), rule["query"]


def test_what_every_alert_looks_at_is_there(run):
    """An alert that is quiet returns nothing: each vector that it selects has to be there."""
    groups = run.prometheus.get("rules", type="alert")["groups"]
    alerts = [rule for group in groups for rule in group["rules"]]
    assert len(alerts) > 10
    for alert in alerts:
        selectors = run.prometheus.selectors(alert["query"])
        assert selectors, alert["name"]
        for selector in selectors:
            assert run.prometheus.query(f"last_over_time({selector}[10m])"), (alert["name"], selector)


def test_alerts_of_what_is_wrong_here_are_on(run):
    """The program waits for a signal that nobody emits, and its store and checks say so."""
    active = {alert["labels"]["alertname"] for alert in run.prometheus.get("alerts")["alerts"]}
    assert {"SignalOverdue", "ErrorBudgetBurnsFast"} <= active


def test_variables_offer_the_services_versions_and_instances(run):
    chosen = {}
    for board in queries.boards().values():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                text, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
                found = run.prometheus.get(f"label/{label}/values", **{"match[]": run.filled(text)})
                chosen.setdefault(variable["name"], set(found))
    assert chosen["service"] == {"everything", "payment", "shop"}
    assert chosen["version"] >= {"1.7", "2.0"}
    assert len(chosen["instance"]) >= 3


# --- TraceQL and LogQL -------------------------------------------------------------------------------


@pytest.mark.parametrize("query", TRACEQL, ids=place)
def test_every_traceql_query_is_one_and_selects_spans(run, query):
    found = Parser(run.filled(query.text)).parse()
    chosen = [span for span in run.spans if found.selects(span)]
    assert chosen, query.text
    assert all(any(field in span for span in chosen) for field in found.fields), found.fields


def test_every_logql_query_is_one(run):
    texts = sorted({run.filled(query.text) for query in LOGQL})
    assert dict(zip(texts, logql.errors(texts), strict=True)) == dict.fromkeys(texts, "")


@pytest.mark.parametrize("query", LOGQL, ids=place)
def test_every_logql_query_selects_records(run, query):
    chosen = logql.selected(run.filled(query.text), run.records)
    if query.panel in QUIET or any(text in query.text for text in QUIET.values()):
        return
    assert chosen, query.text
    assert all(any(record.get(label) for record in chosen) for label in logql.labels(query.text))


def test_the_parser_of_logql_refuses_what_is_none():
    assert [bool(error) for error in logql.errors(['{a="b"} | x="y"', '{a="b"} | | x', "{}", "rate({a=`b`})"])] == [
        False, True, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "{", "{ }}", "{ status = failed }", "{ duration > 5 }", "{ perf.bottleneck = true }", "{ spam.x = 1 }", "{ span.x }",
        "{ span.x =~ 5 }", '{ span.x =~ "(" }', "{} | rates()", "{} | rate() | rate()", "{} | sum_over_time()", "{} | select()",
        "{} | count() > ", "{ kind = serve }", "{ span.x = 1 && }", "{} {}", '{ span.x = "a }',
    ],
)  # fmt: skip
def test_the_parser_of_traceql_refuses_what_is_none(text):
    from tests.e2e.traceql import TraceQLError

    with pytest.raises(TraceQLError):
        Parser(text).parse()
