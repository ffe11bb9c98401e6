"""The bundle with real traffic: shop, Collector, Prometheus, and every query of every dashboard, rule and alert.

One run of all of it: the shop under load, a program that does what the shop does not, ``collector/config.yaml`` with
other endpoints, ``collector/prometheus/`` with another port to scrape. Tempo and Loki run only as images: what they are
sent is kept here, and their queries are parsed and looked for in that.
"""

import contextlib
import math
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from tests.e2e import logql, programs
from tests.e2e import otlp_json as otlp
from tests.e2e.backends import Backends
from tests.e2e.bundle import Bundle
from tests.e2e.collector import Collector
from tests.e2e.late import send_growth, send_what_is_too_old
from tests.e2e.prometheus import Prometheus, QueryError
from tests.e2e.support import Running, environment, wait_for
from tests.e2e.traceql import Parser
from tools import environments, queries

ROOT = Path(__file__).resolve().parents[2]
SERVICES = "(everything|payment|shop)"
(EVERY,) = {
    variable["allValue"]
    for board in queries.boards().values()
    for variable in board["templating"]["list"]
    if variable["name"] == "service"
}
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
NOTHING_OF = {"Lost in stores", "Errors of otel-perf"}  # what this run makes nothing of; the others are above 0
LOST = {"spans", "metric points", "log records"}  # some of each is turned away for good
OR_0 = " or vector(0)"  # returns data whatever stands before it is called
OVERDUE = 'ALERTS{alertname="SignalOverdue", alertstate="firing"}'
LOSING = 'ALERTS{alertname="CollectorLosing", alertstate="firing"}'
FULL = "enqueue_failed"  # of a Collector whose queue is full, which this one's is not


class Run:
    """What came of it; all is asked as of its end, however long the tests take."""

    def __init__(self, prometheus, backends):
        self.prometheus, self.backends = prometheus, backends
        prometheus.at = time.time()
        self.alerts = prometheus.get("alerts")["alerts"]
        self.rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        self.spans, self.records = backends.spans(), backends.records()
        of_shop = (record for record in self.records if record["service_name"] == "shop")
        self.trace = next(record["trace_id"] for record in of_shop if record.get("trace_id"))

    def filled(self, text, every=True):
        """A query as Grafana makes it, with "All" or with chosen services: the intervals are those of an hour on a screen."""
        found = text.replace("$__rate_interval_ms", "240000").replace("$__rate_interval", "4m")
        found = found.replace("$__range", "3600s").replace("$__auto", "1m")
        found = found.replace("${__tags}", 'service_name="shop"').replace("$__tags", 'service_name="shop"')
        found = found.replace("${__trace.traceId}", self.trace).replace("${search}", self.trace)
        found = re.sub(r"\$\{?service(:pipe)?\}?", EVERY if every else SERVICES, found)
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
            forge(folder)
            demo(folder, sends)
            wait_for(lambda: all(map(prometheus.query, recorded(prometheus))), 60, "all rules have recorded")
            wait_for(lambda: not growth_is_missing(prometheus), 60, "memory has grown")
            wait_for(lambda: prometheus.query(OVERDUE), 60, "the alert of the signal that does not come fires")
            wait_for(lambda: lost(prometheus.query(LOSING)) == LOST, 60, "the alert of what was turned away fires")
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
        "OTEL_PERF_SIGNALS_KEY": "a secret",
    }
    command = [str(programs.BIN / "opentelemetry-instrument"), sys.executable, "-m", "tests.e2e.apps.everything"]
    return Running(command, programs.environment(home, **variables), ROOT, folder / "everything.log")


def forge(folder):
    """A signal of somebody who does not know the secret, which is refused."""
    home = folder / "everything" / ".otel-perf"
    command = [programs.BIN / "otel-perf", "signals", "emit", "NEVER", "--key", "forged"]
    subprocess.run(command, env=programs.environment(home, OTEL_SDK_DISABLED="true"), check=True, capture_output=True)


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


def lost(series):
    return {each["metric"]["signal"] for each in series}


def growth_is_missing(prometheus):
    return not prometheus.query("deriv(instance:process_memory_floor_bytes:min2m[30m]) > 0")


def numbers(series):
    """The values of a series that are numbers; of a native histogram its counts."""
    values = series.get("values") or ([series["value"]] if "value" in series else [])
    histograms = series.get("histograms") or ([series["histogram"]] if "histogram" in series else [])
    found = [float(value) for _, value in values] + [float(histogram["count"]) for _, histogram in histograms]
    return [value for value in found if not math.isnan(value)]


