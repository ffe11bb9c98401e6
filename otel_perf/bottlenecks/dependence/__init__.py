"""Whether the second of two calls in one function may need what the first one gave, from the function's source.

A walk over the syntax tree follows the value of the first call (Denning & Denning, "Certification of Programs for
Secure Information Flow", CACM 1977: explicit flows through assignments, implicit ones through branches). It starts anew
at each first call and ends at each second one; loops are walked up to three times: a value meets the next round.

A value that surely reaches the second call makes it dependent. What the code cannot tell makes it unknown: order that
may be kept for an effect (a discarded value, a write), an object that both calls use and that may serve one at a time
(a session, a connection), a block that both are in and that may be a transaction or a lock, code of others in between.
Names of objects and methods are evidence for "unknown" only, but for one: a local object named or annotated as a
client, a stub or a pool may serve two calls at once, as may a module's global, which all requests share already.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import re
import sys
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from tokenize import TokenError
from typing import TYPE_CHECKING, Final

from otel_perf.bottlenecks import frames
from otel_perf.bottlenecks.dependence.flow import MAYBE, NO, SURE
from otel_perf.bottlenecks.dependence.source import NEVER_IO, WRITE, Source, callee, names_in, path_of, walk
from otel_perf.bottlenecks.dependence.walker import Walk
from otel_perf.bottlenecks.place import DEPTH
from otel_perf.core.guard import Guard

if TYPE_CHECKING:
    from types import CodeType

    from otel_perf.bottlenecks.dependence.source import Function, Site

_WRITING_SQL: Final = re.compile(
    r"\s*(insert|update|delete|merge|replace|create|drop|alter|begin|commit)\b", re.IGNORECASE
)
_HARMLESS_BLOCK: Final = re.compile(
    r"(get|post|put|patch|head|options|request|urlopen|open)$|client|timeout|span|suppress|timer|profile|monitor",
    re.IGNORECASE,
)


class Dependence(Enum):
    """Whether a second call may need the first one's answer."""

    INDEPENDENT = "independent"
    """No value, branch or shared object leads from the first to the second."""
    DEPENDENT = "dependent"
    """The first's value reaches the second, or decides whether it runs."""
    UNKNOWN = "unknown"
    """The code does not tell, or there is no code."""


_guard = Guard("bottlenecks.dependence")


class _BusyError(Exception):
    """The app is parsing code: ask again later."""


def between(code: CodeType, first_line: int, second_line: int) -> Dependence:
    """Whether the call at `second_line` may depend on the one at `first_line`, neighbours in one frame of `code`.

    Lines are the frame's `f_lineno` during each call; equal lines are two rounds of a loop or two calls of a line.
    Cost: the first question about a function parses its source (5 ms for 50 lines), the first about a pair of lines
    walks the tree (some ms; 50 ms for 100 lines of nested loops), one that was asked before takes 3 µs. 256 functions
    and 1,024 answers are kept. So ask where findings are made, not in a request.
    Thread-safe. Never raises: no source, source that is not what was compiled, lambdas and generator expressions
    are `UNKNOWN`.
    """
    with _guard, suppress(_BusyError):
        return _decide(code, code.co_filename, first_line, second_line)
    return Dependence.UNKNOWN


def may_repeat(code: CodeType, line: int) -> bool:
    """Whether `line` can be reached twice in one call of `code`: it is in a loop, or there is no source to tell.

    Cost and safety as of :func:`between`.
    """
    with _guard, suppress(_BusyError):
        try:
            source = _source(code, code.co_filename)
        except (SyntaxError, TokenError, ValueError, RecursionError, MemoryError):
            return True
        return source is None or source.is_in_loop(line)
    return True


@lru_cache(maxsize=1024)
def _decide(code: CodeType, filename: str, first_line: int, second_line: int) -> Dependence:
    try:
        source = _source(code, filename)
        first, second = (source and source.calls_at(line) for line in (first_line, second_line))
        levels = set[int]()
        if source and first and second:
            levels = Walk(source, first, second, MAYBE if _order_matters(source, first, second) else NO).run()
    except (SyntaxError, TokenError, ValueError, RecursionError, MemoryError):
        return Dependence.UNKNOWN  # no Python, or a tree too deep
    if levels == {NO}:
        return Dependence.INDEPENDENT
    return Dependence.DEPENDENT if levels == {SURE} else Dependence.UNKNOWN


