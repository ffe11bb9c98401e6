"""Detectors claim pieces of the critical path: no time twice, and never more than there is."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace as api
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks.baseline import Baselines
from otel_perf.bottlenecks.claims import merged
from otel_perf.bottlenecks.root import Root, Work
from otel_perf.bottlenecks.trace import Surroundings, Trace, clients

INTERNAL, CLIENT = SpanKind.INTERNAL, SpanKind.CLIENT


class Tree:
    """A local root made by hand: spans with times of small numbers."""

    def __init__(self, start, end):
        self.numbers = itertools.count(1)
        self.root = Root(1, 1, INTERNAL, start, 1, None)
        self.top = next(self.numbers)
        self._top = self._span(self.top, None, "root", INTERNAL, start, end)

    def _span(self, number, parent, name, kind, start, end):
        return ReadableSpan(
            name, api.SpanContext(1, number, is_remote=False),
            parent=None if parent is None else api.SpanContext(1, parent, is_remote=False),
            kind=kind, start_time=start, end_time=end,
        )  # fmt: skip

    def add(self, start, end, parent=1, name="child", kind=INTERNAL, thread=1, awaits=False):
        number = next(self.numbers)
        self.root.ended.append((self._span(number, parent, name, kind, start, end), thread, awaits))
        return number

    def work(self, submitted, started, ended, thread=2, span_id=1, submitter=1):
        made = Work(self.root, span_id, "a pool", submitted, submitter)
        made.started, made.ended, made.thread = started, ended, thread
        if self.root.works is None:
            self.root.works = []
        self.root.works.append(made)
        return made

    def trace(self):
        self.root.open = False
        self.root.ended.append((self._top, 1, False))
        return Trace(self.root, Baselines(), Surroundings())


def names(record):
    return {child.name for child in record.children}


def test_time_can_be_claimed_once():
    tree = Tree(0, 100)
    tree.add(10, 40, name="a")
    tree.add(50, 90, name="b")
    trace = tree.trace()
    assert trace.measure([(0, 100)]) == 100
    assert trace.measure([(20, 60)], lambda record: record.name == "a") == 20
    assert trace.claim([(20, 60)], lambda record: record.name == "a") == 20
    assert trace.claim([(20, 60)]) == 20
    assert trace.claim([(20, 60)]) == 0
    assert trace.measure([(0, 100)]) == 60
    assert trace.claim([(0, 30), (10, 100), (5, 6)]) == 60
    assert trace.free == []


def test_time_can_be_taken_by_its_amount():
    tree = Tree(0, 100)
    tree.add(10, 40, name="a")
    trace = tree.trace()
    assert trace.take(25, lambda record: record.name == "a") == 25
    assert trace.take(25, lambda record: record.name == "a") == 5
    assert trace.take(25, lambda record: record.name == "a") == 0
    assert trace.measure([(0, 100)]) == 70


def test_time_off_the_path_is_nobodys():
    """GIVEN two calls at once THEN only the one that the root waited for counts."""
    tree = Tree(0, 100)
    tree.add(0, 50, name="short", thread=2)
    tree.add(0, 100, name="long", thread=3)
    trace = tree.trace()
    assert trace.measure([(0, 100)], lambda record: record.name == "short") == 0
    assert trace.owner([(0, 100)]).name == "long"


def test_who_has_the_most_of_some_time():
    tree = Tree(0, 100)
    tree.add(10, 40, name="a")
    trace = tree.trace()
    assert trace.owner([(0, 45)]).name == "a"
    assert trace.owner([(0, 5)]).name == "root"
    assert trace.owner([(200, 300)]) is None


def test_what_a_pool_ran_is_put_where_it_was_handed_over_with_the_spans_that_began_in_it():
    tree = Tree(0, 100)
    tree.work(10, 20, 80)
    tree.add(30, 60, name="inside", thread=2)
    tree.add(82, 90, name="after", thread=2)
    trace = tree.trace()
    (work,) = (child for child in trace.top.children if child.work is not None)
    assert (work.start, work.end) == (10, 80)
    assert names(work) == {"inside"}
    assert "after" in names(trace.top)


def test_work_that_work_hands_over_is_below_it():
    tree = Tree(0, 100)
    tree.work(0, 10, 90, thread=2)
    tree.work(20, 30, 80, thread=3, submitter=2)
    tree.add(40, 50, name="leaf", thread=3)
    trace = tree.trace()
    (outer,) = trace.top.children
    (inner,) = outer.children
    assert (inner.start, inner.end) == (20, 80)
    assert names(inner) == {"leaf"}


def test_work_that_a_span_in_work_hands_over_is_below_that_span():
    """GIVEN a handler in a thread, with a span of its own, that waits for a pool THEN that wait is not its own time."""
    tree = Tree(0, 100)
    tree.work(0, 5, 95, thread=2)
    step = tree.add(6, 94, name="step", thread=2)
    tree.work(20, 30, 80, thread=3, submitter=2, span_id=step)
    tree.add(40, 70, parent=step, name="leaf", kind=CLIENT, thread=3)
    trace = tree.trace()
    (outer,) = trace.top.children
    assert names(outer) == {"step"}
    (inner,) = outer.children[0].children
    assert (inner.start, inner.end, names(inner)) == (20, 80, {"leaf"})
    handler = trace.activities[0]
    assert sum(piece.end - piece.start for piece in trace.pieces(handler.has)) == 35


@pytest.mark.parametrize("ended", [0, 300])
def test_work_that_outlives_its_root_is_no_longer_than_it(ended):
    tree = Tree(0, 100)
    tree.work(50, 60, ended)
    trace = tree.trace()
    assert trace.measure([(0, 1_000)]) == 100


def test_a_drivers_call_inside_that_of_an_orm_is_the_same_call():
    """SQLAlchemy's instrumentor does not make its span the current one: both are children of the same span."""
    tree = Tree(0, 100)
    tree.add(10, 50, name="SELECT db", kind=CLIENT)
    tree.add(15, 45, name="SELECT", kind=CLIENT)
    tree.add(60, 70, name="next", kind=CLIENT)
    tree.add(62, 66, name="elsewhere", kind=CLIENT, thread=2)
    trace = tree.trace()
    assert names(trace.top) == {"SELECT db", "next", "elsewhere"}
    assert {call.name for call in clients(trace.top)} == {"SELECT db", "next", "elsewhere"}


