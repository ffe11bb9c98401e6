"""What is usual is learnt from windows of a hundred; what becomes slow is said after two of them, and noise is not."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_perf.bottlenecks.baseline import ACCEPTED, LEARNT, NAMES, RUNNING, WINDOW, Baselines, Durations

MS = 1_000_000


def window(durations, source, median, spread=0.05, number=WINDOW):
    """Count a window around ``median``; the last answer."""
    answer = None
    for _ in range(number):
        answer = durations.add(int(median * source.uniform(1 - spread, 1 + spread)))
    return answer


def learnt(median=10 * MS, windows=LEARNT + 2):
    durations, source = Durations(), random.Random(1)
    for _ in range(windows):
        assert window(durations, source, median) is None
    return durations, source


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 10**13), min_size=WINDOW, max_size=WINDOW))
def test_quantiles_are_right_within_four_percent(values):
    durations = Durations()
    for value in values:
        durations.add(value)
    ordered = sorted(values)
    for found, share in ((durations.median, 0.5), (durations.p90, 0.9), (durations.p95, 0.95)):
        exact = ordered[round(share * WINDOW) - 1]
        assert exact / 1.045 - 1 <= found <= exact * 1.045 + 1


@pytest.mark.parametrize("value", [0, -5, 1, 10**13, 10**18, 0.5])
def test_any_duration_can_be_counted(value):
    durations = Durations()
    for _ in range(WINDOW):
        durations.add(value)
    assert durations.median > 0
    assert len(durations.buckets) == 1


def test_a_hundred_slower_ones_are_not_enough_and_two_hundred_are():
    durations, source = learnt()
    assert window(durations, source, 20 * MS) is None
    regression = window(durations, source, 20 * MS)
    assert regression.before == pytest.approx(10 * MS, rel=0.06)
    assert regression.now == pytest.approx(20 * MS, rel=0.06)
    assert regression.rise == pytest.approx(10 * MS, rel=0.15)


def test_one_slow_window_between_usual_ones_is_nothing():
    durations, source = learnt()
    for _ in range(5):
        assert window(durations, source, 20 * MS) is None
        assert window(durations, source, 10 * MS) is None


def test_nothing_is_said_before_enough_is_known():
    durations, source = Durations(), random.Random(2)
    for number in range(LEARNT):
        assert window(durations, source, 10 * MS * (number + 1)) is None
    assert durations.windows == LEARNT


def test_the_baseline_does_not_learn_what_it_reports():
    durations, source = learnt()
    before = durations.median
    for _ in range(ACCEPTED - 1):
        window(durations, source, 30 * MS)
    assert durations.median == before
    assert durations.regression.before == before


def test_it_is_said_again_with_each_window_and_accepted_in_the_end():
    durations, source = learnt()
    said = 0
    for _ in range(ACCEPTED):
        said += window(durations, source, 30 * MS) is not None
    assert said == ACCEPTED - RUNNING + 1
    assert window(durations, source, 30 * MS) is None
    assert durations.median == pytest.approx(30 * MS, rel=0.06)
    assert durations.regression is None
    for _ in range(5):
        assert window(durations, source, 30 * MS) is None


def test_it_ends_when_the_operation_is_as_fast_as_before():
    durations, source = learnt()
    for _ in range(3):
        window(durations, source, 30 * MS)
    assert durations.regression is not None
    assert window(durations, source, 10 * MS) is None
    assert durations.regression is None
    assert durations.slow == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("period", [1, 10, 30, 100])
def test_a_load_that_swings_by_a_fifth_is_no_regression(seed, period):
    """For two hundred windows the median goes 20 % up and down, with the tail of a real service."""
    durations, source = Durations(), random.Random(seed)
    for number in range(200):
        swing = (-1) ** number if period == 1 else math.sin(2 * math.pi * number / period)
        for _ in range(WINDOW):
            value = source.lognormvariate(0, 0.2) * 10 * MS * (1 + 0.2 * swing)
            assert durations.add(int(value * (5 if source.random() < 0.02 else 1))) is None, number


@pytest.mark.parametrize("seed", range(3))
def test_steady_noise_is_no_regression(seed):
    durations, source = Durations(), random.Random(seed)
    for _ in range(300 * WINDOW):
        assert durations.add(int(10 * MS * source.lognormvariate(0, 0.6))) is None


def test_becoming_faster_is_learnt():
    durations, source = learnt()
    for _ in range(10):
        assert window(durations, source, 2 * MS) is None
    assert durations.median == pytest.approx(2 * MS, rel=0.1)


def test_the_memory_of_an_operation_is_bounded():
    durations, source = Durations(), random.Random(3)
    for _ in range(200 * WINDOW):
        durations.add(int(source.lognormvariate(15, 4)))
    assert len(durations.buckets) < 700
    assert len(durations.recent) < WINDOW


def test_operations_are_remembered_up_to_a_limit():
    baselines = Baselines()
    for number in range(NAMES + 500):
        baselines.root(f"GET /{number}", MS)
    assert len(baselines.roots) == NAMES
