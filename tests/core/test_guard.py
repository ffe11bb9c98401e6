"""Errors of ours never reach the application."""

import logging

import pytest

from otel_perf.core import guard
from otel_perf.core.guard import LIMIT, Guard


@pytest.mark.usefixtures("absorbing")
def test_an_error_is_absorbed_counted_and_logged_once(caplog):
    mine = Guard("gauges")
    for _ in range(3):
        with mine:
            raise RuntimeError("boom")
    assert mine.errors == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "gauges" in caplog.text


@pytest.mark.usefixtures("absorbing")
def test_after_the_limit_it_is_told_once():
    tripped = []
    mine = Guard("gauges", lambda: tripped.append(1))
    for _ in range(LIMIT + 5):
        with mine:
            raise RuntimeError("boom")
    assert tripped == [1]
    assert mine.tripped


@pytest.mark.usefixtures("absorbing")
def test_forgiven_it_begins_anew_and_goes_on_counting(caplog):
    tripped = []
    mine = Guard("gauges", lambda: tripped.append(1))
    for _ in range(2):
        for _ in range(LIMIT + 5):
            with mine:
                raise RuntimeError("boom")
        mine.forgive()
        assert not mine.tripped
    assert tripped == [1, 1]
    assert mine.errors == 2 * (LIMIT + 5)
    assert len(caplog.records) == 2


@pytest.mark.usefixtures("absorbing")
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_program_passes(kind):
    with pytest.raises(kind), Guard("gauges"):
        raise kind


def test_under_test_the_error_is_raised():
    assert guard.is_strict()
    with pytest.raises(RuntimeError, match="boom"), Guard("gauges"):
        raise RuntimeError("boom")


def test_an_app_at_the_end_of_its_stack_is_no_error_of_ours():
    mine = Guard("logs")

    def recurse():
        with mine:
            len_of([])
        recurse()

    def len_of(things):
        return len(things)

    with pytest.raises(RecursionError):
        recurse()
    assert mine.errors == 0


@pytest.mark.usefixtures("absorbing")
def test_a_recursion_of_ours_is_an_error_of_ours():
    mine = Guard("logs")

    def recurse():
        recurse()

    with mine:
        recurse()
    assert mine.errors == 1


def test_no_error_is_no_count():
    mine = Guard("gauges")
    with mine:
        pass
    assert mine.errors == 0
