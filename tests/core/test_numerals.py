"""Numbers that people read."""

import pytest

from otel_perf.core.numerals import digits


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.01234, "0.0123"),
        (12.345, "12.3"),
        (999.4, "999"),
        (999.6, "1,000"),
        (2450.3, "2,450"),
        (-2450, "-2,450"),
    ],
)
def test_three_digits_and_no_exponent(value, shown):
    assert digits(value) == shown
