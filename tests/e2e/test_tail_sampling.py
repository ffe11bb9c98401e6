"""The real Collector keeps the traces that are worth a look, and of the others what ``OTELCOL_SAMPLE`` says."""

from collections import Counter

import pytest

from tests.e2e import programs
from tests.e2e.collector import Collector, items
from tests.e2e.support import wait_for
from tests.stored import batches

# Every trace has two spans. Here nothing is looked for, so that what is kept is not kept for a finding.
PLAIN = """
import time
from opentelemetry import trace

tracer = trace.get_tracer("t")
ERROR = trace.StatusCode.ERROR

def make(name, seconds=0.0, status=None, status_beneath=None):
    end = time.time_ns()
    start = end - int(seconds * 1e9)
    span = tracer.start_span(name, start_time=start)
    beneath = tracer.start_span(f"beneath {name}", context=trace.set_span_in_context(span), start_time=start)
    for made, code in (beneath, status_beneath), (span, status):
        if code is not None:
            made.set_status(code)
        made.end(end)

for _ in range(400):
    make("clean")
for _ in range(10):
    make("failed", status=ERROR)
    make("failed beneath", status_beneath=ERROR)
    make("slow", seconds=0.6)
"""
BARE = {"OTEL_PERF_BOTTLENECKS": "off", "OTEL_PERF_STORE_EXIT": "20s"}
PLAIN_KEPT = {"failed": 10, "failed beneath": 10, "slow": 10}

# Bottlenecks below 500 ms, and one in a root that ends when the span beneath it was sent long ago.
BOTTLENECKS = """
import sqlite3, sys, time
from opentelemetry import trace

tracer = trace.get_tracer("t")
database = sqlite3.connect(":memory:")
database.create_function("wait", 1, lambda number: time.sleep(0.015) or number)

for _ in range(5):
    with tracer.start_as_current_span("bottleneck"):
        for number in range(6):
            database.cursor().execute("SELECT wait(?)", (number,)).fetchall()
with tracer.start_as_current_span("late"):
    tracer.start_span("beneath late").end()
    time.sleep(3)
"""
BOTTLENECKS_KEPT = {"bottleneck": 5, "late": 1}


def kept(collector):
    """Those that were chosen; none goes the other way."""
    assert collector.received("traces") == []
    return traces(collector.file.with_name(f"{collector.file.name}.sampled"))


def send(collector, home):
    """Run both programs; all that they made is received when they end."""
    for program, variables in ((PLAIN, BARE), (BOTTLENECKS, {"OTEL_PERF_STORE_EXIT": "20s"})):
        done = programs.run(program, home, **variables, **collector.variables())
        assert (done.status, done.err, batches(home)) == (0, "", [])


def traces(file):
    """How many traces there are of each name; every one has all its spans."""
    spans = [span for _, span in items(file.read_text(), "traces")]
    sizes = Counter(span["traceId"] for span in spans)
    roots = [span for span in spans if not span.get("parentSpanId")]
    assert all(sizes[span["traceId"]] == (7 if span["name"] == "bottleneck" else 2) for span in roots)
    assert len(sizes) == len(roots)
    return dict(Counter(span["name"] for span in roots))


def test_bottlenecks_errors_and_slow_traces_are_kept_whole_and_no_others(tmp_path, home):
    """GIVEN 0 % of the rest WHEN traces are sent THEN all that are flagged, failed or slow arrive, and nothing else."""
    collector = Collector(tmp_path, OTELCOL_SAMPLE="0", OTELCOL_SAMPLE_WAIT="8s")
    with collector.running():
        send(collector, home)
        assert "clean" not in kept(collector)
    assert kept(collector) == PLAIN_KEPT | BOTTLENECKS_KEPT  # what was held is judged when the Collector ends


def test_of_the_rest_a_share_is_kept_while_the_collector_runs(tmp_path, home):
    """GIVEN 25 % of the rest WHEN their time has come THEN about so many are there."""
    collector = Collector(tmp_path, OTELCOL_SAMPLE="25", OTELCOL_SAMPLE_WAIT="1s")
    with collector.running():
        done = programs.run(PLAIN, home, **BARE, **collector.variables())
        assert (done.status, done.err, batches(home)) == (0, "", [])
        wait_for(lambda: PLAIN_KEPT.items() <= kept(collector).items(), what="what is worth a look is kept")
    assert 50 < kept(collector)["clean"] < 150


@pytest.mark.parametrize("settings", [{}, {"OTELCOL_SAMPLE": "100"}], ids=["default", "100"])
def test_by_default_all_arrive_at_once_and_once(settings, tmp_path, home):
    """GIVEN no share WHEN a trace is sent THEN it is there before the time that a decision takes."""
    collector = Collector(tmp_path, **settings)
    with collector.running():
        done = programs.run(PLAIN, home, **BARE, **collector.variables())
        assert (done.status, done.err) == (0, "")
        wait_for(lambda: len(collector.spans()) >= 860, 5, "all spans arrive")
    assert len(collector.spans()) == len(set(collector.spans())) == 860
    assert traces(collector.file) == {"clean": 400} | PLAIN_KEPT
