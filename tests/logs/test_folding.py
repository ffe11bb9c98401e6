"""Folding, with a clock of the test's: every line is in exactly one place."""

import logging
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_perf.logs import folding
from otel_perf.logs.folding import Folding, Window

LENGTH = 10
LINES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.booleans()), max_size=200)


def window(key, now):
    return Window("shop", logging.INFO, str(key), ("x.py", 1, "f"), float(now), now + LENGTH)


@given(LINES, st.integers(1, 6))
def test_what_was_folded_is_told_once(lines, most):
    fold, now = Folding(), 0
    out, folded, told, opened = Counter(), Counter(), Counter(), {}

    def tell(ended):
        if ended is not None:
            assert ended.count > 0
            assert ended.first <= ended.last < ended.first + LENGTH
            told[ended.text] += ended.count

    before, folding.WINDOWS = folding.WINDOWS, most
    try:
        for key, pause, look in lines:
            now += pause
            if look:
                while (ended := fold.due(now)) is not None:
                    tell(ended)
            inside, ended = fold.fold(key, float(now), now)
            tell(ended)
            if inside:
                assert now < opened[key] + LENGTH
                folded[str(key)] += 1
            else:
                out[str(key)] += 1
                opened[key] = now
                for ended in fold.open(key, window(key, now)):
                    tell(ended)
    finally:
        folding.WINDOWS = before
    for ended in fold.close():
        tell(ended)
    assert told == folded
    assert out.total() + folded.total() == len(lines)


@pytest.mark.parametrize("look", [True, False])
def test_a_line_goes_out_again_when_its_window_is_over(look):
    fold = Folding()
    assert fold.fold("a", 0.0, 0) == (False, None)
    first = window("a", 0)
    fold.open("a", first)
    assert fold.fold("a", 3.0, 3) == (True, None)
    assert fold.due(9) is None
    if look:
        assert fold.due(10) is first
        assert fold.fold("a", 10.0, 10) == (False, None)
    else:
        assert fold.fold("a", 10.0, 10) == (False, first)
    assert (first.count, first.first, first.last) == (1, 0.0, 3.0)


def test_a_window_with_nothing_in_it_says_nothing():
    fold = Folding()
    for key in "abc":
        fold.open(key, window(key, 0))
    assert fold.due(100) is None
    assert fold.close() == []


def test_windows_are_bounded_and_the_oldest_is_told_early(monkeypatch):
    monkeypatch.setattr(folding, "WINDOWS", 2)
    fold = Folding()
    for key in "ab":
        fold.open(key, window(key, 0))
        fold.fold(key, 1.0, 1)
    (ended,) = fold.open("c", window("c", 2))
    assert (ended.text, ended.count) == ("a", 1)
    assert fold.fold("a", 3.0, 3) == (False, None)
    assert fold.fold("b", 3.0, 3) == (True, None)


def test_a_window_that_a_signal_handler_opened_meanwhile_is_told():
    """GIVEN a line that found no window WHEN another like it comes in the midst of that THEN nothing is forgotten."""
    fold, first = Folding(), window("a", 0)
    assert fold.open("a", first) == []
    fold.fold("a", 1.0, 1)
    assert fold.open("a", window("a", 0)) == [first]


@pytest.mark.parametrize("open_before", [False, True])
def test_a_window_that_a_signal_handler_opens_in_the_midst_of_another_is_not_lost(open_before):
    """It comes when the next window's making has just called something."""
    ended, theirs = [], []

    class Interrupted(Folding):
        def _end(self, key):
            found = super()._end(key)
            handle()
            return found

        def _oldest(self):
            found = super()._oldest()
            handle()
            return found

    def handle():
        if not theirs:
            theirs.append(window("theirs", 0))
            ended.extend(fold.open("key", theirs[0]))
            theirs[0].count = 3

    fold = Interrupted()
    if open_before:
        handle()
    ended += fold.open("key", window("ours", 0))
    while (found := fold.due(LENGTH)) is not None:
        ended.append(found)
    assert ended == theirs