def answer(run, query, every):
    """The series that have a number; fails with what Prometheus said where it takes no such query."""
    text = run.filled(query.text.replace(OR_0, ""), every)
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
    if OR_0 in query.text:
        assert (max(map(max, map(numbers, found))) > 0) == (query.panel not in NOTHING_OF)
    legend = query.target.get("legendFormat", "") if query.way == "panel" else ""
    wanted = set(re.findall(r"\{\{(\w+)\}\}", legend))
    if query.way == "panel" and query.target.get("instant"):
        wanted = {name.strip() for name in (re.findall(r"\bby \(([^)]*)\)", query.text) or [""])[0].split(",")} - {""}
    if "le" in wanted:
        wanted.remove("le")  # histogram_quantile takes it
    assert any(all(series["metric"].get(label) for label in wanted) for series in found), (wanted, found[:3])


@pytest.mark.parametrize("query", [q for q in PROMQL if q.way == "panel" and q.target.get("exemplar")], ids=place)
def test_exemplars_lead_to_traces(run, query):
    now = run.prometheus.now()
    found = run.prometheus.get("query_exemplars", query=run.filled(query.text), start=now - 3600, end=now)
    traces = {exemplar["labels"]["trace_id"] for series in found for exemplar in series["exemplars"]}
    assert traces
    assert all(re.fullmatch("[0-9a-f]{32}", trace) for trace in traces)


def test_every_rule_is_evaluated_and_every_recording_has_data(run):
    assert len(run.rules) > 30
    assert {rule["health"] for rule in run.rules} == {"ok"}, [rule.get("lastError") for rule in run.rules]
    for rule in run.rules:
        if rule["type"] == "recording":
            assert run.prometheus.query(rule["name"]), rule["name"]
            assert run.prometheus.query(rule["query"]), rule["query"]


def test_what_every_rule_looks_at_is_there_and_can_meet(run):
    """GIVEN an alert that is quiet WHEN its conditions are taken away THEN each way through it returns something."""
    asked = 0
    for rule in run.rules:
        for text in run.prometheus.loosened(rule["query"]):
            asked += 1
            assert FULL in text or run.prometheus.query(text), (rule["name"], text)
    assert asked > len(run.rules) + 20


def test_a_join_that_cannot_meet_is_found(run):
    """The defect that StoreFilling once had: a sum by two labels, and series that have more."""
    joined = "perf_store_size_bytes > 1e15 and {}sum by (service_name, service_instance_id) (perf_store_pending) > 1e15"
    (cannot,), (can,) = (
        run.prometheus.loosened(joined.format(on)) for on in ("", "on (service_name, service_instance_id) ")
    )
    assert run.prometheus.query(can)
    assert not run.prometheus.query(cannot)


def test_the_cases_of_the_alerts_have_the_labels_of_real_series(run):
    """GIVEN promtool's input WHEN compared with what came here THEN nothing that always is there is left out."""
    seen = set()
    for file in sorted((ROOT / "tests" / "prometheus").glob("*.yml")):
        for case in yaml.safe_load(file.read_text())["tests"]:
            for series in case["input_series"]:
                name, labels = re.fullmatch(r"(\w+)\{(.*)\}", series["series"]).groups()
                seen.add((name, frozenset(re.findall(r'(\w+)="', labels))))
    for name, labels in seen:
        real = [set(each["metric"]) - {"__name__"} for each in run.prometheus.query(f"last_over_time({name}[1h])")]
        if FULL in name:
            continue
        assert set.intersection(*real) <= labels <= set.union(*real), (name, labels)


def test_a_full_queue_is_counted_by_the_name_that_a_rule_asks_for(tmp_path):
    """GIVEN nobody behind it and room for one request WHEN more come THEN the Collector says so, by exporter."""
    queue = {"queue_size": 1, "num_consumers": 1}
    exporter = {"endpoint": "127.0.0.1:1", "tls": {"insecure": True}, "sending_queue": queue}
    config = yaml.safe_load((ROOT / "collector" / "config.yaml").read_text())
    traces = {"receivers": ["otlp"], "exporters": ["otlp_grpc/tempo"]}
    small = {
        "extensions": {"health_check": config["extensions"]["health_check"]},
        "receivers": config["receivers"],
        "exporters": {"otlp_grpc/tempo": exporter},
        "service": config["service"] | {"extensions": ["health_check"], "pipelines": {"traces": traces}},
    }
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(small))
    collector = Bundle(tmp_path / "small", Collector(tmp_path), file)
    with collector.running():
        for _ in range(4):
            with contextlib.suppress(urllib.error.HTTPError):
                otlp.send(collector.url(), "traces", [otlp.span("more")])
        (labels,) = wait_for(lambda: collector.own("otelcol_exporter_enqueue_failed_spans"), what="it is counted")
    assert 'exporter="otlp_grpc/tempo"' in labels


