"""Every instant of the root is on the path once, whatever the tree looks like."""

import time
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_perf.core.critical_path import Visit, critical_path


@dataclass(eq=False)
class Node:
    name: str
    start: int
    end: int
    children: list["Node"] = field(default_factory=list)


def path(root: Node) -> list[Visit[Node]]:
    return critical_path(root, lambda node: node.children)


def own(root: Node) -> dict[str, list[tuple[int, int]]]:
    return {visit.node.name: visit.own for visit in path(root)}


def test_calls_one_after_the_other_are_all_on_the_path():
    """GIVEN two calls in sequence THEN the parent has the time before, between and after them."""
    root = Node("root", 0, 100, [Node("a", 10, 30), Node("b", 40, 90)])
    assert own(root) == {"root": [(0, 10), (30, 40), (90, 100)], "a": [(10, 30)], "b": [(40, 90)]}


def test_of_parallel_calls_the_last_to_finish_is_on_the_path():
    root = Node("root", 0, 100, [Node("slow", 10, 90), Node("fast", 10, 50), Node("first", 0, 10)])
    assert own(root) == {"root": [(90, 100)], "first": [(0, 10)], "slow": [(10, 90)]}


def test_a_child_is_clipped_to_what_its_parent_has_left():
    """GIVEN a call that outlives its parent, whose own child does too THEN both end where the parent ends."""
    late = Node("late", 60, 200, [Node("later", 80, 300), Node("outside", 110, 120)])
    root = Node("root", 0, 100, [late, Node("early", -50, 20)])
    assert own(root) == {"root": [(20, 60)], "early": [(0, 20)], "late": [(60, 80)], "later": [(80, 100)]}


def test_the_root_comes_first_then_subtrees_in_the_order_of_time():
    root = Node("root", 0, 100, [Node("b", 50, 90, [Node("b1", 60, 70)]), Node("a", 0, 50, [Node("a1", 5, 6)])])
    assert [visit.node.name for visit in path(root)] == ["root", "a", "a1", "b", "b1"]


def test_of_equal_ends_the_longer_is_taken_and_of_twins_the_first():
    root = Node("root", 0, 10, [Node("short", 8, 10), Node("long", 2, 10), Node("twin", 2, 10)])
    assert set(own(root)) == {"root", "long"}


def test_empty_and_negative_intervals_are_not_on_the_path():
    assert own(Node("root", 0, 10, [Node("empty", 5, 5), Node("backwards", 8, 2)])) == {"root": [(0, 10)]}
    assert own(Node("root", 10, 0, [Node("child", 2, 5)])) == {"root": []}
    assert path(Node("root", 3, 3))[0].exclusive == 0


def test_cycles_end():
    """GIVEN nodes that contain themselves and each other THEN each is visited once."""
    root, child = Node("root", 0, 10), Node("child", 2, 8)
    root.children = [root, child, child]
    child.children = [child, root]
    assert own(root) == {"root": [(0, 2), (8, 10)], "child": [(2, 8)]}


@pytest.mark.parametrize("shape", ["wide", "parallel", "deep"])
def test_a_hundred_thousand_nodes_are_walked_within_seconds(shape):
    count = 100_000
    root = Node("root", 0, 2 * count)
    if shape == "wide":
        root.children = [Node("child", 2 * i, 2 * i + 1) for i in range(count)]
    elif shape == "parallel":
        root.children = [Node("child", i, 2 * count - i) for i in range(count)]
    else:
        node = root
        for i in range(1, count):
            node.children = [Node("child", i, 2 * count - i)]
            node = node.children[0]
    began = time.process_time()
    visits = path(root)
    assert sum(visit.exclusive for visit in visits) == 2 * count
    assert time.process_time() - began < 5


times = st.integers(-20, 60)


@st.composite
def graphs(draw: st.DrawFn) -> Node:
    """Up to 12 nodes, any times, any edges, so cycles and shared nodes too."""
    nodes = [Node(str(i), draw(times), draw(times)) for i in range(draw(st.integers(1, 12)))]
    for node in nodes:
        node.children = draw(st.lists(st.sampled_from(nodes), max_size=6))
    return nodes[0]


@settings(max_examples=400)
@given(graphs())
def test_the_own_pieces_are_the_root(root):
    """Together they are the root's interval: no gap, no overlap; each node once and inside its parent."""
    visits = path(root)
    pieces = sorted(piece for visit in visits for piece in visit.own)
    assert all(start < end for start, end in pieces)
    assert all(before[1] == after[0] for before, after in pairwise(pieces))
    assert sum(end - start for start, end in pieces) == max(0, root.end - root.start)
    assert len({id(visit.node) for visit in visits}) == len(visits)
    for visit in visits:
        assert visit.own == sorted(visit.own)
        assert all(visit.start <= start and end <= visit.end for start, end in visit.own)
