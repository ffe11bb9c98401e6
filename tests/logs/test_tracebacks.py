"""Tracebacks: to the letter what the standard library writes, the first time and every time."""

import sys
import traceback
import types

import pytest

from otel_perf.logs import tracebacks
from otel_perf.logs.tracebacks import PLACES, formatted


class Failed(Exception):
    """Of this module."""


class Broken(Exception):
    def __str__(self):
        raise ValueError("no")


class Silent(Exception):
    def __str__(self):
        return ""


def deep(number, error):
    if number:
        deep(number - 1, error)
    raise error


def chained():
    try:
        raise KeyError("first")
    except KeyError as error:
        raise ValueError("second") from error


def in_a_handler():
    try:
        raise KeyError("first")
    except KeyError:
        raise ValueError("second")  # noqa: B904


def suppressed():
    try:
        raise KeyError("first")
    except KeyError:
        raise ValueError("second") from None


def noted():
    error = ValueError("with a note")
    error.add_note("look here")
    raise error


def grouped():
    raise ExceptionGroup("some", [ValueError("a"), KeyError("b")])


def in_text():
    exec("def f():\n    1 / 0\nf()", {})


def of_a_generator():
    sum(1 / (number - 2) for number in range(5))


WORKS = {
    "division": lambda: 1 / 0,
    "own": lambda: deep(2, Failed("a\nb")),
    "deep": lambda: deep(3, Failed("x")),
    "recursion": lambda: deep(30, Failed("x")),
    "endless": lambda: deep(10**9, Failed("x")),
    "broken": lambda: deep(1, Broken()),
    "silent": lambda: deep(1, Silent()),
    "empty": lambda: deep(1, ValueError()),
    "key": lambda: {}["missing"],
    "name": lambda: soum([]),  # noqa: F821
    "attribute": lambda: [].apend(1),
    "import": lambda: __import__("collections.nothing"),
    "syntax": lambda: compile("a b", "file.py", "exec"),
    "exit": lambda: sys.exit(3),
    "chained": chained,
    "in a handler": in_a_handler,
    "suppressed": suppressed,
    "noted": noted,
    "grouped": grouped,
    "in text": in_text,
    "of a generator": of_a_generator,
}


def caught(work):
    try:
        work()
    except BaseException:
        return sys.exc_info()
    raise AssertionError("it did not raise")


@pytest.fixture(autouse=True)
def nothing_kept():
    tracebacks._places.clear()


@pytest.mark.parametrize("name", WORKS)
def test_it_is_what_the_standard_library_writes(name):
    for _ in range(3):
        found = caught(WORKS[name])
        assert formatted(*found) == "".join(traceback.format_exception(*found))


def test_one_without_a_traceback_and_none_at_all():
    for found in ((ValueError, ValueError("x"), None), (None, None, None), (ValueError, None, None)):
        assert formatted(*found) == "".join(traceback.format_exception(*found))


def test_a_limit_is_kept(monkeypatch):
    found = caught(WORKS["deep"])
    formatted(*found)
    monkeypatch.setattr(sys, "tracebacklimit", 1, raising=False)
    assert formatted(*found) == "".join(traceback.format_exception(*found))


def test_a_traceback_that_somebody_made_says_their_line():
    kind, error, trace = caught(WORKS["division"])
    formatted(kind, error, trace)
    other = types.TracebackType(None, trace.tb_frame, trace.tb_lasti, trace.tb_lineno + 1)
    assert formatted(kind, error, other) == "".join(traceback.format_exception(kind, error, other))


def test_code_that_is_made_anew_is_not_kept_for_ever():
    for number in range(PLACES + 100):
        scope = {}
        exec(f"def f():\n    raise ValueError({number})", scope)
        found = caught(scope["f"])
        if number % 500 == 0:
            assert formatted(*found) == "".join(traceback.format_exception(*found))
        else:
            formatted(*found)
    assert len(tracebacks._places) <= PLACES
