"""Metrics with times of their own, as other programs send them: of the past, and of what is to come."""

import json
import time
import urllib.request


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
    """A point that Prometheus turns away, whatever its window is, so that the Collector fails to deliver something."""
    send_metrics(url, "too.old", "1", [(365 * 86_400, 1.0)], service_name="old")


def send_growth(url):
    """A process of the shop that has grown by 1 MB every 15 s for ten minutes, told late."""
    which = {"service_name": "shop", "service_instance_id": "grows", "service_version": "1.6"}
    ago = range(600, -90, -15)  # and some that are to come, while the test goes on
    grown = [(seconds, 2e8 + (600 - seconds) / 15 * 1e6) for seconds in ago]
    send_metrics(url, "process.memory.usage", "By", grown, "sum", **which)
    send_metrics(url, "perf.memory.limit", "By", [(seconds, 1e9) for seconds in ago], **which)
