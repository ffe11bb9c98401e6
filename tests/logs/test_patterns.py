"""Lines are counted by template and errors by place, in bounded memory, and no series ever falls."""

import logging
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_perf.logs import filters, patterns
from otel_perf.logs.patterns import ERRORS, OVERFLOW, PATTERNS, Patterns, Series, place_of
from otel_perf.logs.redaction import Redactor
from tests.logs import corpus


def of(patterns, record):
    """The pattern of a record, as the filters look for it."""
    key = record.pathname, record.lineno, record.levelno, record.msg if record.args else None
    return patterns.by_key.get(key) or patterns.add(key, record)


@pytest.fixture
def shop():
    logger = logging.getLogger("shop")
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.setLevel(logging.NOTSET)


def found():
    """What was counted of shop's lines: template, level and count."""
    return {
        (pattern.template, pattern.level): pattern.count
        for pattern in filters._active.patterns.all()
        if pattern.logger.startswith("shop")
    }


def line_of(function, offset):
    return f"test_patterns.py:{function.__code__.co_firstlineno + offset}"


def test_lines_are_counted_by_template_and_level(start, shop):
    def log(number):
        shop.info("taken %d", number)
        shop.warning("in full")
        shop.info(f"order {number}")
        shop.info("a" if number % 2 else "b")

    def wrapped(text, *args):
        shop.info(text, *args)

    start()
    for number in range(10):
        log(number)
        wrapped("wrapped %d", number)
        wrapped("as it is")
    assert found() == {
        ("taken %d", 20): 10,
        ("in full", 30): 10,
        (line_of(log, 3), 20): 10,
        ("b", 20): 10,  # one place
        ("wrapped %d", 20): 10,
        ("as it is", 20): 10,
    }


def test_a_pattern_has_its_first_and_last_time_and_an_example(start, shop):
    start()
    shop.info("taken %s by %s", 7, "ann")
    between = logging.makeLogRecord({}).created
    shop.info("other")
    for number in range(3):
        shop.debug("turn %d", number)
    pattern = {pattern.template: pattern for pattern in filters._active.patterns.all()}
    assert pattern["taken %s by %s"].example == "taken 7 by ann"
    assert pattern["taken %s by %s"].first == pattern["taken %s by %s"].last <= between
    turn = pattern["turn %d"]
    assert (turn.example, turn.count) == ("turn 0", 3)
    assert turn.first <= turn.last
    assert [pattern.template for pattern in filters._active.patterns.top(1)] == ["turn %d"]


def test_an_example_is_redacted_and_cut():
    found = Patterns(lambda text: text.replace("secret", "…"))
    record = logging.LogRecord("shop", 20, "a.py", 1, "password %s", ("secret" + "x" * 1000,), None)
    pattern = of(found, record)
    assert pattern.example.startswith("password …x")
    assert len(pattern.example) <= patterns.EXAMPLE


def test_a_secret_that_an_example_or_a_template_would_cut_is_hidden():
    """GIVEN a long secret, and behind it another THEN the example has no piece of it, wherever it ends."""
    for size in range(900, 1001, 7):
        found = Patterns(Redactor().text)
        text = (
            f"{corpus.PEM.replace('q83', 'q83' + 'x' * (size - 150))} as {corpus.AWS} and {corpus.JWT} " + "a " * 5000
        )
        pattern = of(found, logging.LogRecord("shop", 20, "a.py", 1, text, (), None))
        assert corpus.leaks(pattern.example) == []
        assert len(pattern.example) <= patterns.EXAMPLE
    pattern = of(
        Patterns(Redactor().text), logging.LogRecord("shop", 20, "a.py", 1, "token=hunter2Zq for %s", ("x",), None)
    )
    assert pattern.template == "token=[redacted] for %s"


def test_templates_are_bounded_and_the_rest_is_counted_by_logger(monkeypatch):
    monkeypatch.setattr(patterns, "LIMIT", 3)
    monkeypatch.setattr(patterns, "LOGGERS", 2)
    found = Patterns()
    for number in range(6):
        for logger in "abc":
            of(found, logging.LogRecord(logger, 20, "a.py", number + 1, "x %d", (1,), None)).count += 1
    counted = Counter({(pattern.place, pattern.logger): pattern.count for pattern in found.all()})
    assert counted == {
        ("a.py:1", "a"): 3, ("a.py:2", "a"): 3, ("a.py:3", "a"): 3,
        ("(others)", "a"): 3, ("(others)", "b"): 3, ("(others)", ""): 3,
    }  # fmt: skip


