"""A function's source as what follows values through it asks for: paths, bindings, calls and shared objects."""

from __future__ import annotations

import ast
import builtins
import re
from typing import TYPE_CHECKING, Final, TypeAlias, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Path: TypeAlias = tuple[str, ...]  # ("self", "user", "[0]"): a name, then its attributes and subscripts

NO, MAYBE, SURE = 0, 1, 2  # how surely the first call's value is in something, or decided about it

_ALONE: Final = re.compile(  # objects that serve one call at a time
    r"conn|curs|session|database|(^|[\W_])(db|cur|tx|trx|request|ctx|context|state)([\W_]|$)|transaction|pipe|lock|sock"
    r"|reader|writer|stream|channel|uow|unit_of_work",
    re.IGNORECASE,
)
_SHARED: Final = re.compile(r"client|http|stub|pool", re.IGNORECASE)  # objects that serve many
_KINDRED: Final = re.compile(r"repo|dao([\W_]|$)|store|gateway", re.IGNORECASE)  # different ones may share a session
WRITE: Final = re.compile(
    r"_*(post|put|patch|delete|remove|create|insert|update|upsert|save|store|write|set|add|send|publish|push|enqueue"
    r"|execute|commit|rollback|flush|begin|start|open|connect|acquire|release|lock|login|auth|register|init|setup|charge"
    r"|pay|book|reserve|cancel|close|mark|run|call|perform|process|handle|apply|pop|next|receive|recv|read|sleep|wait)"
    r"(_|$|[A-Z])"
)
_CALLERS: Final = frozenset({"to_thread", "partial", "run_in_executor", "submit", "sync_to_async", "run_sync"})
OBSERVERS: Final = frozenset(
    {
        "debug",
        "info",
        "warning",
        "error",
        "exception",
        "log",
        "print",
        "observe",
        "record",
        "inc",
        "increment",
        "set_attribute",
        "set_attributes",
        "add_event",
    }
)
COLLECTORS: Final = frozenset(
    {"append", "appendleft", "add", "extend", "update", "insert", "setdefault", "discard", "sort", "reverse"}
)
NEVER_IO: Final = frozenset(dir(builtins)) - {"open", "input", "exec", "eval"}

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_SCOPES: Final = (*_FUNCTIONS, ast.ClassDef)
COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def path_of(node: ast.AST | None) -> Path | None:
    """`self.users[0].name` as a path; None for what is no chain from a name."""
    if isinstance(node, ast.Name):
        return (node.id,)
    if isinstance(node, ast.Attribute):
        return (*base, node.attr) if (base := path_of(node.value)) else None
    if isinstance(node, ast.Subscript):
        index = node.slice.operand if isinstance(node.slice, ast.UnaryOp) else node.slice
        key = f"[{ast.unparse(node.slice)}]" if isinstance(index, ast.Constant) else "[*]"
        return (*base, key) if (base := path_of(node.value)) else None
    return None


def walk(*nodes: ast.AST | None) -> Iterator[ast.AST]:
    """Every node that runs with these: nested functions' bodies do not."""
    for node in nodes:
        if node is not None:
            yield node
            if not isinstance(node, _SCOPES):
                yield from walk(*ast.iter_child_nodes(node))


