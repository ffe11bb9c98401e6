"""What the end points answer: documents by draft-inadarei-api-health-check, made of the reports of processes.

https://datatracker.ietf.org/doc/html/draft-inadarei-api-health-check-06. A service is as well as its worst process.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.records import record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_perf.health.runner import Report

CONTENT_TYPE: Final = "application/health+json"
STALE: Final = 15.0  # seconds without a word, after which a process is not ready,
DEAD: Final = 60.0  # and, if it is the one that is asked, does not live any more
PROBES: Final = {"livez": "live", "readyz": "ready", "startupz": "started", "healthz": ""}
"""What is asked for, and the field of a report that answers; ``healthz`` shows everything."""
_WORDS: Final = {"healthy": "pass", "degraded": "warn", "unhealthy": "fail", "unknown": "warn"}
_ILL: Final = frozenset({"degraded", "unhealthy"})
_ORDER: Final = ("pass", "warn", "fail")


@record
class Answer:
    """What is sent."""

    status: int
    body: bytes

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Those of HTTP."""
        return [
            ("Content-Type", CONTENT_TYPE),
            ("Content-Length", str(len(self.body))),
            ("Cache-Control", "no-store"),
        ]


def probe_of(path: str, root: str = "") -> str | None:
    """The probe that a path asks for, wherever it is mounted; ``healthz`` at the root itself; ``None`` for no probe."""
    last = path.rstrip("/").rpartition("/")[2]
    if last in PROBES:
        return last
    return "healthz" if path.removeprefix(root.rstrip("/")).strip("/") == "" else None


def answer(reports: Sequence[Report], path: str, now: float, *, root: str = "") -> Answer:
    """Of all processes that are asked; none of them: health is off, and nothing is known to be wrong."""
    probe = probe_of(path, root)
    if probe is None:
        known = ", ".join(f"/{name}" for name in PROBES)
        return Answer(404, _encoded({"status": "fail", "output": f"there are {known}"}))
    return of(reports, probe, now)


def of(reports: Sequence[Report], probe: str, now: float) -> Answer:
    """The answer to one probe."""
    if not reports:
        return Answer(200, _encoded({"status": "pass", "notes": ["health is off: nothing is checked"]}))
    found = document([aged(report, now) for report in reports], probe)
    return Answer(503 if found["status"] == "fail" else 200, _encoded(found))


def document(reports: Sequence[Report], probe: str) -> dict[str, Any]:
    """The document for one probe."""
    field = PROBES[probe]
    statuses = [_status(report, field) for report in reports]
    shown: dict[str, list[dict[str, Any]]] = {}
    outputs = []
    for report in reports:
        if "silent" in report:
            outputs.append(report["silent"])
        for check in report["checks"]:
            if _concerns(check, field) or (field == "ready" and check["status"] in _ILL):  # why it warns
                shown.setdefault(check["name"], []).append(_shown(check, report["pid"]))
    made: dict[str, Any] = {
        "status": max(statuses, key=_ORDER.index),
        "serviceId": ", ".join(dict.fromkeys(report["service"] for report in reports if report["service"])),
        "checks": shown,
    }
    if outputs:
        made["output"] = "; ".join(outputs)
    return made


def aged(report: Report, now: float) -> Report:
    """The report as it counts ``now``: of a process that has said nothing for long, that."""
    age = now - report["made"]
    if age < STALE:
        return report
    silent = f"process {report['pid']} has not said how it is for {age:.0f} s"
    # A sibling that is only silent may not be able to write: whoever started it sees to it.
    live = report["live"] and (age < DEAD or "sibling" in report)
    return {**report, "status": "unhealthy", "ready": False, "live": live, "silent": silent}


def _status(report: Report, field: str) -> str:
    if field and not report[field]:
        return "fail"
    if field in {"live", "started"}:
        return "pass"
    status = _WORDS[report["status"]]
    return "warn" if field and status == "fail" else status  # it is ready all the same


def _concerns(check: dict[str, Any], field: str) -> bool:
    return bool({"": True, "live": check["live"]}.get(field, check["critical"]))


def _shown(check: dict[str, Any], pid: int) -> dict[str, Any]:
    found = {"componentId": str(pid), "status": _WORDS[check["status"]], "critical": check["critical"]}
    if check["status"] == "unknown":
        found["output"] = "it has not answered yet"
    else:
        found["time"] = check["time"]
        if check["reason"]:
            found["output"] = check["reason"]
    return found


def _encoded(found: dict[str, Any]) -> bytes:
    return json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")
