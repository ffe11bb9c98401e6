"""The shop, untouched, under a real load: every request is a stored trace, every line of it carries its id."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.support import environment, free_port, instrumented, wait_for
from tests.stored import logs, points, spans
from tools import environments

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """One short demo; its home and what it printed."""
    home = tmp_path_factory.mktemp("shop") / ".otel-perf"
    folder = environments.ensure("shop")
    done = subprocess.run(
        [folder / "bin" / "python", "-m", "examples.shop.demo", "--home", home, "--seconds", "5", "--rate", "30", "--errors", "0.05"],
        cwd=ROOT, env=environment(folder, home), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return home, done.stdout


def load_of(printed):
    return json.loads(next(line for line in printed.splitlines() if line.startswith("{")))


def test_requests_answered_are_server_spans_stored(shop):
    home, printed = shop
    answered = sum(load_of(printed)["answered"].values())
    served = [
        span
        for span in spans(home)
        if span.kind == "SERVER" and span.resource["service.name"] == "shop" and not span.name.endswith("/health")
    ]
    assert answered > 50
    assert len(served) == answered
    assert len({(span.trace_id, span.span_id) for span in spans(home)}) == len(spans(home))


def test_every_log_line_of_a_request_carries_its_trace(shop):
    """GIVEN the shop's own request ids WHEN lines are grouped by them THEN each group has one trace, its own."""
    home, printed = shop
    traces = {span.trace_id for span in spans(home) if span.kind == "SERVER"}
    by_request = {}
    for entry in logs(home):
        request = re.search(r"request[_=: ]+([0-9a-zA-Z-]{6,})", entry.body) or entry.attributes.get("request_id")
        if request:
            key = request if isinstance(request, str) else request[1]
            by_request.setdefault(key, set()).add(entry.trace_id)
    answered = sum(load_of(printed)["answered"].values())
    assert len(by_request) >= answered
    assert all(len(found) == 1 and found <= traces for found in by_request.values())


def test_errors_that_the_server_logs_after_the_request_carry_its_trace(shop):
    home, _ = shop
    failed = [entry for entry in logs(home) if "Exception in ASGI application" in entry.body]
    traces = {span.trace_id for span in spans(home) if span.error}
    assert failed
    assert {entry.trace_id for entry in failed} <= traces


def test_the_report_names_traces_slow_operations_memory_and_errors(shop):
    home, printed = shop
    for part in (
        "shop",
        "Slowest operations",
        "GET /orders",
        "Slowest traces",
        "ZeroDivisionError",
        "Memory",
        "MB",
        "in a trace",
    ):
        assert part in printed
    assert {point.resource["service.name"] for point in points(home)} >= {"shop"}


def test_there_is_no_opentelemetry_in_the_shop():
    for path in (ROOT / "examples" / "shop").glob("*.py"):
        if path.name != "demo.py":
            assert not re.search(r"^\s*(import|from) (opentelemetry|otel_perf)", path.read_text(), re.MULTILINE)


def test_run_shows_the_report_of_a_program_that_was_stopped(tmp_path):
    """``otel-perf run`` forwards SIGTERM, waits, reports, and ends as the program did."""
    folder, home = environments.ensure("shop"), tmp_path / "home"
    port = free_port()
    variables = {"SHOP_PORT": str(port), "SHOP_DATA": str(tmp_path)}
    process = instrumented(folder, home, "python", "-m", "examples.shop", cwd=ROOT, variables=variables)
    process.command[:1] = [str(folder / "bin" / "otel-perf"), "run"]
    with process as shop:
        shop.wait_until_listening(port, timeout=30)
        subprocess.run(
            [sys.executable, "-c", f"import urllib.request as u; u.urlopen('http://127.0.0.1:{port}/health')"],
            check=True,
        )
        shop.send(15)
        assert shop.wait(30) == 143
        wait_for(lambda: "Slowest operations" in shop.output(), what="the report")