def test_calls_that_overlap_are_not_put_into_each_other():
    tree = Tree(0, 100)
    tree.add(10, 50, name="a", kind=CLIENT)
    tree.add(40, 60, name="b", kind=CLIENT)
    assert names(tree.trace().top) == {"a", "b"}


def test_a_child_whose_parent_was_not_kept_is_the_roots():
    tree = Tree(0, 100)
    tree.add(10, 50, parent=999, name="orphan")
    assert names(tree.trace().top) == {"orphan"}


def test_what_was_only_counted_is_one_record_and_the_trace_says_that_it_is_truncated():
    tree = Tree(0, 100)
    for start in range(0, 50, 10):
        span = tree._span(900 + start, 1, "query", CLIENT, start, start + 4)
        tree.root.count(span)
    trace = tree.trace()
    (query,) = trace.top.children
    assert trace.truncated
    assert (query.count, query.busy, query.start, query.end) == (5, 20, 0, 44)


def test_merged_intervals_are_disjoint_and_in_order():
    assert merged([(5, 7), (0, 2), (1, 3), (3, 4), (9, 8), (6, 6)]) == [(0, 4), (5, 7)]
    assert merged([]) == []


times = st.integers(-20, 120)
intervals = st.lists(st.tuples(times, times), max_size=5)


@st.composite
def trees(draw):
    tree = Tree(draw(st.integers(0, 20)), draw(st.integers(20, 100)))
    made = [1]
    for _ in range(draw(st.integers(0, 14))):
        made.append(
            tree.add(
                draw(times), draw(times), parent=draw(st.sampled_from(made)), name=draw(st.sampled_from("abc")),
                kind=draw(st.sampled_from([INTERNAL, CLIENT])), thread=draw(st.integers(1, 3)), awaits=draw(st.booleans()),
            )
        )  # fmt: skip
    for _ in range(draw(st.integers(0, 4))):
        submitted, started, ended = sorted(draw(st.tuples(times, times, times)))
        tree.work(
            submitted, draw(st.sampled_from([0, started])), draw(st.sampled_from([0, ended])),
            thread=draw(st.integers(1, 3)), span_id=draw(st.sampled_from(made)), submitter=draw(st.integers(1, 3)),
        )  # fmt: skip
    return tree


claims = st.lists(
    st.tuples(
        st.sampled_from(["claim", "take"]), intervals, st.integers(0, 60), st.sampled_from([None, "a", "b", "root"])
    ),
    max_size=12,
)


@settings(max_examples=120, deadline=None)
@given(trees(), claims)
def test_all_claims_together_are_never_more_than_the_root(tree, made):
    """For any tree and any claims: what is claimed and what is left are the root's time, and no instant is in both."""
    trace = tree.trace()
    total = 0
    assert sum(piece.end - piece.start for piece in trace.free) == trace.duration
    for kind, wanted, amount, name in made:
        accept = None if name is None else lambda record, name=name: record.name == name
        if kind == "claim":
            expected = trace.measure(wanted, accept)
            got = trace.claim(wanted, accept)
            assert got == expected
            assert trace.measure(wanted, accept) == 0
        else:
            got = trace.take(amount, accept or (lambda record: True))
            assert 0 <= got <= amount
        total += got
        left = sorted((piece.start, piece.end) for piece in trace.free)
        assert all(start < end for start, end in left)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(left))
        assert total + sum(end - start for start, end in left) == trace.duration
    assert total <= trace.duration


@settings(max_examples=40, deadline=None)
@given(trees())
def test_every_span_is_in_the_tree_once(tree):
    spans = len(tree.root.ended) + 1
    trace = tree.trace()
    assert len({id(record) for record in trace.records}) == len(trace.records) == spans + len(trace.works)


def test_what_began_at_the_same_instant_is_in_the_tree_once():
    """GIVEN a span and two works that hand one another over, by a clock too coarse to tell which was first"""
    tree = Tree(0, 20)
    within = tree.add(0, 0)
    tree.work(0, 0, 1, span_id=within)
    tree.work(0, 0, 1, thread=1, submitter=2)
    assert len(tree.trace().records) == 4
