"""Metrics from the Collector to a real Prometheus: one sender's bad points cost nobody else's, and what is late is taken."""

import json
import time
import urllib.request

import pytest

from tests.e2e import otlp_json as otlp
from tests.e2e.bundle import Bundle
from tests.e2e.collector import Collector
from tests.e2e.prometheus import Prometheus
from tests.e2e.support import wait_for

DAY = 24 * 3600
DELTA, CUMULATIVE = 1, 2


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """What it has when good and bad have come together."""
    folder = tmp_path_factory.mktemp("metrics")
    collector = Bundle(folder / "collector", Collector(folder), OTELCOL_FLUSH="1s")
    prometheus = Prometheus(folder, collector.metrics)
    collector.settings["OTELCOL_PROMETHEUS"] = f"{prometheus.url}/api/v1/otlp"
    with prometheus.running(), collector.running():
        send(collector.url(), "now", [(0, 1)])
        wait_for(lambda: prometheus.query("now_total"), what="it takes metrics")
        for number in range(5):
            send(collector.url(), f"bad_{number}", [(30 * DAY, 1)])
            send(collector.url(), f"good_{number}", [(0, 1)])
        send(collector.url(), "late", [(0, 9), (5 * DAY, 1)])
        send(collector.url(), "delta", [(20, 2), (10, 3), (0, 4)], DELTA)
        send(collector.url(), "last", [(0, 1)])
        wait_for(lambda: prometheus.query("last_total"), what="the last arrives")
        assert sum(collector.queued().values()) == 0
        yield prometheus


def send(url, name, points, temporality=CUMULATIVE):
    """A request of one sender: points of one counter, as pairs of seconds ago and a value."""
    now = time.time()
    times = [(str(int((now - ago - 1) * 1e9)), str(int((now - ago) * 1e9)), value) for ago, value in points]
    made = [{"startTimeUnixNano": start, "timeUnixNano": at, "asInt": str(value)} for start, at, value in times]
    metric = {"name": name, "sum": {"aggregationTemporality": temporality, "isMonotonic": True, "dataPoints": made}}
    resource = {"attributes": otlp.attributes({"service.name": name})}
    body = {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [metric]}]}]}
    headers = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{url}/v1/metrics", json.dumps(body).encode(), headers), timeout=10)


def test_what_one_sends_too_late_costs_nobody_else(prometheus):
    """GIVEN points that are turned away beside good ones THEN the good ones are there."""
    assert not prometheus.query('{__name__=~"bad_.*"}')
    assert {f"good_{number}_total" for number in range(5)} == {
        series["metric"]["__name__"] for series in prometheus.query('{__name__=~"good_.*"}')
    }


def test_what_waited_for_days_is_taken(prometheus):
    """GIVEN a newer point of the same series THEN one of five days ago is taken as well."""
    found = prometheus.get("query", query="late_total", time=time.time() - 5 * DAY + 30)["result"]
    assert [series["value"][1] for series in found] == ["1"]


def test_counters_that_start_anew_with_each_point_are_added_up(prometheus):
    """GIVEN deltas, which Prometheus has none of THEN there is their sum, and nothing is sent again and again."""
    assert [series["value"][1] for series in prometheus.query("delta_total")] == ["9"]
