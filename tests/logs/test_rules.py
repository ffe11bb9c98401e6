"""What users write becomes rules, or one clear problem."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import Decision, TraceIdRatioBased

from otel_perf.core.settings import load
from otel_perf.logs import rules
from otel_perf.logs.rules import NEVER, TRACE_BITS, Rate
from otel_perf.logs.settings import LogsSettings


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("uvicorn.access", logging.WARNING),
        ("uvicorn.access.x", logging.WARNING),
        ("uvicorn.accessories", 0),
        ("uvicorn", 0),
        ("shop", 0),
        ("shop.orders", logging.INFO),
        ("shop.orders.db", logging.DEBUG),
        ("shop.orders.db.pool", logging.DEBUG),
        ("a.sql", logging.ERROR),
        ("quiet", NEVER),
        ("numbers", 25),
    ],
)
def test_the_rule_that_says_most_of_a_name_counts(name, least):
    found = rules.levels(
        "uvicorn.access=warning, shop.*=INFO, shop.orders.db=DEBUG, *.sql=ERROR, quiet=off, numbers=25"
    )
    assert found.least(name) == least


def test_a_level_that_the_app_added_has_its_name():
    logging.addLevelName(21, "NOTICE")
    assert rules.levels("shop=notice").least("shop") == 21


def test_audits_and_our_own_lines_need_a_rule_that_names_them():
    found = rules.levels("*=CRITICAL")
    assert found.least("shop") == logging.CRITICAL
    assert found.least("otel_perf") == found.least("otel_perf.x") == found.least("shop.audit") == 0
    assert rules.levels("otel_perf=ERROR").least("otel_perf") == logging.ERROR
    assert rules.levels("shop.audit=ERROR").least("shop.audit.x") == logging.ERROR


@pytest.mark.parametrize(
    ("text", "interval", "burst"),
    [("100/s", 0.01, 100), ("5/min", 12.0, 5), ("20/10s", 0.5, 20), ("1/h", 3600.0, 1), ("0.5/s", 2.0, 1)],
)
def test_rates(text, interval, burst):
    found = rules.rate(text)
    assert (found.interval, found.burst) == (pytest.approx(interval), burst)


@pytest.mark.parametrize("text", ["", "off", "none", " Off "])
def test_off_is_no_rule(text):
    assert not rules.levels(text)
    assert rules.rate(text) is None
    assert not rules.sample(text)
    assert rules.fold(text) == 0.0


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("LEVELS", "shop=LOUD", "is wrong at 'LOUD', which is not a level; allowed: logger=LEVEL"),
        ("LEVELS", "shop", "is wrong at 'shop', which is not logger=LEVEL"),
        ("LEVELS", "shop=INFO,,x=INFO", "is wrong at '', which is not logger=LEVEL"),
        ("RATE", "fast", "is not a rate; allowed: a number of lines for a time, like 100/s"),
        ("RATE", "0/s", "is not a rate above 0"),
        ("RATE", "100", "is not a rate"),
        ("FOLD", "long", "is not a duration; allowed: a number with ms, s, m or h, like 10s, or off; using 0.0"),
        ("FOLD", "2d", "is out of range"),
        ("SAMPLE", "INFO=110%", "is wrong at '110%', which is not a share like 10% or 0.1"),
        ("SAMPLE", "INFO=some", "is wrong at 'some', which is not a share"),
        ("SAMPLE", "ERROR=10%", "is wrong at 'ERROR': errors are never dropped by chance"),
    ],
)
def test_a_wrong_value_is_one_line_and_the_default(field, value, said):
    settings, (problem,) = load(LogsSettings, "logs", {f"OTEL_PERF_LOGS_{field}": value})
    assert settings == LogsSettings()
    assert f"OTEL_PERF_LOGS_{field}={value!r} {said}" in str(problem)


@given(
    st.integers(1, 20), st.integers(1, 50), st.lists(st.one_of(st.integers(0, 3), st.integers(0, 300)), max_size=300)
)
def test_a_bucket_lets_through_what_a_bucket_of_tokens_would(burst, interval, pauses):
    """Exactly, and never more than burst + w / interval in any window of w. In whole numbers: no rounding."""
    bucket, full_at, now = Rate(float(interval), burst), 0.0, 1000
    tokens, taken = burst * interval, []  # in parts of a token, one for each unit of time
    for pause in pauses:
        now += pause
        tokens = min(burst * interval, tokens + pause)
        after = bucket.take(full_at, float(now))
        assert bool(after) == (tokens >= interval)
        if after:
            full_at, tokens = after, tokens - interval
            taken.append(now)
    for begin, first in enumerate(taken):
        for end, last in enumerate(taken[begin:], begin):
            assert end - begin + 1 <= burst + (last - first) / interval


@given(st.lists(st.integers(0, 2**128 - 1), max_size=50), st.integers(0, 100))
def test_a_share_is_decided_as_the_sdks_ratio_sampler_does(traces, percent):
    bound = rules.sample(f"INFO={percent}%").bound(logging.INFO)
    sampler = TraceIdRatioBased(percent / 100)
    for trace in traces:
        sampled = sampler.should_sample(None, trace, "x").decision is Decision.RECORD_AND_SAMPLE
        assert (trace & TRACE_BITS < bound) == sampled


def test_levels_between_loggings_own_belong_to_the_one_beneath():
    found = rules.sample("INFO=0.5,DEBUG=25%,35=0")
    assert found.bound(20) == found.bound(25) == 2**63
    assert found.bound(10) == found.bound(5) == 2**62
    assert (found.bound(30), found.bound(35)) == (2**64, 0)
