"""The walk over a function that follows the first call's value to the second."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from otel_perf.bottlenecks.dependence.flow import MAYBE, NO, SURE, Flow, Loop, again, join, most
from otel_perf.bottlenecks.dependence.source import (
    COLLECTORS,
    COMPREHENSIONS,
    OBSERVERS,
    WRITE,
    bindings,
    callee,
    captures,
    headers,
    names_in,
    path_of,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_perf.bottlenecks.dependence.source import Path, Site, Source


class Walk:
    """One walk over one function for one pair of calls."""

    def __init__(self, source: Source, first: Site, second: Site, order: int) -> None:
        self.source = source
        self.first_statement, self.first = first
        self.second_statement, self.second = second
        self.around = {id(part) for call in self.first for pair in source.climb(call) for part in pair}
        self.read: dict[int, set[Path]] = {}
        self.found: set[int] = set()
        self.births = 0
        self.left: dict[str, int] = {}  # ways that ended inside branches, until those meet
        self.loops: list[dict[str, list[Flow | None]]] = []  # flows at break and continue
        self.order = order  # the least of every answer

    def run(self) -> set[int]:
        """How surely the second call depends on the first, for each way from one to the other."""
        self._in_one_statement()
        self._block(self.source.function.body, None)
        return self.found

    def _found(self, level: int) -> None:
        self.found.add(max(level, self.order))

    def _in_one_statement(self) -> None:
        """Pairs within the statement, and the rounds of its comprehensions."""
        if self.first_statement is not self.second_statement:
            return
        for first in self.first:
            for second in self.second:
                flow = Flow()
                self._evaluate(headers(self.first_statement), flow)
                if first is second:
                    self._comprehension(first, flow)
                elif _inside(first, second) or any(_inside(first, guard) for guard in self.source.guards(second)):
                    self._found(SURE)
                elif _place(first) < _place(second) and not any(
                    _inside(second, node) for node in (first, *self.source.guards(first))
                ):
                    self._found(flow.level(self.source.needed(second)))

    def _comprehension(self, call: ast.AST, flow: Flow) -> None:
        around = [(child, node) for child, node in self.source.climb(call) if isinstance(node, COMPREHENSIONS)]
        if not around or (around[0][1].generators[0] is around[0][0] and not around[0][0].ifs):
            return
        rounds = around[0][1].generators
        names = names_in(*(one.target for one in rounds))
        level = flow.level(self.source.needed(call))
        if isinstance(around[0][1], ast.GeneratorExp) or any(one.is_async for one in rounds):
            level = max(level, MAYBE)  # who consumes it may stop, and what it asks may wait
        if not any(path[0] in names for path in self.source.reads(call)):
            level = max(level, MAYBE)  # the same question again
        self._found(level)

    def _block(self, statements: Iterable[ast.stmt], flow: Flow | None) -> Flow | None:
        for statement in statements:
            if MAYBE in self.found or len(self.found) > 1:
                return None  # nothing can make it known
            if flow is None and id(statement) not in self.around:
                continue  # no first call in it
            flow = self._statement(statement, self._meet_calls(statement, flow))
        return flow

    def _meet_calls(self, statement: ast.stmt, flow: Flow | None) -> Flow | None:
        """End the flow at the second call, and start one at the first."""
        if statement is self.second_statement and flow:
            ahead = flow.split()
            self._evaluate(headers(statement), ahead)  # a walrus may come before the call
            for call in self.second:
                self._found(max(ahead.level(self.source.needed(call)), self._decided(call, flow)))
            flow = None
        if statement is not self.first_statement:
            return flow
        if statement is self.second_statement and self.first != self.second:
            last, start = max(map(_place, self.first)), min(map(_place, self.second))
            if last < start:
                return None  # the second call is over when the statement is
        self.births += 1
        flow = Flow()
        for path, is_own in self.source.changed(*self.first):
            flow.mark(path, MAYBE, self.source.holders(path[0]) if is_own else ())
        return flow

    def _decided(self, call: ast.AST, flow: Flow) -> int:
        """How surely the first call decides about this one, but for the values that reach it."""
        level = flow.decided
        seen = any(
            path[0] in self.source.outer or path[0] not in self.source.local
            for path, sure in flow.taint.items() if sure == SURE or len(path) > 1
        )  # fmt: skip
        if seen or (flow.rounds and not self._new_round(call, flow.rounds)):
            level = max(level, MAYBE)
        return level

    def _new_round(self, call: ast.AST, rounds: tuple[Loop, ...]) -> bool:
        """Whether each round asks for another item of what was there before; polling and streams do not."""
        if not all(isinstance(loop, ast.For) for loop in rounds):
            return False
        made = [
            (names_in(target), self.source.reads(value))
            for loop in rounds
            for target, value in bindings(walk(*loop.body))
        ]
        names = names_in(*(loop.target for loop in rounds if isinstance(loop, ast.For)))
        for _ in made:
            names = names.union(*(targets for targets, paths in made if any(path[0] in names for path in paths)))
        return any(path[0] in names for path in self.source.needed(call))

    def _assign(self, target: ast.AST | None, level: int, flow: Flow | None, value: ast.AST | None = None) -> None:
        if flow is None or target is None:
            return
        if isinstance(target, ast.Tuple | ast.List):
            values = value.elts if isinstance(value, ast.Tuple | ast.List) else []
            paired = len(values) == len(target.elts) and not any(
                isinstance(one, ast.Starred) for one in (*values, *target.elts)
            )
            before = flow.split()
            for index, part in enumerate(target.elts):
                one = values[index] if paired else None
                self._assign(part, self._value(one, before) if one else level, flow, one)
            return
        target = target.value if isinstance(target, ast.Starred) else target
        keys = [part.slice for part in ast.walk(target) if isinstance(part, ast.Subscript)]
        level = max(level, flow.decided, *(self._value(key, flow) for key in keys))
        path = path_of(target)
        if path is None:
            flow.doubt(min(level, MAYBE))  # into an object without a name
            return
        for old in [old for old in flow.taint if old[: len(path)] == path and "[*]" not in path]:
            del flow.taint[old]
        flow.mark(path, level, self.source.holders(path[0]) if len(path) > 1 else ())

    def _value(self, node: ast.AST, flow: Flow) -> int:
        """How surely the first's value is in what the node gives."""
        parts: list[ast.expr] = []
        match node:
            case ast.BoolOp(values=values):
                parts = values
            case ast.UnaryOp(operand=operand):
                parts = [operand]
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn()], comparators=[right]) if path_of(right):
                return max(self._value(left, flow), flow.level(self._reads(right), content=MAYBE))
            case ast.Compare(left=left, comparators=others):
                parts = [left, *others]
            case ast.Call(func=ast.Name(id="len"), args=[value]) if path_of(value):
                return flow.level(self._reads(value), content=MAYBE)
        if parts:
            return max(self._value(part, flow) for part in parts)
        return SURE if id(node) in self.around else flow.level(self._reads(node))

    def _reads(self, node: ast.AST) -> set[Path]:
        if id(node) not in self.read:
            self.read[id(node)] = self.source.reads(node)
        return self.read[id(node)]

    def _evaluate(self, nodes: Iterable[ast.AST], flow: Flow | None) -> int:
        """The level of what the nodes give, after what their calls, yields and := do."""
        if flow is None:
            return NO
        nodes = list(nodes)
        for node in walk(*nodes):
            if isinstance(node, ast.NamedExpr):
                self._assign(node.target, self._value(node.value, flow), flow)
            elif isinstance(node, ast.Yield | ast.YieldFrom):
                flow.doubt()  # anything may run meanwhile
            elif isinstance(node, ast.Call):
                self._call(node, flow)
        return max((self._value(node, flow) for node in nodes), default=NO)

    def _call(self, call: ast.Call, flow: Flow) -> None:
        """A call with the value may leave it in its object and in its arguments; a collection's does."""
        if (name := callee(call)) in OBSERVERS:
            return
        level = max((self._value(part, flow) for part in (*call.args, *call.keywords)), default=NO)
        own = path_of(call.func.value) if isinstance(call.func, ast.Attribute) else None
        collects, effect = own and name in COLLECTORS, self.source.is_effect(call)
        if not collects and (effect or (level and WRITE.match(name))):
            flow.doubt()  # a check that raises, an order that is kept, or a state that others read
        if effect:
            level = max(level, flow.decided)
        if level:
            for path, is_own in self.source.changed(call):
                flow.mark(path, MAYBE, self.source.holders(path[0]) if is_own else ())
        if own and (collects or own[0] in self.source.local):
            holders = self.source.holders(own[0])
            flow.mark((*own, "[+]") if collects else own, level if collects else min(level, MAYBE), holders)

    def _statement(self, node: ast.stmt, flow: Flow | None) -> Flow | None:  # noqa: C901, PLR0911, PLR0912  one case a kind
        match node:
            case ast.If():
                level = self._evaluate([node.test], flow)
                ways = [self._block(body, flow and flow.split(level)) for body in (node.body, node.orelse)]
                return self._meet(flow, *ways)
            case ast.For() | ast.AsyncFor() | ast.While():
                return self._loop(node, flow)
            case ast.Try() | ast.TryStar():
                return self._try(node, flow)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self._assign(item.optional_vars, self._evaluate([item.context_expr], flow), flow)
                inside = min(MAYBE, self._evaluate(headers(node), flow))  # a lock that is held, a context that is set
                return self._meet(flow, self._block(node.body, flow and flow.split(inside)))
            case ast.Match():
                level = self._evaluate([node.subject], flow)
                ways = [flow and flow.split(level)]
                for case in node.cases:
                    way = flow and flow.split(level)
                    for name in captures(case.pattern):
                        self._assign(ast.Name(name, ast.Store()), level, way)
                    guard = self._evaluate([case.guard] if case.guard else [], way)
                    ways.append(self._block(case.body, way and way.split(guard)))
                return self._meet(flow, *ways)
            case ast.Return() | ast.Raise():
                self._leave("exit", flow)
                return None
            case ast.Break() | ast.Continue():
                kind = "break" if isinstance(node, ast.Break) else "continue"
                self.loops[-1][kind].append(flow)
                self._leave(f"{kind}{len(self.loops)}", flow)
                return None
        if flow is None:
            return None
        level = self._evaluate([node], flow)
        match node:
            case ast.Assign(targets=targets, value=value):
                level = self._value(value, flow)
                for target in targets:
                    self._assign(target, level, flow, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, self._value(value, flow), flow)
            case ast.AugAssign(target=target, value=value):
                old = path_of(target)
                self._assign(target, max(self._value(value, flow), flow.level([old] if old else [])), flow)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                self._assign(ast.Name(name, ast.Store()), level, flow)
            case ast.Delete(targets=targets):
                for target in targets:
                    self._assign(target, NO, flow)  # the key may be the value
            case ast.Assert():
                flow.doubt(level)
        return flow

    def _leave(self, kind: str, flow: Flow | None) -> None:
        if flow:
            self.left[kind] = max(self.left.get(kind, NO), flow.guard)

    def _meet(self, before: Flow | None, *ways: Flow | None) -> Flow | None:
        """Where branches meet, what decided between them decides no more, unless one of them left."""
        flow = join(*ways)
        if flow:
            flow.guard = min(flow.guard, before.guard if before else NO)
            flow.left = most(flow.left, self.left)
            self.left = {}
        return flow

    def _loop(self, node: Loop, flow: Flow | None) -> Flow | None:
        ends: dict[str, list[Flow | None]] = {"break": [], "continue": []}
        self.loops.append(ends)
        depth = len(self.loops)
        head = flow
        for turn in range(3):
            if turn and not isinstance(node, ast.For):
                head = self._meet_calls(node, head)
            if isinstance(node, ast.While):
                level = self._evaluate([node.test], head)
                way = head and head.split(level)
            else:
                level = self._items(node, head)
                way = head and head.split(level)
                self._assign(node.target, level, way)
            back = join(self._block(node.body, way), *ends["continue"])
            ends["continue"].clear()
            if back:
                back.left = {
                    kind: sure for kind, sure in most(back.left, self.left).items() if kind != f"continue{depth}"
                }
                back.rounds = (*back.rounds, node)
            before, head = head, again(head, back)
            if head == before:
                break
        self.loops.pop()
        forever = isinstance(node, ast.While) and isinstance(node.test, ast.Constant) and node.test.value
        flow = join(None if forever else self._block(node.orelse, head), *ends["break"])
        mine = {f"break{depth}", f"continue{depth}"}
        self.left = {kind: sure for kind, sure in self.left.items() if kind not in mine}
        if flow:
            flow.left = {kind: sure for kind, sure in most(flow.left, self.left).items() if kind not in mine}
            self.left = {}
            flow.rounds = tuple(loop for loop in flow.rounds if loop is not node)
        return flow

    def _items(self, node: ast.For | ast.AsyncFor, flow: Flow | None) -> int:
        if flow is None:
            return NO
        level = self._evaluate([node.iter], flow)
        return level if level == SURE else flow.level(self._reads(node.iter), items=True)

    def _try(self, node: ast.Try | ast.TryStar, flow: Flow | None) -> Flow | None:
        births, outer, self.left = self.births, self.left, {}
        body = self._block(node.body, flow and flow.split())
        born = self.births > births
        failed: Flow | None = None
        if born:  # a handler runs because the first call failed
            failed = Flow(dict(body.taint) if body else {}, SURE)
        elif flow:
            uses = max(flow.level(self._reads(part)) for part in node.body)
            failed = join(flow, body)
            failed = failed and failed.split(min(uses, MAYBE))
        direct, self.left = self.left, {}
        handled = []
        for handler in node.handlers:
            way = failed and failed.split()
            if handler.name:
                self._assign(ast.Name(handler.name, ast.Store()), SURE if born else NO, way)
            handled.append(self._block(handler.body, way))
        # That a failure ends the function holds without the handler too, so it may not be meant as a condition.
        caught = {kind: min(sure, MAYBE) for kind, sure in self.left.items()}
        self.left = most(outer, direct, caught)
        rest = self._block(node.orelse, body and body.split(MAYBE if born and node.orelse else NO))
        if rest and body:
            rest.guard = min(rest.guard, body.guard)
        flow = join(rest, *handled)
        last = flow.split(MAYBE) if flow else Flow(guard=MAYBE) if born else None
        if node.finalbody:
            last = self._block(node.finalbody, last)
            if flow and last:
                last.guard = min(last.guard, flow.guard)
            flow = last if flow else None
        if flow:
            flow.left = most(flow.left, self.left)
            self.left = {}
        return flow


def _inside(node: ast.AST, other: ast.AST) -> bool:
    return any(part is node for part in ast.walk(other))


def _place(node: ast.expr) -> tuple[int, int]:
    return node.lineno, node.col_offset