def test_log_lines_that_were_acknowledged_and_not_queued_are_counted_by_names_that_a_rule_asks_for(tmp_path):
    """GIVEN a queue that takes nothing, as on a full disk WHEN lines come THEN they are acknowledged, and counted as lost."""
    config = yaml.safe_load((ROOT / "collector" / "config.yaml").read_text())
    queue = {"queue_size": 1, "sizer": "bytes", "num_consumers": 1}
    behind = ["filter/noise", "logdedup"]
    logs = {"receivers": ["otlp"], "processors": behind, "exporters": ["otlp_http/loki"]}
    small = {
        "extensions": {"health_check": config["extensions"]["health_check"]},
        "receivers": config["receivers"],
        "processors": {name: config["processors"][name] for name in behind},
        "exporters": {"otlp_http/loki": {"endpoint": "http://127.0.0.1:1", "sending_queue": queue}},
        "service": config["service"] | {"extensions": ["health_check"], "pipelines": {"logs": logs}},
    }
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump(small))
    collector = Bundle(tmp_path / "small", Collector(tmp_path), file)
    with collector.running():
        otlp.send(collector.url(), "logs", [otlp.record("gone", 17) for _ in range(3)])
        ((labels, lost),) = wait_for(
            lambda: collector.own("otelcol_exporter_enqueue_failed_log_records"), what="it is counted"
        ).items()
        folds = collector.own("otelcol_processor_incoming_items")
    assert 'exporter="otlp_http/loki"' in labels
    assert lost == 3
    assert ['processor="filter/noise"' in each for each in folds] == [True], "logdedup counts none of its own"


def test_alerts_of_what_is_wrong_here_fire(run):
    """A signal that nobody emits is waited for, and some of what the Collector sent was turned away for good."""
    firing = {alert["labels"]["alertname"] for alert in run.alerts if alert["state"] == "firing"}
    assert {"SignalOverdue", "CollectorLosing"} <= firing
    alerts = [alert for alert in run.alerts if alert["labels"]["alertname"] == "CollectorLosing"]
    assert {alert["labels"]["signal"] for alert in alerts} == LOST
    # Of those that have to last for some minutes, which this run does not.
    active = {alert["labels"]["alertname"] for alert in run.alerts}
    assert {"ErrorBudgetBurnsFast", "HealthFailing"} <= active
    assert {"CollectorDown", "CollectorUnwatched", "StoreDropping"}.isdisjoint(active)
    for alert in run.alerts:
        name = alert["labels"]["alertname"].lower()
        assert alert["annotations"]["runbook_url"] == f"http://localhost:3000/d/otel-perf-alerts#{name}"


def test_waits_for_signals_are_no_requests(run):
    """GIVEN consumer spans of waits, some failed, THEN rules and dashboards count the others alone."""
    calls = 'traces_span_metrics_calls_total{service_name="everything", span_kind=~"SPAN_KIND_(SERVER|CONSUMER)"}'
    everything, requests = (
        {
            each["metric"]["span_name"]: float(each["value"][1])
            for each in run.prometheus.query(f"sum by (span_name) ({text})")
        }
        for text in (calls, calls.replace("}", ', span_name!~"wait .+"}'))
    )
    assert everything.keys() - requests.keys() >= {"wait PICKED", "wait NEVER"}
    rule = next(rule["query"] for rule in run.rules if rule["name"] == "service:requests:increase1h")
    counted = {each["metric"]["service_name"]: float(each["value"][1]) for each in run.prometheus.query(rule)}
    assert counted["everything"] == sum(requests.values())
    served = next(query.text for query in PROMQL if (query.board, query.panel) == ("Overview", "Requests by service"))
    shown = run.prometheus.query(run.filled(served).replace("rate(", "last_over_time("))
    assert {each["metric"]["service_name"]: float(each["value"][1]) for each in shown}["everything"] == sum(
        requests.values()
    )


def test_findings_that_occurred_once_are_shown(run):
    """GIVEN series that began in the time shown THEN the table has all that they counted, from the first on."""
    table = [query.text for query in PROMQL if query.panel == "Findings by kind and culprit" and query.way == "panel"]
    for text, metric in zip(table, ("perf_bottlenecks_total", "perf_bottlenecks_cost_seconds_total"), strict=True):
        by = "sum by (service_name, kind, culprit)"
        shown, counted = (
            {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in run.prometheus.query(asked)}
            for asked in (run.filled(text), f"{by} (last_over_time({metric}[1h]))")
        )
        assert shown == pytest.approx(counted)
        assert counted


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


def test_with_no_id_there_are_no_lines_of_a_trace(run):
    """GIVEN the box as it is at first THEN it is not all lines that belong to none."""
    (text,) = {query.text for query in LOGQL if query.panel == "Lines of one trace" and query.way == "panel"}
    assert [record for record in run.records if not record.get("trace_id")]
    assert logql.selected(run.filled(text.replace("${search}", "")), run.records) == []
    assert logql.selected(run.filled(text), run.records)


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
