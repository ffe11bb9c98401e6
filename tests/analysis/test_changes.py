"""What is claimed to have changed has changed, on a machine whose speed changes by itself."""

import random

import pytest

from otel_perf.analysis.changes import compare
from otel_perf.analysis.samples import PERIOD, Samples
from tests.analysis.noise import ROOT, STEPS, Machine, sides

PAIRS, RUNS = 20, 6


def slower(chance, slow="", factor=1.0, runs=RUNS):
    base, seen = sides(chance, runs, slow, factor)
    return {change.name for change in compare(Samples(base), Samples(seen)) if change.verdict == "slower"}


def test_nothing_is_claimed_where_nothing_has_changed():
    assert [slower(random.Random(seed)) for seed in range(PAIRS)] == [set()] * PAIRS


def test_what_takes_30_percent_longer_is_found_and_nothing_else():
    found, others = 0, set()
    for seed in range(PAIRS):
        slow = list(STEPS)[seed % len(STEPS)]
        claimed = slower(random.Random(100 + seed), slow, 1.3)
        found += slow in claimed
        others |= claimed - {slow, ROOT}  # the root is really slower with its step
    assert found >= 0.9 * PAIRS
    assert others == set()
