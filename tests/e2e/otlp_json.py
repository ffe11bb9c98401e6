"""Telemetry as another program would send it: OTLP JSON by hand, without the SDK and what the distribution does to it."""

from __future__ import annotations

import json
import secrets
import time
import urllib.request
from typing import Any, Final

ERROR: Final = {"code": 2}
_GROUPS: Final = {
    "traces": ("resourceSpans", "scopeSpans", "spans"),
    "logs": ("resourceLogs", "scopeLogs", "logRecords"),
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
}


def attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    """As OTLP has them."""
    return [{"key": key, "value": value_of(value)} for key, value in values.items()]


def value_of(value: Any) -> dict[str, Any]:
    """One of them."""
    if isinstance(value, dict):
        return {"kvlistValue": {"values": attributes(value)}}
    if isinstance(value, list):
        return {"arrayValue": {"values": [value_of(each) for each in value]}}
    kinds = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}
    return {kinds[type(value)]: value}


def span(name: str, seconds: float = 0.001, status: dict[str, int] | None = None, **more: Any) -> dict[str, Any]:
    """A trace of one span that ends now; ``more`` are its fields."""
    now = time.time_ns()
    fields = {"traceId": secrets.token_hex(16), "spanId": secrets.token_hex(8), "name": name, "kind": 2}
    times = {"startTimeUnixNano": str(now - int(seconds * 1e9)), "endTimeUnixNano": str(now)}
    return {**fields, **times, "status": status or {}, **more}


def record(body: str, severity: int = 9, **more: Any) -> dict[str, Any]:
    """A log record of now; ``more`` are its fields."""
    now = str(time.time_ns())
    return {
        "timeUnixNano": now,
        "observedTimeUnixNano": now,
        "severityNumber": severity,
        "body": {"stringValue": body},
        **more,
    }


def counter(name: str, value: int) -> dict[str, Any]:
    """A counter at ``value``."""
    now = time.time_ns()
    point = {"asInt": str(value), "startTimeUnixNano": str(now - 10**9), "timeUnixNano": str(now)}
    return {"name": name, "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": [point]}}


def send(url: str, signal: str, items: list[dict[str, Any]], service: str = "other") -> None:
    """Post them to the receiver at ``url``; returns when they are acknowledged. Raises ``HTTPError`` when refused."""
    of_resource, of_scope, of_items = _GROUPS[signal]
    resource = {
        "attributes": attributes({"service.name": service, "service.version": "1.2", "service.instance.id": "i"})
    }
    document = {of_resource: [{"resource": resource, of_scope: [{"scope": {"name": "t"}, of_items: items}]}]}
    request = urllib.request.Request(
        f"{url}/v1/{signal}", json.dumps(document).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=20).close()
