"""Monitored functions under opentelemetry-instrument: what is stored, sent, scraped and reported."""

import json
import re
import subprocess

import pytest

from tests.e2e import programs
from tests.e2e.collector import Collector
from tests.e2e.support import environment, wait_for
from tests.stored import points, spans
from tools import environments

PROGRAM = """
import os, sys, time
import otel_perf as perf
@perf.monitored(name="quick")
def quick(n): return n
@perf.monitored(name="slow")
def slow(): time.sleep(0.02); return [quick(n) for n in range(100)]
@perf.monitored(name="failing")
def failing(): raise LookupError("no such order")
for _ in range(3): slow()
try: failing()
except LookupError: pass
"""


def functions(home):
    command = [programs.BIN / "otel-perf", "report", "--json", "--home", home]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {row["name"]: row for row in json.loads(done.stdout)["functions"]}


@pytest.mark.parametrize("temporality", ["cumulative", "delta"])
@pytest.mark.parametrize("pure", ["", "1"])
def test_every_call_is_in_the_report_and_only_some_are_spans(home, temporality, pure):
    again = (
        "from opentelemetry import metrics\nmetrics.get_meter_provider().force_flush()\n" + PROGRAM.split("\n", 2)[2]
    )
    done = programs.run(
        PROGRAM + again, home, OTEL_PERF_CALLS_PURE=pure, OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=temporality
    )
    assert (done.status, done.err) == (0, "")
    found = functions(home)
    assert {name: (row["calls"], row["errors"]) for name, row in found.items()} == {
        "quick": (600, 0),
        "slow": (6, 0),
        "failing": (2, 2),
    }
    assert 0.02 < found["slow"]["p50"] < 0.06
    assert found["slow"]["total"] >= 0.12
    assert found["slow"]["self_time"] <= found["slow"]["total"]
    assert sorted(span.name for span in spans(home)) == ["failing"] * 2 + ["slow"] * 6
    shown = subprocess.run(
        [programs.BIN / "otel-perf", "report", "--home", home], capture_output=True, text=True, check=True
    )
    assert re.search(
        r"Functions, by their own time\n +FUNCTION +CALLS +ERRORS +TOTAL +SELF +P50 +P99\n +slow +6 ", shown.stdout
    )


def test_a_forked_child_counts_its_own_calls(home):
    program = PROGRAM + "pid = os.fork()\nif pid == 0:\n  quick(1); sys.exit(0)\nos.waitpid(pid, 0)\n"
    programs.run(program, home)
    by_process = {}
    for point in points(home):
        if point.name == "perf.call.duration" and point.attributes["code.function.name"] == "quick":
            by_process[point.resource["service.instance.id"]] = point.count
    assert sorted(by_process.values()) == [1, 300]


def test_the_collector_gets_an_exponential_histogram_whose_exemplar_is_a_span(home, tmp_path):
    collector = Collector(tmp_path)
    with collector.running():
        programs.run(PROGRAM, home, OTEL_PERF_STORE_EXIT="20s", **collector.variables())
        wait_for(
            lambda: "perf.call.duration" in {metric["name"] for metric in collector.received("metrics")}, what="metrics"
        )
        ids = {identifier for _, identifier in collector.wait_for_spans(4)}
    (metric,) = [metric for metric in collector.received("metrics") if metric["name"] == "perf.call.duration"]
    series = {
        point["attributes"][0]["value"]["stringValue"]: point for point in metric["exponentialHistogram"]["dataPoints"]
    }
    assert (metric["unit"], series["quick"]["count"], series["slow"]["count"]) == ("s", "300", "3")
    assert series["slow"]["scale"] == 3
    assert {exemplar["spanId"] for exemplar in series["slow"]["exemplars"]} <= ids
    assert "exemplars" not in series["quick"]


def test_a_prometheus_page_has_explicit_buckets_and_does_not_break(home, tmp_path):
    """The exporter's own page, parsed by Prometheus's own parser."""
    folder = environments.ensure("setups")
    program = PROGRAM + (
        "import urllib.request\n"
        "from prometheus_client.parser import text_string_to_metric_families as parse\n"
        "page = urllib.request.urlopen('http://127.0.0.1:%s/metrics' % os.environ['OTEL_EXPORTER_PROMETHEUS_PORT']).read().decode()\n"
        "families = {family.name: family for family in parse(page)}\n"
        "samples = [s for s in families['perf_call_duration_seconds'].samples if s.labels['code_function_name'] == 'slow']\n"
        "counts = {s.name.rpartition('_')[2]: s.value for s in samples if 'le' not in s.labels}\n"
        "print(counts['count'], len([s for s in samples if 'le' in s.labels]), 'process_memory_usage_bytes' in families)\n"
    )
    from tests.e2e.support import free_port

    variables = {
        "OTEL_METRICS_EXPORTER": "otlp,prometheus",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port()),
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
    }
    done = subprocess.run(
        [folder / "bin" / "opentelemetry-instrument", folder / "bin" / "python", "-c", program],
        env=environment(folder, home, variables), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3.0", "13", "True"]
    assert functions(home)["slow"]["calls"] == 3
