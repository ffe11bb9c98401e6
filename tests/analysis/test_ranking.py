"""The service that is slower than in the baseline comes first, wherever the time is seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_perf.analysis.ranking import Profile, by_trace, rank
from otel_perf.analysis.sources import Span

MS = 10**6


def shop(number, *, cart=10, network=2, stock=2, front=5):
    """One trace (times in ms): the front end calls the cart, then the stock, each over the network."""
    trace = f"t{number}"
    at = front
    spans = []
    for service, own, gap in (("cart", cart, network), ("stock", 10, stock)):
        end = at + own + 2 * gap
        spans += [
            Span(trace, f"to {service}", "root", "front", "GET", at * MS, end * MS),
            Span(trace, service, f"to {service}", service, "serve", (at + gap) * MS, (end - gap) * MS),
        ]
        at = end
    return [Span(trace, "root", "none", "front", "page", 0, at * MS), *spans]


def profile(*traces):
    return Profile(traces)


@pytest.fixture
def baseline():
    return profile(*(shop(i, cart=10 + i % 3) for i in range(40)))


def names(ranking):
    return [row.service for row in ranking.services]


def test_without_a_baseline_the_time_on_the_critical_path_ranks():
    ranking = rank(profile(shop(1), shop(2, cart=30)))
    assert [(row.service, row.traces, round(row.score, 6)) for row in ranking.services] == [
        ("cart", 2, 0.040),
        ("front", 2, 0.026),
        ("stock", 2, 0.020),
    ]
    worst = ranking.operations[0]
    assert (worst.name, worst.visits, worst.usual, worst.slowest, worst.slowest_trace) == ("serve", 2, 0, 0.030, "t2")
    assert (ranking.traces, ranking.spans, ranking.baseline_traces) == (2, 10, 0)


def test_a_service_that_works_longer_comes_first():
    """GIVEN a front end with more time of its own than the cart THEN the cart is first, for it has more than it had."""
    usual = profile(*(shop(i, front=500) for i in range(40)))
    ranking = rank(profile(*(shop(i, front=500, cart=40) for i in range(9))), usual)
    assert names(ranking) == ["cart"]
    (row,) = ranking.operations
    assert (row.culprit, row.above) == ("cart", 1.0)
    assert row.usual == pytest.approx(0.010)
    assert row.score == pytest.approx(0.030)


def test_nothing_is_ranked_where_nothing_is_slower(baseline):
    ranking = rank(profile(shop(1)), baseline)
    assert (ranking.services, ranking.operations, ranking.unknown) == ([], [], 0)


def test_a_slow_network_counts_for_the_endpoint_whose_calls_are_all_slow(baseline):
    assert names(rank(profile(*(shop(i, network=50) for i in range(9))), baseline)) == ["cart"]
    both = rank(profile(*(shop(i, network=50, stock=50) for i in range(9))), baseline)
    assert set(names(both)) == {"cart", "stock"}, "of equal shares the one that answers"


def desk(trace):
    """One trace in which the desk asks the cart, then the stock, with hardly a delay."""
    spans = [Span(trace, "desk", "none", "desk", "ask", 0, 20 * MS)]
    for at, callee in ((0, "cart"), (10, "stock")):
        spans += [
            Span(trace, f"to {callee}", "desk", "desk", "GET", at * MS, (at + 8) * MS),
            Span(trace, callee, f"to {callee}", callee, "serve", (at + 1) * MS, (at + 7) * MS),
        ]
    return spans


def test_a_caller_whose_calls_are_slow_wherever_they_go_is_the_culprit():
    """GIVEN services that answer the desk without delay THEN the front end, slow towards both, is the culprit."""
    usual = profile(*(shop(i) for i in range(40)), *(desk(f"d{i}") for i in range(40)))
    seen = profile(*(shop(i, network=50, stock=50) for i in range(9)), *(desk(f"d{i}") for i in range(60)))
    assert names(rank(seen, usual)) == ["front"]


def test_what_is_called_seldom_counts_by_the_traces_it_is_in():
    """GIVEN 8 ms more in all of 40 traces, and 50 in each of two that ask the clerk THEN the clerk is first."""

    def clerk(number, took):
        return [Span(f"c{number}", "a", "", "clerk", "sign", 0, took * MS)]

    usual = profile(*(shop(i) for i in range(40)), *(clerk(i, 10) for i in range(20)))
    seen = profile(*(shop(i, cart=18) for i in range(40)), *(clerk(i, 60) for i in range(2)))
    assert names(rank(seen, usual)) == ["clerk", "cart"]


def test_a_lone_outlier_weighs_less_than_a_lasting_shift(baseline):
    ranking = rank(profile(*(shop(i, cart=30) for i in range(19)), shop(19, front=300)), baseline)
    assert names(ranking)[0] == "cart"
    assert "front" not in names(ranking), "one of twenty above a p95 is what chance gives"


def test_operations_that_the_baseline_does_not_have_are_counted_and_not_judged(baseline):
    new = Span("n", "a", "", "front", "new page", 0, 900 * MS)
    ranking = rank(profile([new], shop(1)), baseline)
    assert (names(ranking), ranking.unknown) == ([], 1)


def test_only_the_top_rows_are_given():
    ranking = rank(profile(shop(1)), top=1)
    assert (len(ranking.services), len(ranking.operations)) == (1, 1)


def test_spans_delivered_twice_count_once_and_cycles_end():
    spans = shop(1)
    assert rank(profile([*spans, *spans])).services == rank(profile(spans)).services
    ring = [Span("r", "a", "b", "x", "f", 0, 5), Span("r", "b", "a", "x", "g", 0, 5)]
    assert rank(profile(ring)).services == []


def test_spans_of_a_trace_may_come_in_any_order_between_others():
    mixed = [span for pair in zip(shop(1), reversed(shop(2)), strict=True) for span in pair]
    assert rank(Profile(by_trace(mixed))).services == rank(profile(shop(1), shop(2))).services


ids = st.sampled_from("abcdefgh")


@given(st.lists(st.tuples(ids, ids, st.sampled_from("xyz"), st.integers(0, 50), st.integers(0, 50)), min_size=1))
def test_no_more_time_is_given_out_than_the_trace_took(found):
    """GIVEN any spans with any parents THEN the services share at most the time from the first start to the last end."""
    spans = [Span("t", span, parent, service, "f", start, end) for span, parent, service, start, end in found]
    ranking = rank(profile(spans))
    longest = max(0, max(span.end for span in spans) - min(span.start for span in spans))
    assert sum(row.self_time for row in ranking.services) <= longest / 1e9 + 1e-12
