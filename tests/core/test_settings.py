"""Settings come from the environment, and a wrong value never stops the program."""

from dataclasses import dataclass
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_perf.core import settings
from otel_perf.core.settings import Duration, Size, Switch, count


@dataclass(frozen=True, slots=True)
class Example:
    delay: Duration = 1.0
    limit: Size = 1000
    share: Switch = 1.0
    fast: bool = False
    rows: Annotated[int, count(1, 10)] = 5
    label: str = "none"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1.5s", 1.5), ("5m", 300), ("2h", 7200), ("1d", 86400), ("3", 3), ("40us", 4e-5), (".5 s", 0.5)],
)
def test_durations_take_a_unit(text, seconds):
    assert settings.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MB", 512_000_000), ("1GiB", 2**30), ("7", 7), ("1.5kB", 1500), ("64 kib", 65536), ("2T", 2 * 10**12)],
)
def test_sizes_take_decimal_and_binary_units(text, size):
    assert settings.parse_size(text) == size


@pytest.mark.parametrize(
    ("value", "share"),
    [("on", 1), ("OFF", 0), ("25%", 0.25), (True, 1), (False, 0), ("0%", 0), ("100%", 1), ("yes", 1)],
)
def test_switches_are_on_off_or_a_percentage(value, share):
    assert settings.parse_switch(value) == share


@pytest.mark.parametrize("value", ["maybe", "101%", "-1%", "%", "", "2"])
def test_other_switches_are_refused(value):
    with pytest.raises(ValueError, match=r"is not on, off|could not convert"):
        settings.parse_switch(value)


@pytest.mark.parametrize("value", ["alerts.example", "ftp://alerts.example", "https://", "http://[", "http:/alerts"])
def test_what_cannot_be_posted_to_is_no_url(value):
    assert settings.parse_url(" https://alerts.example/memory?team=1 ") == "https://alerts.example/memory?team=1"
    with pytest.raises(ValueError, match=r"is not a URL|Invalid IPv6"):
        settings.parse_url(value)


def test_a_problem_says_that_nothing_is_used_instead():
    used, problem = settings.read(settings.Url, "OTEL_PERF_MEMORY_WEBHOOK", "ftp://alerts", "")
    assert used == ""
    assert str(problem) == (
        "OTEL_PERF_MEMORY_WEBHOOK='ftp://alerts' is not a URL; allowed: a URL like https://host/path; using none"
    )


def test_numbers_pass_through_the_parsers():
    assert settings.parse_duration(3) == 3.0
    assert settings.parse_size(3) == 3


def test_fields_are_read_from_derived_variables():
    environ = {
        "OTEL_PERF_DEMO_DELAY": "20ms", "OTEL_PERF_DEMO_LIMIT": "1MB", "OTEL_PERF_DEMO_FAST": "on",
        "OTEL_PERF_DEMO_ROWS": "10", "OTEL_PERF_DEMO_LABEL": "x", "OTEL_PERF_DEMO_SHARE": "10%",
    }  # fmt: skip
    loaded, problems = settings.load(Example, "demo", environ)
    assert not problems
    assert loaded == Example(0.02, 1_000_000, 0.1, True, 10, "x")


@pytest.mark.parametrize(
    ("name", "value", "reason", "allowed"),
    [
        ("DELAY", "soon", "is not a duration", "like 250ms"),
        ("DELAY", "-1", "is not a duration", "like 250ms"),
        ("LIMIT", "12 parsecs", "is not a size", "MB"),
        ("FAST", "perhaps", "cannot be used", "true or false"),
        ("ROWS", "11", "is out of range", "from 1 to 10"),
        ("ROWS", "x", "cannot be used", "from 1 to 10"),
        ("SHARE", "200%", "is not on, off or a percentage", "25%"),
    ],
)
def test_a_wrong_value_is_one_line_and_the_default(name, value, reason, allowed):
    """GIVEN a variable with a value that cannot be used WHEN settings are loaded THEN the line names all."""
    variable = f"OTEL_PERF_DEMO_{name}"
    loaded, (problem,) = settings.load(Example, "demo", {variable: value})
    assert loaded == Example()
    line = str(problem)
    assert "\n" not in line
    for part in (variable, repr(value), reason, allowed, f"using {getattr(Example(), name.lower())}"):
        assert part in line


@given(st.text())
def test_no_text_breaks_loading(text):
    loaded, problems = settings.load(Example, "demo", {"OTEL_PERF_DEMO_LIMIT": text})
    assert loaded == Example() or not problems


def test_what_is_allowed_is_said_for_plain_types():
    assert settings.allowed_values(int) == "a whole number"
    assert settings.allowed_values(Annotated[str, "no mark"]) == "text"
    assert settings.count(3).allowed == "a whole number of at least 3"
