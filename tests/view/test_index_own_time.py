"""A span's own time is the report's, in whatever order and place its children come."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_perf.analysis import index_spans
from otel_perf.analysis.summary import summarize
from otel_perf.store.database import StoreReader
from tests.view.test_index import build, one_span, put, rows

BEGIN = 10**18
ROOT, CHILD = b"root".ljust(8), b"child".ljust(8)


def root(**more):
    return one_span(sid=ROOT, name="root", took=1000, **more)


def child(begin=100, took=900, name="child", sid=CHILD, **more):
    return one_span(sid=sid, parent=ROOT, name=name, start=BEGIN + begin, took=took, **more)


def own(path):
    """Own time by operation, in ns, as the page adds it up."""
    found = rows(
        path,
        "SELECT value, width, sum(self) FROM op_slot JOIN operation ON operation.id = op JOIN text ON text.id = name"
        " GROUP BY 1, 2",
    )
    by_width = [{name: took for name, width, took in found if width == wanted} for wanted in (60, 3600)]
    assert by_width[0] == by_width[1]
    return by_width[0]


def reported(home):
    reader = StoreReader(home)
    try:
        return {row.name: row.self_time * 1e9 for row in summarize(reader, top=1000).operations}
    finally:
        reader.close()


def test_a_child_of_a_later_batch_counts(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", root())
    build(path, home)
    put(home, "traces", child())
    build(path, home)
    assert own(path) == pytest.approx(reported(home)) == {"root": 100, "child": 900}


def test_children_at_the_same_time_count_once_also_when_they_come_late(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", child(begin=0, took=300))
    put(home, "traces", root())
    for begin, took in ((200, 200), (350, 100), (900, 500), (2000, 50)):
        build(path, home)
        put(home, "traces", child(begin, took, sid=begin.to_bytes(8)))
    build(path, home)
    assert own(path) == pytest.approx(reported(home))
    assert own(path)["root"] == 450


def test_a_child_that_came_before_the_index_was_closed_counts(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", child())
    build(path, home)
    put(home, "traces", root())
    build(path, home)
    assert own(path) == {"root": 100, "child": 900}


@pytest.mark.parametrize("is_first", [True, False], ids=["child first", "parent first"])
def test_a_child_of_another_store_counts(tmp_path, is_first):
    first, second, path = tmp_path / "a", tmp_path / "b", tmp_path / "index.db"
    put(first, "traces", child(service="payment") if is_first else root())
    put(second, "traces", root() if is_first else child(service="payment"))
    build(path, first, second)
    assert own(path) == {"root": 100, "child": 900}


def test_a_batch_that_is_no_otlp_between_a_child_and_its_parent_changes_nothing(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", child())
    put(home, "traces", b"\xff\xffno protobuf")
    put(home, "traces", root())
    build(path, home)
    assert own(path) == {"root": 100, "child": 900}


def test_a_span_may_have_thousands_of_children(tmp_path):
    home, path = tmp_path / "home", tmp_path / "index.db"
    request = one_span(sid=ROOT, name="root", took=10**6)
    spans = request.resource_spans[0].scope_spans[0].spans
    for number in range(3_000):
        span = spans.add()
        span.CopyFrom(
            child(begin=number * 300, took=300, sid=(number + 1).to_bytes(8)).resource_spans[0].scope_spans[0].spans[0]
        )
    put(home, "traces", request, items=3_001)
    build(path, home)
    assert own(path)["root"] == 100_000


def test_parents_that_never_come_cost_no_memory_and_no_truth(tmp_path, monkeypatch):
    """GIVEN more children that wait than are kept WHEN a parent comes after all THEN its children are read back."""
    monkeypatch.setattr(index_spans, "WAITING", 10)
    monkeypatch.setattr("otel_perf.analysis.index.PIECE", 1)
    home, path = tmp_path / "home", tmp_path / "index.db"
    put(home, "traces", child())
    for number in range(40):
        put(home, "traces", one_span(tid=number.to_bytes(16), sid=number.to_bytes(8), parent=b"nowhere!", name="lost"))
    put(home, "traces", root())
    build(path, home)
    assert own(path)["root"] == 100


SPAN = st.tuples(st.integers(0, 30), st.integers(0, 1000), st.integers(0, 1000))  # parent, begin, duration


@settings(max_examples=25, deadline=None)
@given(
    spans=st.lists(SPAN, min_size=1, max_size=30),
    size=st.integers(1, 8),
    ends=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_own_time_is_the_reports_in_any_order(tmp_path_factory, spans, size, ends, seed):
    """GIVEN trees of spans in any order in batches WHEN the index is built in pieces THEN it says what the report says."""
    folder = tmp_path_factory.mktemp("order")
    home, path = folder / "home", folder / "index.db"
    chance = random.Random(seed)
    made = []
    for number, (parent, begin, took) in enumerate(spans, 1):
        above = parent % number  # one of those before, or none
        made.append(
            one_span(sid=number.to_bytes(8), parent=above.to_bytes(8) if above else b"", name=f"work {number % 4}",
                     start=BEGIN + begin, took=took)
        )  # fmt: skip
    chance.shuffle(made)
    for at in range(0, len(made), size):
        request = ExportTraceServiceRequest()
        for one in made[at : at + size]:
            request.resource_spans.extend(one.resource_spans)
        put(home, "traces", request, items=len(request.resource_spans))
        if at // size % ends == 0:
            build(path, home)
    build(path, home)
    assert own(path) == pytest.approx(reported(home), abs=1e-3)
