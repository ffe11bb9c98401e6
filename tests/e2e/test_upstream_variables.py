"""Upstream's own variables mean what they mean with opentelemetry-distro, one by one.

Both distributions are started for real with the same variables, and what the SDK then looks like is compared.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools import environments

PROBE = Path(__file__).with_name("probe.py")
NONE = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}

CASES = {
    "nothing set": {},
    "none": NONE,
    "disabled": {"OTEL_SDK_DISABLED": "true"},
    "console": {f"OTEL_{signal}_EXPORTER": "console" for signal in ("TRACES", "METRICS", "LOGS")},
    "console and otlp": {f"OTEL_{signal}_EXPORTER": "console, otlp" for signal in ("TRACES", "METRICS", "LOGS")},
    "traces only": {**NONE, "OTEL_TRACES_EXPORTER": "otlp"},
    "otlp by its protocol": {**NONE, "OTEL_TRACES_EXPORTER": "otlp_proto_http"},
    "always_on": {"OTEL_TRACES_SAMPLER": "always_on"},
    "always_off": {"OTEL_TRACES_SAMPLER": "always_off"},
    "ratio": {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"},
    "parent and ratio": {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
    "parent and off": {"OTEL_TRACES_SAMPLER": "parentbased_always_off"},
    "ratio without its argument": {"OTEL_TRACES_SAMPLER": "traceidratio"},
    "unknown sampler": {"OTEL_TRACES_SAMPLER": "no-such"},
    "ids": {"OTEL_PYTHON_ID_GENERATOR": "random"},
    "propagators": {"OTEL_PROPAGATORS": "baggage"},
    "span limits": {
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "7", "OTEL_SPAN_EVENT_COUNT_LIMIT": "3", "OTEL_SPAN_LINK_COUNT_LIMIT": "2",
        "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "4", "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "5",
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "99",
    },
    "general limits": {"OTEL_ATTRIBUTE_COUNT_LIMIT": "11", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "22"},
    "log limits": {"OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT": "6", "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT": "8"},
    "resource": {"OTEL_RESOURCE_ATTRIBUTES": "service.version=1.2,team=a%20b", "OTEL_SERVICE_NAME": "shop"},
    "detectors": {"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process,os"},
    "exemplars on": {"OTEL_METRICS_EXEMPLAR_FILTER": "always_on"},
    "exemplars off": {"OTEL_METRICS_EXEMPLAR_FILTER": "always_off"},
    "interval": {"OTEL_METRIC_EXPORT_INTERVAL": "1234"},
    "delta": {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"},
    "low memory": {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "lowmemory"},
    "exponential": {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"},
    "batch": {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_SCHEDULE_DELAY": "777", "OTEL_BSP_MAX_QUEUE_SIZE": "99",
              "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "9"},
    "no instrumentation": {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "sqlite3"},
}  # fmt: skip


def probe(python, home):
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environ["OTEL_PERF_HOME"] = str(home)
    done = subprocess.run(
        [str(python), str(PROBE), json.dumps(list(CASES.values()))],
        env=environ, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return dict(zip(CASES, json.loads(done.stdout), strict=True))


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    upstream = environments.ensure("upstream") / "bin" / "python"
    with ThreadPoolExecutor(2) as pool:
        ours, theirs = pool.map(probe, (sys.executable, upstream), [tmp_path_factory.mktemp("home")] * 2)
    return ours, theirs


@pytest.mark.parametrize("case", CASES)
def test_a_variable_means_what_it_means_upstream(answers, case):
    ours, theirs = (answer[case] for answer in answers)
    assert "error" not in theirs
    assert ours == theirs


def test_the_comparison_sees_differences(answers):
    """The probe would notice: each case differs from the plain start in something."""
    _, theirs = answers
    same = {case for case in CASES if theirs[case] == theirs["nothing set"]}
    assert same <= {"nothing set", "ids", "ratio without its argument", "unknown sampler"}
