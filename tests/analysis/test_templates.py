"""Templates of log lines, found from their texts."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_perf.analysis import templates
from otel_perf.analysis.templates import Templates


def mined(*lines, group="g"):
    found = Templates(Counter, "rest")
    for line in lines:
        found.of(group, line)["lines"] += 1
    return {str(template): template.value["lines"] for template in found.all}


@pytest.mark.parametrize(
    ("lines", "template"),
    [
        (("order 17 taken in 0.25 s", "order 9 taken in 12 s"), "order <*> taken in <*> s"),
        (("user ann has logged in", "user bob has logged in"), "user <*> has logged in"),
        (
            ("id 550e8400-e29b-41d4-a716-446655440000 seen", "id 123e4567-e89b-12d3-a456-426614174000 seen"),
            "id <*> seen",
        ),
        (("from 10.0.0.1:8080", "from 192.168.7.20:9"), "from <*>"),
        (("at 0xdeadbeef", "at 0xFF"), "at <*>"),
        (("commit 0a1b2c3d4e5f done", "commit 99999999aaaa done"), "commit <*> done"),
        (("[2026-11-26T02:35:24.136Z] up", "[2026-11-27 00:00:01,5+01:00] up"), "[<*>] up"),
        (("took 250ms", "took 3ms"), "took <*>ms"),
        (("line one\nthen 5", "line one\nthen something else"), "line one"),
        (("", " "), ""),
    ],
)
def test_lines_of_one_template_are_one(lines, template):
    assert mined(*lines) == {template: len(lines)}


@pytest.mark.parametrize(
    "lines",
    [
        ("order failed", "payment failed"),
        ("order taken", "order given"),
        ("utf8 is read", "utf8 was written"),
        ("one two three", "one two three four"),
        ("cache1 is full", "deadline is near"),
    ],
)
def test_lines_of_different_templates_are_not(lines):
    assert len(mined(*lines)) == 2


def test_words_with_digits_in_them_stay():
    assert mined("utf8 in sha256 and v2api") == {"utf8 in sha256 and v2api": 1}


def test_groups_are_apart():
    found = Templates(Counter, "rest")
    for group in "ab":
        found.of(group, "x")["lines"] += 1
    assert [(template.group, str(template)) for template in found.all] == [("a", "x"), ("b", "x")]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text("ab1 ", max_size=12)), max_size=80), st.integers(1, 5))
def test_every_line_is_in_one_template_and_templates_are_bounded(lines, limit):
    before, templates.LIMIT = templates.LIMIT, limit
    try:
        found = Templates(Counter, "rest")
        for group, line in lines:
            found.of(group, line)["lines"] += 1
    finally:
        templates.LIMIT = before
    assert sum(template.value["lines"] for template in found.all) == len(lines)
    assert len(found.all) <= limit + 1


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(templates, "KNOWN", 10)
    found = Templates(Counter, "rest")
    for number in range(100):
        found.of("g", f"x {number}")["lines"] += 1
    assert len(found._known) == 10
    assert mined(*(f"x {number}" for number in range(100))) == {"x <*>": 100}