@lru_cache(maxsize=256)
def _source(code: CodeType, filename: str) -> Source | None:
    """The function that `code` is, or is a comprehension of; the file is in the key since equal code ignores it."""
    lines = linecache.getlines(filename)
    start = code.co_firstlineno
    path = [part for part in code.co_qualname.split(".") if part not in {"<listcomp>", "<setcomp>", "<dictcomp>"}]
    owner = [part for part in path if part != "<locals>"][-1:]
    if path[-1:] == ["<locals>"]:  # up to 3.11 a comprehension has code of its own, and no def
        while 0 < start <= len(lines) and not re.match(rf"\s*(async\s+)?def\s+{owner[0]}\b", lines[start - 1]):
            start -= 1
    if not (0 < start <= len(lines) and owner and owner[0].isidentifier()):
        return None
    text = "".join(inspect.getblock(lines[start - 1 :]))
    tree = _parse(f"if 1:\n{text}" if text[:1].isspace() else f"\n{text}")
    ast.increment_lineno(tree, start - 2)
    top = tree.body[0]
    function = top.body[0] if isinstance(top, ast.If) else top
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or function.name != owner[0]:
        return None
    return Source(function, code.co_freevars) if _compiled_from(function, code) else None


def _parse(text: str) -> ast.Module:
    # Before 3.11.8 (gh-106905) a parse that finds place in the midst of another thread's makes that one fail.
    if sys.version_info < (3, 11, 8) and any(
        {code for code, _, _ in stack} & _PARSING == {ast.parse.__code__} for stack in frames.threads(DEPTH).values()
    ):
        raise _BusyError
    try:
        return ast.parse(text)
    except SystemError as error:  # it was ours that failed
        raise _BusyError from error


_PARSING: Final = {ast.parse.__code__, _parse.__code__}


def _compiled_from(function: Function, code: CodeType) -> bool:
    """Whether the names and lines of `code` are the function's; a file that was changed since often differs here."""
    names: set[str] = set()
    lines: set[int] = set()
    for node in ast.walk(function):
        for _, value in ast.iter_fields(node):
            names.update(
                item.partition(".")[0]
                for item in (value if isinstance(value, list) else [value])
                if isinstance(item, str)
            )
        lines.update((getattr(node, "lineno", 0), getattr(node, "end_lineno", 0)))
    used = (*code.co_names, *code.co_varnames, *code.co_freevars)
    return (
        all(name in names for name in used if name.isidentifier() and "__" not in name)  # a.__b is a._Class__b there
        and {line for *_, line in code.co_lines() if line} <= lines
    )


def _order_matters(source: Source, *sites: Site) -> bool:
    """Whether the order of two calls may be for an effect, or inside of a block that calls must not leave."""
    for statement, calls in sites:
        if _unused(source, statement) or any(source.is_effect(call) for call in calls):
            return True
        for call in calls:
            if not isinstance(call.value if isinstance(call, ast.Await) else call, ast.Call):
                return True  # a task that runs already, an attribute that asks a database
            for node in walk(call):
                if isinstance(node, ast.Call) and callee(node) not in NEVER_IO and WRITE.match(callee(node)):
                    return True
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and _WRITING_SQL.match(node.value):
                    return True
    statement, calls = sites[0]
    around = [statement, *(node for _, node in source.climb(statement))]
    items = [item for node in around if isinstance(node, ast.With | ast.AsyncWith) for item in node.items]
    return not all(_harmless(item) for item in items) or all(source.has_kin(*calls) for _, calls in sites)


def _unused(source: Source, statement: ast.stmt) -> bool:
    """Whether nothing in the function looks at what the statement binds."""
    match statement:
        case ast.Assign(targets=targets):
            bound = targets
        case ast.AnnAssign(target=target):
            bound = [target]
        case ast.With(items=items) | ast.AsyncWith(items=items):
            return not any(item.optional_vars for item in items)
        case _:
            return False
    names = names_in(*bound)
    return not any(path_of(part) and not isinstance(part, ast.Name) for part in walk(*bound)) and not (
        names & (source.loaded | source.outer)
    )


def _harmless(item: ast.withitem) -> bool:
    path = path_of(item.context_expr)
    return bool(_HARMLESS_BLOCK.search(callee(item.context_expr) or (path[-1] if path else "")))
