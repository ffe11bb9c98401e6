"""What the end points say of one process, and of several."""

import json

import pytest

from otel_perf.health.documents import CONTENT_TYPE, DEAD, STALE, answer, of, probe_of
from tests.health import reports
from tests.health.reports import check

NOW = 5000.0


def report(*checks, **changed):
    return reports.report(*checks, **{"pid": 7, "made": NOW, **changed})


def asked(probe, *reports, now=NOW):
    found = of(reports, probe, now)
    return found.status, json.loads(found.body)


@pytest.mark.parametrize(
    ("path", "root", "probe"),
    [
        ("/livez", "", "livez"), ("/readyz/", "", "readyz"), ("/a/b/startupz", "/a/b", "startupz"), ("/healthz", "", "healthz"),
        ("/", "", "healthz"), ("", "", "healthz"), ("/health/", "/health", "healthz"), ("/health", "/health/", "healthz"),
        ("/livezz", "", None), ("/livez/x", "", None), ("/health/x", "/health", None),
    ],
)  # fmt: skip
def test_the_last_part_of_the_path_is_the_probe(path, root, probe):
    assert probe_of(path, root) == probe


def test_a_process_that_is_well():
    status, found = asked("healthz", report(check("db", critical=True)))
    entry = {"componentId": "7", "status": "pass", "critical": True, "time": "2026-11-26T20:00:00.000Z"}
    assert (status, found) == (200, {"status": "pass", "serviceId": "shop", "checks": {"db": [entry]}})


def test_a_critical_check_is_a_failure_with_its_reason():
    down = report(
        check("db", "unhealthy", critical=True, reason="gone"), check("mail"), status="unhealthy", ready=False
    )
    assert asked("livez", down)[0] == 200
    status, found = asked("readyz", down)
    assert (status, found["status"], list(found["checks"])) == (503, "fail", ["db"])
    assert found["checks"]["db"][0]["output"] == "gone"
    status, found = asked("healthz", down)
    assert (status, found["status"], list(found["checks"])) == (503, "fail", ["db", "mail"])


def test_what_is_not_critical_is_a_warning():
    warm = report(check("mail", "unhealthy", reason="gone"), status="degraded")
    assert {probe: asked(probe, warm)[1]["status"] for probe in ("livez", "readyz", "startupz", "healthz")} == {
        "livez": "pass", "readyz": "warn", "startupz": "pass", "healthz": "warn",
    }  # fmt: skip
    assert asked("healthz", warm)[0] == 200
    assert asked("readyz", warm)[1]["checks"]["mail"][0]["output"] == "gone", "why it is a warning"


def test_one_that_has_not_answered_yet_says_so():
    status, found = asked("readyz", report(check("db", "unknown", critical=True), ready=False, started=False))
    assert (status, found["checks"]["db"][0]["output"]) == (503, "it has not answered yet")
    assert asked("startupz", report(started=False))[0] == 503


def test_a_service_is_as_well_as_its_worst_process():
    bad = report(check("db", "unhealthy", critical=True), pid=8, ready=False, status="unhealthy")
    status, found = asked("readyz", report(check("db", critical=True)), bad)
    assert status == 503
    assert [(entry["componentId"], entry["status"]) for entry in found["checks"]["db"]] == [
        ("7", "pass"),
        ("8", "fail"),
    ]


@pytest.mark.parametrize(("age", "ready", "live"), [(STALE - 1, 200, 200), (STALE, 503, 200), (DEAD, 503, 503)])
def test_a_process_that_says_nothing_is_not_ready_then_not_alive(age, ready, live):
    old = report(made=NOW - age)
    status, found = asked("readyz", old)
    assert status == ready
    assert asked("livez", old)[0] == live
    assert ("output" in found) == (age >= STALE)
    if age >= STALE:
        assert found["output"] == f"process 7 has not said how it is for {age:.0f} s"
        assert asked("healthz", old)[0] == 503


def test_health_that_is_off_is_no_failure():
    assert asked("readyz") == (200, {"status": "pass", "notes": ["health is off: nothing is checked"]})


def test_another_path_names_the_ones_that_there_are():
    found = answer([report()], "/nonsense", NOW)
    assert found.status == 404
    assert "/livez, /readyz, /startupz, /healthz" in json.loads(found.body)["output"]


def test_headers_are_those_of_the_body_and_nothing_is_cached():
    found = of([report(check("größe", "unhealthy", reason="\ud800 µ"))], "healthz", NOW)
    assert dict(found.headers) == {
        "Content-Type": CONTENT_TYPE, "Content-Length": str(len(found.body)), "Cache-Control": "no-store",
    }  # fmt: skip
    assert "größe" in json.loads(found.body)["checks"]


def test_a_sibling_that_is_only_silent_is_not_ready_but_lives():
    silent = report(made=NOW - 2 * DEAD, sibling=True, pid=8)
    assert asked("readyz", report(), silent)[0] == 503
    assert asked("livez", report(), silent)[0] == 200
    assert asked("livez", report(), {**silent, "live": False})[0] == 503
