"""What fails soon is not faster, and what fails more often is told."""

import random
from types import SimpleNamespace

import pytest

from otel_perf.analysis.changes import compare
from otel_perf.analysis.claims import tests as judge
from otel_perf.analysis.failures import Failures
from otel_perf.analysis.otlp import Point
from otel_perf.analysis.samples import Samples
from otel_perf.cli import comparison
from tests.analysis.noise import said, steady

THING = ("failed operation", "orders", "pay", "INTERNAL")


def compared(base, seen):
    return compare(Samples(base), Samples(seen))


def outcomes(*failed, of=100):
    return dict(enumerate((number, of) for number in failed))


def changes(base, seen):
    failures = Failures.of({THING: (base, seen)})
    return list(failures.changes(judge([], failures.differences())))


def judged(base, seen):
    (change,) = changes(base, seen)
    return change


def test_what_fails_soon_is_not_faster_and_fails_the_comparison():
    """GIVEN half of all spans fail after a tenth of the time WHEN compared THEN the others are, which are as before."""
    found = compared(steady({"pay": 0.1}), steady({"pay": 0.1}, failing=20))
    (pay,) = found.operations
    assert (pay.verdict, pay.judged, pay.seen) == ("same", True, pytest.approx(0.1))
    assert (pay.seen_spans, pay.seen_errors, pay.base_errors) == (200, 100, 0)
    (failures,) = found.failures
    assert (failures.what, failures.name, failures.kind) == ("operation", "pay", "INTERNAL")
    assert (failures.verdict, failures.base, failures.seen) == ("more", 0.0, 0.5)
    assert 0.2 < failures.surely < 0.5
    assert failures.chance < 0.05
    assert found.regressions() == [failures]


def test_what_got_slower_is_found_among_failures():
    found = compared(steady({"pay": 0.1}, failing=10), steady({"pay": 0.15}, failing=10))
    assert found.operations[0].verdict == "slower"
    assert [failures.verdict for failures in found.failures] == ["same"]


def test_what_always_fails_is_not_gone():
    found = compared(steady({"pay": 0.1, "find": 0.1}), steady({"pay": 0.1, "find": 0.1}, failing=40))
    assert found.operations == []
    assert {(failures.name, failures.verdict, failures.seen) for failures in found.failures} == {
        ("pay", "more", 1.0), ("find", "more", 1.0),
    }  # fmt: skip
    back = compared(steady({"pay": 0.1}, failing=40), steady({"pay": 0.1}))
    assert back.operations == []
    assert [failures.verdict for failures in back.failures] == ["less"]
    assert back.regressions() == []


def test_what_is_new_and_always_fails_is_told():
    """It is on one side alone, so that its failures are compared with nothing."""
    for verdict, base, seen in (("new", {"pay": 0.1}, {"pay": 0.1, "find": 0.1}), ("gone", {"find": 0.1}, {})):
        found = compared(steady(base, failing=40), steady(seen, failing=40))
        change = next(change for change in found.operations if change.verdict == verdict)
        assert (change.name, change.base, change.seen) == ("find", 0.0, 0.0)
        assert (change.base_spans, change.base_errors) == ((0, 0) if verdict == "new" else (200, 200))
        assert (change.seen_spans, change.seen_errors) == ((200, 200) if verdict == "new" else (0, 0))


def test_a_single_bad_run_is_not_sure():
    change = judged(outcomes(0, 0, 0, 0, 0), outcomes(0, 0, 0, 0, 90))
    assert (change.verdict, change.judged, change.surely, change.regression) == ("unsure", True, None, False)


def test_a_few_failures_more_are_the_same():
    """A hundredth is the least, though a thousand spans a run make less of it sure."""
    change = judged(outcomes(0, 0, 0, 0, 0, of=1000), outcomes(8, 8, 8, 8, 8, of=1000))
    assert (change.verdict, change.regression) == ("same", False)


@pytest.mark.parametrize(("base", "seen"), [((0, 0), (50, 50, 50, 50)), ((0, 0, 0), (50, 50))])
def test_fewer_than_three_runs_on_a_side_are_never_sure(base, seen):
    change = judged(outcomes(*base), outcomes(*seen))
    assert (change.verdict, change.judged, change.regression) == ("unsure", False, False)


def test_few_failures_are_not_sure_however_alike_the_runs():
    assert judged(outcomes(0, 0, 0), outcomes(3, 3, 3)).verdict == "unsure"
    assert judged(outcomes(0, 0, 0), outcomes(30, 30, 30)).verdict == "more"


@pytest.mark.parametrize("of", [3, 200])
@pytest.mark.parametrize("runs", [3, 5])
@pytest.mark.parametrize("usual", [0.02, 0.2])
def test_shares_that_differ_between_runs_are_seldom_called_more(usual, runs, of):
    """As often failing on both sides, but not in each run: at most one of twenty comparisons is wrong."""
    chance, wrong = random.Random(41), 0

    def side():
        shares = [chance.betavariate(2, 2 / usual - 2) for _ in range(runs)]
        return outcomes(*(sum(chance.random() < share for _ in range(of)) for share in shares), of=of)

    for _ in range(400):
        base, seen = side(), side()
        wrong += any(change.regression for change in changes(base, seen))
    assert wrong <= 0.05 * 400


def raising(raised, took):
    """Runs in which so many of a hundred calls of ``pay`` raised, and all of them took so many seconds."""
    found = []
    for run in range(5):
        resource = {"service.name": "orders", "service.instance.id": f"{run}"}
        time = (run + 1) * 10**12
        totals = {"pay": [100, took, took], "find": [100, 1.0, 1.0]}
        found += said(totals, time, resource, 80e6)
        of = {"code.function.name": "pay"}
        found.append(Point("perf.call.errors", "{error}", time, raised, 1, of, "test", resource))
    return Samples((), found)


def test_functions_that_raise_sooner_are_not_faster():
    def verdicts(found):
        return {change.name: (change.verdict, change.judged) for change in found.functions}

    found = compare(raising(0, 1.0), raising(50, 0.55))
    assert verdicts(found) == {"pay": ("unsure", False), "find": ("same", True)}
    assert [(failures.what, failures.name, failures.verdict) for failures in found.failures] == [
        ("function", "pay", "more")
    ]
    back = compare(raising(50, 0.55), raising(0, 1.0))  # mended: not slower either
    assert verdicts(back)["pay"] == ("unsure", False)
    assert back.regressions() == []
    assert verdicts(compare(raising(50, 0.5), raising(50, 1.0)))["pay"] == ("slower", True)


def test_why_the_time_of_a_function_is_not_judged_is_said():
    """It had runs and calls enough: that is not why."""
    before, after = (
        SimpleNamespace(name=name, samples=raising(raised, 1.0), bottlenecks=[])
        for name, raised in (("base", 0), ("seen", 50))
    )
    *_, said_last = comparison.render(comparison.compared(before, after), top=5).splitlines()
    assert said_last.startswith("Not judged: 1 with fewer than 3 runs")
    assert said_last.endswith("or the time of functions of which another share of calls raised.")
