"""The distributions are those of the tables, and the corrections do what their papers say."""

import math

import pytest

from otel_perf.analysis.significance import LAYOUT, Unit, differences, quantile_of_t, upper_tail


@pytest.mark.parametrize(
    ("alpha", "freedom", "t"),
    [
        (0.05, 1, 6.314), (0.05, 4, 2.132), (0.025, 10, 2.228), (0.01, 30, 2.457), (0.005, 8, 3.355),
        (0.0005, 3, 12.924), (0.05, 1000, 1.646),
    ],
)  # fmt: skip
def test_students_distribution_is_that_of_the_tables(alpha, freedom, t):
    assert quantile_of_t(alpha, freedom) == pytest.approx(t, abs=0.0006)
    assert upper_tail(t, freedom) == pytest.approx(alpha, rel=0.001)
    assert upper_tail(-t, freedom) == pytest.approx(1 - alpha, rel=0.001)


def units(values, own=None):
    return [Unit(run, value, value if own is None else own[run]) for run, value in enumerate(values)]


def test_runs_that_agree_by_chance_are_not_believed_to_agree_so_well():
    plain, _ = differences({"op": (units([1.0] * 3), units([1.1] * 3))})
    assert plain["op"].error == pytest.approx(LAYOUT * math.sqrt(2 / 3))
    assert plain["op"].freedom == 4


def test_the_variance_is_raised_towards_that_of_the_others_and_never_lowered():
    noisy = {f"op{number}": (units([0.0, 0.4, 0.8]), units([0.0, 0.4, 0.8])) for number in range(4)}
    quiet = (units([0.0, 0.001, 0.002]), units([0.0, 0.001, 0.002]))
    alone, _ = differences({"quiet": quiet})
    among, _ = differences({"quiet": quiet, **noisy})
    assert among["quiet"].error > 5 * alone["quiet"].error
    assert among["op0"].error == pytest.approx(math.sqrt(0.16 * 2 / 3))


def test_what_the_others_tell_of_the_machine_is_taken_off():
    """Four operations follow the machine, one does not; one of the four is slower by itself."""
    base, seen = [0.0, 0.5, 0.2, 0.3, 0.1], [0.6, 0.1, 0.4, 0.2, 0.5]
    sides = {f"op{n}": (units(base), units(seen)) for n in range(5)}
    sides["slow"] = units(base), units([value + 0.3 for value in seen])
    sides["sleep"] = units([0.01, 0.0, 0.01, 0.0, 0.01]), units([0.0, 0.01, 0.0, 0.01, 0.0])
    plain, freed = differences(sides)
    assert plain["op0"].change == pytest.approx(0.14)
    assert freed["op0"].change == pytest.approx(0.0, abs=0.01)
    assert freed["slow"].change == pytest.approx(0.3, abs=0.01)
    assert freed["slow"].error < plain["slow"].error / 2
    assert freed["sleep"].change == pytest.approx(0.0, abs=0.01)


def test_three_runs_are_the_fewest():
    plain, freed = differences({"op": (units([1.0, 1.1]), units([1.0, 1.1, 1.2, 1.3]))})
    assert not plain
    assert not freed
