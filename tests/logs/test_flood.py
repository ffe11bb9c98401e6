"""A flood of lines: bounded, nothing that matters is lost, and the numbers add up, over threads and after a fork."""

import json
from pathlib import Path

from tests.e2e import programs
from tests.stored import logs, points

PROGRAM = (Path(__file__).parent / "flood.py").read_text()
RULES = {
    "OTEL_PERF_LOGS_RATE": "100/s",
    "OTEL_PERF_LOGS_FOLD": "1s",
    "OTEL_PERF_LOGS_LEVELS": "shop.noisy=WARNING",
    "OTEL_PERF_LOGS_SAMPLE": "WARNING=50%",
}


def flood(home, same, different, threads, timeout=60):
    """What each process said, checked."""
    done = programs.run(PROGRAM, home, str(same), str(different), str(threads), timeout=timeout, **RULES)
    assert done.status == 0, done.err
    told = [json.loads(line) for line in done.out.splitlines()]
    assert {process["who"] for process in told} <= {"parent", "child"}
    for process in told:
        add_up(process["made"], process["out"])
    return told


def add_up(made, out):
    """kept + dropped + folded = made, by what came out of the handler; errors and audits are all there."""
    dropped = sum(value for key, value in out.items() if key.startswith("perf.log.dropped."))
    assert (out["errors"], out["audits"]) == (made["errors"], made["audits"])
    assert out["kept"] == out["perf.log.kept"]
    assert out.get("repeats", 0) == out["perf.log.folded"]
    assert out["kept"] + dropped + out.get("repeats", 0) == made["made"] == out["perf.log.made"]
    assert out["perf.log.dropped.level"] == made["errors"]


def test_drops_add_up_over_threads_and_after_a_fork(home):
    told = flood(home, 8_000, 2_000, 4)
    lost = {}
    for point in points(home):
        if point.name == "perf.log.dropped":
            reason, level = point.attributes["perf.log.reason"], point.attributes["perf.log.level"]
            lost[point.resource["service.instance.id"], reason, level] = point.value
    made, kept = sum(process["made"]["made"] for process in told), sum(process["out"]["kept"] for process in told)
    assert kept + sum(lost.values()) == made
    assert len({instance for instance, *_ in lost}) == len(told)
    stored = [entry for entry in logs(home) if entry.scope.startswith("shop")]
    errors = sum(process["made"]["errors"] for process in told)
    assert sum(entry.severity_text == "ERROR" for entry in stored) == errors
    assert sum(entry.scope == "shop.audit" for entry in stored) == errors
    assert sum("perf.log.repeated" not in entry.attributes for entry in stored) == kept
