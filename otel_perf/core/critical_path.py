"""The critical path of a tree of intervals: which of them the end of the root waited for.

The rule is CRISP's (Zhang et al., "CRISP: Critical Path Analysis of Large-Scale Microservice Architectures",
USENIX ATC 2022). Children are clipped to their parent, since clocks differ and work outlives the call that started it.
From the parent's end backwards, the child that finished last is on the path, then the last one that had finished when
that one started, and so on; each of them is walked in the same way. What no child covers is the parent's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Interval(Protocol):
    """What has a start and an end, both in ns on one clock."""

    @property
    def start(self) -> int:
        """When it began (ns)."""

    @property
    def end(self) -> int:
        """When it ended (ns)."""


N = TypeVar("N", bound=Interval)


@dataclass(slots=True)
class Visit(Generic[N]):
    """One node on the path: its interval inside its parent's (ns), and the pieces that no child on the path has."""

    node: N
    start: int
    end: int
    own: list[tuple[int, int]] = field(default_factory=list)
    """Disjoint, not empty, earliest first (ns)."""

    @property
    def exclusive(self) -> int:
        """The time (ns) that the path spends in the node itself."""
        return sum(end - start for start, end in self.own)


def critical_path(root: N, children: Callable[[N], Sequence[N]]) -> list[Visit[N]]:
    """The visits of the path, the root first, then each subtree in the order of time.

    All `own` pieces together are the root's interval, exactly; a root that ends before it starts has none.
    `children` is called once for each node on the path. Children that are empty once clipped to their parent are not
    on the path. Of two that end together, the one that started first is; then the one that `children` gives first.
    A node is taken once, by its identity, so a cycle ends. No recursion; O(n log n).
    """
    path: list[Visit[N]] = []
    taken = {id(root)}  # of nodes that `ahead` or `path` keep alive, so that no id is used twice
    ahead = [Visit(root, root.start, max(root.start, root.end))]
    while ahead:
        visit = ahead.pop()
        path.append(visit)
        clipped = [
            (start, end, child)
            for child in children(visit.node)
            if (start := max(child.start, visit.start)) < (end := min(child.end, visit.end))
        ]
        clipped.sort(key=_last_finisher)
        reached = visit.end  # the path from here to the parent's end is known
        for start, end, child in clipped:
            if end > reached or id(child) in taken:
                continue
            taken.add(id(child))
            if end < reached:
                visit.own.append((end, reached))
            ahead.append(Visit(child, start, end))
            reached = start
        if visit.start < reached:
            visit.own.append((visit.start, reached))
        visit.own.reverse()
    return path


def _last_finisher(clipped: tuple[int, int, object]) -> tuple[int, int]:
    start, end, _ = clipped
    return -end, start
