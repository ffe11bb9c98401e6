"""Flags change settings while the program runs; the environment comes first."""

from dataclasses import dataclass, field

import pytest

from otel_perf.core.adjusting import Adjustments
from otel_perf.core.rollout import Rollout
from otel_perf.core.settings import Duration
from tests.core.test_rollout import write_flags


@dataclass(frozen=True, slots=True)
class DemoSettings:
    word: str = field(default="none")
    wait: Duration = field(default=1.0)


@pytest.fixture
def flags(tmp_path):
    write_flags(tmp_path / "f.json")
    return tmp_path / "f.json"


@pytest.fixture
def adjusted(flags):
    """Adjust DemoSettings; returns what was applied, what was told, and how to look again."""

    def adjusted(settings=DemoSettings(), names=("word", "wait"), **environ):
        rollout = Rollout({"OTEL_PERF_FLAGS_FILE": str(flags), **environ})
        applied, told = [], []
        adjustments = Adjustments(rollout, environ, lambda *what: told.append(what))
        remove = adjustments.add("demo", settings, names, applied.append)

        def look(**values):
            write_flags(flags, **{name.replace("_", ".", 1): value for name, value in values.items()})
            rollout.reload()
            adjustments.look()

        return applied, told, look, rollout, remove

    return adjusted


def test_flags_are_applied_at_the_start_and_when_they_change(adjusted, flags):
    write_flags(flags, **{"demo.word": "first"})
    applied, told, look, rollout, _ = adjusted()
    assert applied == [DemoSettings("first")]
    assert told == []
    look(demo_word="second", demo_wait="250ms")
    look(demo_word="second", demo_wait="250ms")
    assert applied[1:] == [DemoSettings("second", 0.25)]
    assert told == [
        ("perf.demo.word", "second", "flag file, perf.demo.word"),
        ("perf.demo.wait", "250ms", "flag file, perf.demo.wait"),
    ]
    look()
    assert applied[2:] == [DemoSettings()]
    assert told[2:] == [("perf.demo.word", "none", "default"), ("perf.demo.wait", "1.0", "default")]
    assert rollout.problems == []


def test_the_environment_comes_first(adjusted):
    applied, _, look, *_ = adjusted(DemoSettings("mine"), OTEL_PERF_DEMO_WORD="mine")
    look(demo_word="flag", demo_wait=3)
    assert applied == [DemoSettings("mine"), DemoSettings("mine", 3.0)]


def test_a_flag_replaces_what_the_environment_said_wrongly(adjusted):
    applied, _, look, *_ = adjusted(OTEL_PERF_DEMO_WAIT="soon")
    look(demo_wait="2s")
    assert applied[-1].wait == 2.0


def test_a_wrong_value_is_one_problem_and_no_change(adjusted):
    applied, told, look, rollout, _ = adjusted()
    look(demo_wait="2s")
    for _ in range(2):
        look(demo_wait="soon")
    look(demo_wait="later")
    assert applied == [DemoSettings(), DemoSettings(wait=2.0)]
    assert len(told) == 1
    assert [str(problem) for problem in rollout.problems] == [
        f"perf.demo.wait={value!r} is not a duration; "
        "allowed: a number with us, ms, s, m or h, like 250ms; using what it was"
        for value in ("soon", "later")
    ]


def test_nothing_is_applied_after_the_end(adjusted):
    applied, told, look, _, remove = adjusted()
    remove()
    remove()
    look(demo_word="late")
    assert applied == [DemoSettings()]
    assert told == []


def test_only_the_named_fields_change(adjusted):
    applied, _, look, *_ = adjusted(names=("word",))
    look(demo_wait="2s")
    assert applied == [DemoSettings()]


def test_a_field_that_is_not_there_is_named(adjusted):
    with pytest.raises(ValueError, match="DemoSettings has no field 'colour'; it has wait, word"):
        adjusted(names=("colour",), OTEL_PERF_DEMO_COLOUR="red")