def names_in(*targets: ast.AST | None) -> set[str]:
    """The names that targets bind."""
    return {node.id for node in walk(*targets) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def bindings(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Each target in these nodes with what it is bound to or made from."""
    for node in nodes:
        match node:
            case ast.Assign(targets=targets, value=value):
                yield from ((target, value) for target in targets)
            case (
                ast.AnnAssign(target=target, value=ast.expr() as value)
                | ast.AugAssign(target=target, value=value)
                | ast.NamedExpr(target=target, value=value)
                | ast.For(target=target, iter=value)
                | ast.AsyncFor(target=target, iter=value)
                | ast.comprehension(target=target, iter=value)
                | ast.withitem(optional_vars=ast.expr() as target, context_expr=value)
            ):
                yield target, value


def headers(statement: ast.stmt) -> list[ast.AST]:
    """What of a statement runs before its blocks; all of one without blocks."""
    match statement:
        case ast.If(test=test) | ast.While(test=test):
            return [test]
        case ast.For(iter=iterable) | ast.AsyncFor(iter=iterable):
            return [iterable]
        case ast.With(items=items) | ast.AsyncWith(items=items):
            return [item.context_expr for item in items]
        case ast.Match(subject=subject):
            return [subject]
        case ast.Try() | ast.TryStar() | ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return []
    return [statement]


def callee(node: ast.AST) -> str:
    """The last name of what is called, "" for no call."""
    node = node.value if isinstance(node, ast.Await) else node
    path = path_of(node.func if isinstance(node, ast.Call) else None)
    if path is None and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr
    return path[-1] if path else ""


class Source:
    """A function's tree and what walks over it ask for. Read-only once made, so that threads share it."""

    def __init__(self, function: Function, free: Iterable[str]) -> None:
        self.function = function
        self.parents = {id(child): node for node in ast.walk(function) for child in ast.iter_child_nodes(node)}
        every, own = list(ast.walk(function)), list(walk(*function.body))
        arguments = [node for node in every if isinstance(node, ast.arg)]
        declared = {name for node in own if isinstance(node, ast.Global) for name in node.names}
        self.outer = declared.union(*(node.names for node in own if isinstance(node, ast.Nonlocal)))
        """Names that other functions see too."""
        nested = [node for node in every[1:] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        self.local = {
            *free,
            *(node.id for node in every if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)),
            *(node.arg for node in arguments),
            *(node.name for node in nested),
        }
        self.local -= declared
        self.loaded = {node.id for node in every if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        self.objects = {
            path[0] for node in every if isinstance(node, ast.Attribute | ast.Subscript) and (path := path_of(node))
        }
        """Names whose attributes or items are used, so no plain values."""
        self.closures: dict[str, ast.AST] = {node.name: node for node in nested}
        self.words = {node.arg: ast.unparse(node.annotation) for node in arguments if node.annotation}
        self._holders: dict[str, set[str]] = {}
        for target, value in bindings(every):
            self._bind(target, value)

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        """Learn what `target` may hold or be another name of, and the class that it is made of."""
        made = callee(value)
        if isinstance(target, ast.Name) and made[:1].isupper():
            self.words[target.id] = made
        if isinstance(target, ast.Name) and any(isinstance(node, ast.Lambda) for node in ast.walk(value)):
            self.closures[target.id] = value
        if made in NEVER_IO or isinstance(value, ast.Constant | ast.JoinedStr | ast.BinOp | ast.Compare):
            return  # a new object
        made_from = {path[0] for path in self.reads(value)}
        targets = {path[0] for node in walk(target) if (path := path_of(node))}
        made_from, targets = (
            {name for name in names if not self.serves_many((name,))} for names in (made_from, targets)
        )
        for name in made_from:
            self._holders.setdefault(name, set()).update(targets)
        for name in targets if isinstance(target, ast.Name | ast.Tuple | ast.List) else ():
            self._holders.setdefault(name, set()).update(made_from)

    def holders(self, name: str) -> set[str]:
        """Names through which a change of this name's object may be seen."""
        found, ahead = set[str](), [name]
        while ahead:
            new = self._holders.get(ahead.pop(), set()) - found
            found |= new
            ahead.extend(new)
        return found - {name}

    def reads(self, node: ast.AST, hidden: frozenset[str] = frozenset()) -> set[Path]:
        """What the node's value is made from; a method call reads its object, a closure's name what that captures."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            parts: list[ast.AST] = [node.func.value, *node.args, *node.keywords]
            return set[Path]().union(*(self.reads(part, hidden) for part in parts))
        found: set[Path] = set()
        path = path_of(node)
        if path:
            if path[0] in hidden or (isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)):
                return found
            found.add(path)
            if path[0] in self.closures:
                found |= self.reads(self.closures[path[0]], hidden | {path[0]})
            indexes = [part.slice for part in ast.walk(node) if isinstance(part, ast.Subscript)]
            return found.union(*(self.reads(index, hidden) for index in indexes))
        if isinstance(node, COMPREHENSIONS):
            found |= self.reads(node.generators[0].iter, hidden)
            hidden |= names_in(*(generator.target for generator in node.generators))
        elif isinstance(node, _FUNCTIONS):
            every = node.args.args + node.args.posonlyargs + node.args.kwonlyargs
            hidden |= {argument.arg for argument in every}
        return found.union(*(self.reads(child, hidden) for child in ast.iter_child_nodes(node)))

    def needed(self, node: ast.AST) -> set[Path]:
        """What a call reads, and what decides in its own statement whether and with what it runs."""
        found = self.reads(node)
        for inner, bound, outer in self._deciding(node):
            found = found.union(*(self.reads(part) for part in inner))
            found = {path for path in found if path[0] not in bound}.union(*(self.reads(part) for part in outer))
        return found

    def guards(self, node: ast.AST) -> list[ast.expr]:
        """The expressions of the node's own statement that decide whether and with what it runs."""
        return [part for inner, _, outer in self._deciding(node) for part in (*inner, *outer)]

    def _deciding(self, node: ast.AST) -> Iterator[tuple[list[ast.expr], set[str], list[ast.expr]]]:
        """From the inside out: what decides, the names that a comprehension binds for it, what is outside of those."""
        for child, parent in self.climb(node):
            if isinstance(parent, ast.IfExp) and child is not parent.test:
                yield [], set(), [parent.test]
            elif isinstance(parent, ast.BoolOp):
                yield [], set(), parent.values[: position(parent.values, child)]
            elif isinstance(parent, ast.Compare) and position(parent.comparators, child) > 0:
                yield [], set(), [parent.left, *parent.comparators[: position(parent.comparators, child)]]
            elif isinstance(parent, COMPREHENSIONS):
                rounds, tests = parent.generators, list[ast.expr]()
                if isinstance(child, ast.comprehension):
                    rounds = rounds[: position(rounds, child)]
                    if not any(part is node for part in ast.walk(child.iter)):
                        rounds, tests = [*rounds, child], child.ifs
                if rounds:
                    tests = [*tests, *(test for one in rounds for test in one.ifs), *(one.iter for one in rounds[1:])]
                    yield tests, names_in(*(one.target for one in rounds)), [rounds[0].iter]

    def climb(self, node: ast.AST) -> Iterator[tuple[ast.AST, ast.AST]]:
        """Each node around this one with its own parent, up to the function."""
        while node is not self.function:
            yield node, self.parents[id(node)]
            node = self.parents[id(node)]

    def serves_many(self, path: Path) -> bool:
        """Whether two calls can use the object at the same time, as far as its names and its class say."""
        words = self._words(path)
        return not _ALONE.search(words) and (path[0] not in self.local or bool(_SHARED.search(words)))

    def changed(self, *nodes: ast.AST) -> Iterator[tuple[Path, bool]]:
        """What the calls in the nodes, and in closures that they use, may change; whether it is a call's own object."""
        ahead, seen = list(nodes), set[str]()
        while ahead:
            node = ahead.pop()
            inside: list[ast.AST] = [node]
            own = set[str]()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = list(node.body)
                own = names_in(*inside) | {argument.arg for argument in node.args.args}
                own -= {name for part in walk(*inside) if isinstance(part, ast.Nonlocal) for name in part.names}
                for path in (
                    path_of(part) for part in walk(*inside) if isinstance(getattr(part, "ctx", None), ast.Store)
                ):
                    if path and path[0] not in own:
                        yield (path[:-1] or path), True
            elif isinstance(node, ast.Lambda):
                inside, own = [node.body], {argument.arg for argument in node.args.args}
            for part in walk(*inside):
                if isinstance(part, ast.Lambda):
                    ahead.append(part)
                elif isinstance(part, ast.Name) and part.id in self.closures and part.id not in seen:
                    seen.add(part.id)
                    ahead.append(self.closures[part.id])
                elif isinstance(part, ast.Call):
                    yield from ((path, is_own) for path, is_own in self._touched(part) if path[0] not in own)

    def _touched(self, call: ast.Call) -> Iterator[tuple[Path, bool]]:
        parts: list[tuple[ast.AST, bool]] = [(call.func.value, True)] if isinstance(call.func, ast.Attribute) else []
        for argument in (*call.args, *call.keywords):
            part = argument.value if isinstance(argument, ast.keyword | ast.Starred) else argument
            if isinstance(part, ast.Attribute) and callee(call) in _CALLERS:
                parts.append((part.value, True))
            elif isinstance(part, ast.Name | ast.Attribute):
                parts.append((part, False))
        for path, is_own in ((path, is_own) for part, is_own in parts if (path := path_of(part))):
            alone = [index for index, word in enumerate(path) if _ALONE.search(self._words((word,)))]
            if alone and not self.serves_many(path[: alone[0] + 1]):
                yield path[: alone[0] + 1], True  # session.users and session.orders share the session
            elif not self.serves_many(path) and (is_own or (len(path) == 1 and path[0] in self.objects)):
                yield path, is_own

    def _words(self, path: Path) -> str:
        """The path and the class of its first name, as far as the function says it."""
        return " ".join((*path, self.words.get(path[0], ""))).replace("ClientSession", "Client")  # aiohttp's

    def is_effect(self, call: ast.AST) -> bool:
        """Whether the call stands for itself: nobody takes its value, or only to call a method of it for nothing."""
        for child, parent in self.climb(call):
            if isinstance(parent, ast.Expr):
                return True
            if (isinstance(parent, ast.Call) and child is not parent.func) or not isinstance(
                parent, ast.Call | ast.Await | ast.Attribute
            ):
                return False
        return False

    def has_kin(self, *calls: ast.AST) -> bool:
        """Whether a call is to an object of those that share one session."""
        return any(_KINDRED.search(self._words(path)) for call in calls for path in self.reads(call))

    def is_in_loop(self, line: int) -> bool:
        """Whether a loop or comprehension spans `line`."""
        return any(
            isinstance(node, (ast.For, ast.AsyncFor, ast.While, *COMPREHENSIONS))
            and node.lineno <= line <= (node.end_lineno or 0)
            for node in ast.walk(self.function)
        )

    def calls_at(self, line: int) -> Site | None:
        """The statement at the line with the calls in it that may take the time; None for none, or for several."""
        parts = [
            (statement, part)
            for statement in walk(*self.function.body)
            if isinstance(statement, ast.stmt) and (parts := headers(statement))
            if statement.lineno <= line <= max(getattr(part, "end_lineno", 0) for part in parts)
            for part in parts
        ]
        calls = [(statement, node) for statement, part in parts for node in walk(part) if self._may_wait(node)]
        awaits = [(statement, call) for statement, call in calls if isinstance(call, ast.Await)]
        chosen: list[tuple[ast.stmt, ast.expr]] = []
        for test in (_starts, _covers, _anywhere):
            for some in (awaits, calls):
                chosen = chosen or [(statement, call) for statement, call in some if test(call, line)]
        if not chosen:  # an attribute or a loop can take time too
            values = [(statement, getattr(part, "value", part)) for statement, part in parts]
            chosen = [(statement, value) for statement, value in values if isinstance(value, ast.expr)]
        if len({id(statement) for statement, _ in chosen}) != 1:
            return None
        return chosen[0][0], [call for _, call in chosen]

    def _may_wait(self, node: ast.AST) -> TypeGuard[ast.expr]:
        if isinstance(node, ast.Call):
            return not isinstance(self.parents[id(node)], ast.Await) and (
                not isinstance(node.func, ast.Name) or node.func.id in self.local or node.func.id not in NEVER_IO
            )
        return isinstance(node, ast.Await)


def position(nodes: Sequence[ast.AST], node: ast.AST) -> int:
    """The index of this very node, -1 without it."""
    return next((index for index, other in enumerate(nodes) if other is node), -1)


def _starts(node: ast.expr, line: int) -> bool:
    """Whether a frame in this call is at the line: a method call's is where the method's name ends."""
    call = node.value if isinstance(node, ast.Await) else node
    return line in {node.lineno, call.func.end_lineno if isinstance(call, ast.Call) else 0}


def _anywhere(node: ast.expr, line: int) -> bool:  # noqa: ARG001
    return True


def _covers(node: ast.expr, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or 0)


Site: TypeAlias = tuple[ast.stmt, list[ast.expr]]  # a statement, and the calls in it that may be meant


def captures(pattern: ast.pattern) -> set[str]:
    """The names that a pattern binds."""
    return {
        name
        for node in ast.walk(pattern)
        for name in (getattr(node, "name", None), getattr(node, "rest", None))
        if name
    }
