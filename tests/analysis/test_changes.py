"""What is claimed to have changed has changed, on a machine whose speed changes by itself."""

import random
from dataclasses import replace

from otel_perf.analysis.changes import compare
from otel_perf.analysis.samples import PERIOD, Samples
from tests.analysis.noise import ROOT, STEPS, Machine, sides

PAIRS, RUNS = 20, 5


def changes(base, seen):
    return {change.name: change for change in compare(Samples(base), Samples(seen))}


def claimed(base, seen, verdict="slower"):
    return {name for name, change in changes(base, seen).items() if change.verdict == verdict}


def test_nothing_is_claimed_where_nothing_has_changed():
    made = [sides(random.Random(seed), RUNS) for seed in range(PAIRS)]
    assert [claimed(*pair) | claimed(*pair, "faster") for pair in made] == [set()] * PAIRS


def test_what_takes_30_percent_longer_is_found_and_nothing_else():
    found, others = 0, set()
    for seed in range(PAIRS):
        slow = list(STEPS)[seed % len(STEPS)]
        said = claimed(*sides(random.Random(100 + seed), RUNS, slow, 1.3))
        found += slow in said
        others |= said - {slow, ROOT}  # the root is really slower with its step
    assert found >= 0.9 * PAIRS
    assert others == set()


def test_what_takes_10_percent_longer_makes_nothing_else_slower():
    said = set()
    for seed in range(PAIRS):
        slow = list(STEPS)[seed % len(STEPS)]
        said |= claimed(*sides(random.Random(200 + seed), RUNS, slow, 1.1)) - {slow, ROOT}
    assert said == set()


def test_faster_is_slower_seen_from_the_other_side():
    base, seen = sides(random.Random(1), RUNS, "price", 1.5)
    there, back = changes(base, seen)["price"], changes(seen, base)["price"]
    assert (there.verdict, back.verdict) == ("slower", "faster")
    assert 0.3 < there.surely < 0.5
    assert -0.4 < back.surely < -0.2
    assert (there.base, there.seen) == (back.seen, back.base)


def test_a_change_of_everything_is_a_change_and_no_state_of_the_machine():
    chance = random.Random(2)
    machine = Machine(chance)
    base, seen = [], []
    for _ in range(RUNS):
        base += machine.run()
        seen += [replace(span, end=span.start + 3 * (span.end - span.start)) for span in machine.run()]
    assert claimed(base, seen) >= set(STEPS)


def test_half_of_the_operations_made_faster_do_not_make_the_others_slower():
    chance = random.Random(3)
    machine, base, seen = Machine(chance), [], []
    for _ in range(RUNS):
        base += machine.run()
        seen += [
            replace(span, end=span.start + (span.end - span.start) // 2)
            if span.name in {"parse", "find", "price"}
            else span
            for span in machine.run()
        ]
    assert claimed(base, seen) == set()


def test_two_runs_are_too_few_to_be_sure_of_anything():
    found = changes(*sides(random.Random(4), 2, "price", 3.0))["price"]
    assert (found.verdict, found.chance, found.surely) == ("unsure", None, None)
    assert found.change > 1


def test_processes_that_live_at_once_are_one_run():
    """The workers of a server share the machine: they are no independent runs."""
    machine = Machine(random.Random(5))
    spans = list(machine.run())
    workers = [
        replace(span, resource={**span.resource, "service.instance.id": str(number % 4)})
        for number, span in enumerate(spans)
    ]
    assert len(Samples(workers).runs) == 1
    assert len(Samples([*spans, *machine.run()]).runs) == 2


def test_a_long_run_counts_as_several_and_claims_no_more():
    """Two runs of an hour on a machine that changes over minutes: its periods are not independent."""
    for seed in range(6):
        machine = Machine(random.Random(300 + seed))
        base, seen = (list(machine.run(orders=1200, pause=3.0)) for _ in range(2))
        assert Samples(base).runs[0].periods > 3600 / PERIOD - 2
        assert claimed(base, seen) == set()


def test_a_long_run_can_be_sure_of_what_is_far_slower():
    machine = Machine(random.Random(6))
    base, seen = list(machine.run(orders=800, pause=3.0)), list(machine.run("fetch", 2.0, orders=800, pause=3.0))
    assert claimed(base, seen) >= {"fetch"}


def test_a_step_that_is_slower_is_slower_by_itself_and_its_parent_is_not():
    found = changes(*sides(random.Random(7), RUNS, "price", 4.0))
    assert found["price"].own > 0.9
    assert found[ROOT].verdict == "slower"
    assert found[ROOT].own < 0.2
    assert next(iter(found)) == "price"  # the cause before what it makes slow


def test_operations_of_one_side_are_new_or_gone():
    base, seen = sides(random.Random(8), RUNS)
    found = changes([span for span in base if span.name != "pay"], [span for span in seen if span.name != "find"])
    assert (found["pay"].verdict, found["find"].verdict) == ("new", "gone")


def test_what_takes_no_time_is_not_judged():
    """Microseconds are what a span itself takes."""
    machine, base, seen = Machine(random.Random(9)), [], []
    for side, took in ((base, 10_000), (seen, 30_000)) * RUNS:
        side += [replace(span, end=span.start + took) for span in machine.run() if span.name == "pay"]
    assert changes(base, seen)["pay"].verdict == "same"
