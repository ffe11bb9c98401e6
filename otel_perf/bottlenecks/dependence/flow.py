"""What is known about the first call's value on the ways that lead from it."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_perf.bottlenecks.dependence.source import Path

Loop: TypeAlias = ast.For | ast.AsyncFor | ast.While

NO: Final = 0  # how surely the first call's value is in something, or decided about it
MAYBE: Final = 1
SURE: Final = 2

_ANY: Final = frozenset({"[*]", "[+]", "~"})  # an unknown item, any item of a collection, anything that it holds


@dataclass(slots=True)
class Flow:
    """What is known on one way from the first call to here; no flow (None) is a way without it, or one that ended."""

    taint: dict[Path, int] = field(default_factory=dict)
    """How surely the first's value is in each."""
    guard: int = NO
    """How surely it decided that this way is taken."""
    left: dict[str, int] = field(default_factory=dict)
    """The same for ways that were left by a return or raise ("exit"), "break" or "continue"."""
    rounds: tuple[Loop, ...] = ()
    """Loops that began another round since."""

    def split(self, level: int = NO) -> Flow:
        """A copy that goes into a branch decided at `level`."""
        return replace(self, taint=dict(self.taint), left=dict(self.left), guard=max(self.guard, level))

    def level(self, paths: Iterable[Path], *, items: bool = False, content: int = SURE) -> int:
        """How surely the value is in one of the paths; at most `content` where it is in something that the path holds.

        `items` asks for the items of a collection as it is listed, not for what they hold.
        """
        level = NO
        for path in paths:
            for tainted, sure in self.taint.items():
                if tainted[0] != path[0]:
                    continue
                pairs = list(zip(path, tainted, strict=False))
                if any(one != other and not _ANY & {one, other} for one, other in pairs):
                    continue
                rest = tainted[len(path) :]
                if items and rest[:1] == ("~",):
                    continue
                exact = not any({"[*]", "~"} & {*pair} for pair in pairs) and (not rest or rest[0][0] == "[")
                # Another index, or an object that has the value somewhere, only may be it.
                level = max(level, min(sure, SURE if exact else MAYBE, content if rest else SURE))
        return level

    def mark(self, path: Path, level: int, holders: Iterable[str] = ()) -> None:
        """Add the value to what the path is; names that may hold or be the same object may have it too ("~")."""
        if level:
            self.taint[path] = max(level, self.taint.get(path, NO))
            for other in holders:
                self.taint.setdefault((other, "~"), MAYBE)

    def doubt(self, level: int = MAYBE) -> None:
        """From here on the first call may decide about what follows."""
        self.left["exit"] = max(self.left.get("exit", NO), level)

    @property
    def decided(self) -> int:
        """How surely the first's value decides about what runs here."""
        return max(self.guard, *self.left.values(), NO)


def join(*flows: Flow | None) -> Flow | None:
    """Where ways meet: a value that is in a name on some of them only may be in it."""
    ways = [flow for flow in flows if flow]
    if not ways:
        return None
    names = {path for way in ways for path in way.taint}
    return Flow(
        {path: _common([way.taint.get(path, NO) for way in ways]) for path in names},
        min(way.guard for way in ways),
        most(*(way.left for way in ways)),
        tuple({id(loop): loop for way in ways for loop in way.rounds}.values()),
    )


def _common(levels: list[int]) -> int:
    return levels[0] if len(set(levels)) == 1 else MAYBE


def most(*levels: dict[str, int]) -> dict[str, int]:
    """The highest level of each kind."""
    return {kind: max(some.get(kind, NO) for some in levels) for kind in {kind for some in levels for kind in some}}


def again(head: Flow | None, back: Flow | None) -> Flow | None:
    """A loop's head, as if it went round at least once: what the body put into a name is there."""
    flow = join(head, back)
    if head and back and flow:
        flow.taint.update(back.taint)
    return flow