def test_a_place_with_any_number_of_templates_does_not_take_them_all(monkeypatch):
    monkeypatch.setattr(patterns, "OF_ONE_PLACE", 5)
    found = Patterns()
    for number in range(100):
        of(found, logging.LogRecord("shop", 20, "a.py", 1, f"user {number}: %s", ("x",), None)).count += 1
    of(found, logging.LogRecord("shop", 20, "b.py", 1, "y %s", ("x",), None)).count += 1
    counted = {pattern.template: pattern.count for pattern in found.all()}
    assert counted == {**{f"user {number}: %s": 1 for number in range(5)}, "a.py:1": 95, "y %s": 1}


@given(st.lists(st.dictionaries(st.integers(0, 12), st.integers(0, 50), max_size=8), max_size=12), st.integers(1, 6))
def test_series_never_fall_and_add_up_to_what_was_counted(rounds, limit):
    series, counts, before = Series(limit), Counter(), {}
    for grown in rounds:
        counts.update(grown)
        read = {
            attributes.get("item", OVERFLOW): value
            for value, attributes in series.readings(list(counts.items()), lambda item: {"item": item})
        }
        assert sum(read.values()) == counts.total()
        assert all(read.get(item, 0) >= value for item, value in before.items())
        assert len(read) <= limit + 1
        before = read


def test_a_flood_that_comes_late_finds_a_series():
    series = Series(8)
    counts = dict.fromkeys(range(100), 1)
    for _ in range(2):
        series.readings(list(counts.items()), lambda item: {"item": item})
    counts["flood"] = 1000
    read = series.readings(list(counts.items()), lambda item: {"item": item})
    assert (1000, {"item": "flood"}) in read


def test_metrics_have_templates_and_places_but_no_messages(start, shop):
    def fail(number):
        try:
            int(f"secret{number}")
        except ValueError:
            shop.exception(f"secret {number}")

    pipeline = start()
    for number in range(5):
        fail(number)
        shop.info("taken by %s", f"secret {number}")
    counted = {
        attributes["perf.log.template"]: (value, attributes["perf.log.level"])
        for value, attributes in pipeline.census.read(PATTERNS)
        if attributes.get("perf.log.logger") == "shop"
    }
    assert counted == {"taken by %s": (5, "INFO"), line_of(fail, 4): (5, "ERROR")}
    place = f"{line_of(fail, 2)} in {fail.__qualname__}"
    assert (5, {"exception.type": "ValueError", "perf.error.place": place}) in pipeline.census.read(ERRORS)


def test_errors_are_placed_at_the_apps_innermost_line():
    import json

    def load(text):
        return json.loads(text)

    with pytest.raises(json.JSONDecodeError) as raised:
        load("{")
    assert place_of(raised.value.__traceback__) == f"{line_of(load, 1)} in {load.__qualname__}"
    assert place_of(None) == ""
    code = compile("def f():\n    1 / 0\nf()", "<string>", "exec")
    try:
        exec(code)
    except ZeroDivisionError:
        trace = sys.exc_info()[2].tb_next
    assert place_of(trace) == "<string>:2 in f", "none of it is the app's"


def test_groups_of_errors_are_bounded(monkeypatch):
    monkeypatch.setattr(patterns, "GROUPS", 3)
    found = patterns.Errors()
    for number in range(10):
        found.add(type(f"E{number}", (Exception,), {})(), None)
    found.add(None, None)
    assert sorted(found._counts.values()) == [1, 1, 1, 7]


def test_records_that_were_counted_where_they_were_made_are_not_counted_again(start, shop):
    from otel_perf.logs.correlation import TRACE_ID

    start()
    shop.handle(logging.makeLogRecord({"name": "shop", "msg": "x", "levelno": 20, "process": 1, TRACE_ID: "ab" * 16}))
    assert found() == {}
