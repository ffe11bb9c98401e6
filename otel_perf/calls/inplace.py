"""Measures a function in place: it stays the object that it is, and gets other code, which calls a copy of it.

So whoever has the function has the measured one: a router's table, a module that imported it while imports went in a
circle, a subclass, a pickle. The new code takes the same parameters, and stands in the same file and line, so that
whoever inspects it sees what was there; tracebacks leave it out. Nothing in it looks up a name, since those would be
the module's own.

What it cannot hide is its frame on the stack: ``sys._getframe``, a warning's ``stacklevel`` and the recursion limit
count it. A class whose measured methods use ``super()`` is never freed, since the new code leads to it and the garbage
collector looks into no code.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR, CO_ITERABLE_COROUTINE, CO_VARARGS, CO_VARKEYWORDS
from textwrap import indent
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any, Final

from otel_perf.calls import decorators
from otel_perf.calls.lazy_span import LazySpan

if TYPE_CHECKING:
    from otel_perf.calls.function import Function

_TARGET: Final = "otel_perf_target"
_PLAIN: Final = """
{is_async}def _({parameters}):
    otel_perf_function, otel_perf_target = "otel_perf_function", "otel_perf_target"
    otel_perf_any, otel_perf_deep = "otel_perf_any", "otel_perf_deep"
    otel_perf_leave_out = "otel_perf_leave_out"
    if not otel_perf_function.on:
        if otel_perf_function.counting:
            otel_perf_function.counts.untimed += 1
        try:
            return {wait}otel_perf_target({arguments})
        except otel_perf_any as otel_perf_error:
            try:
                otel_perf_leave_out(otel_perf_error)
            except otel_perf_deep:
                pass
            raise
    otel_perf_begin = "otel_perf_begin"
    otel_perf_call = otel_perf_begin(otel_perf_function)
    try:
        otel_perf_result = {wait}otel_perf_target({arguments})
    except otel_perf_any as otel_perf_error:
        try:
            otel_perf_leave_out(otel_perf_error)
            otel_perf_call.fail(otel_perf_error)
        except otel_perf_deep:
            if not otel_perf_call._end:
                otel_perf_call.finish()
        raise
    otel_perf_call.finish()
    return otel_perf_result
"""
_GENERATOR: Final = """
def _({parameters}):
    otel_perf_target, otel_perf_any = "otel_perf_target", "otel_perf_any"
    try:
        return (yield from otel_perf_target({arguments}))
    except otel_perf_any as otel_perf_error:
        otel_perf_leave_out, otel_perf_deep = "otel_perf_leave_out", "otel_perf_deep"
        try:
            otel_perf_leave_out(otel_perf_error)
        except otel_perf_deep:
            pass
        raise
"""
_ASYNC_GENERATOR: Final = """
async def _({parameters}):
    otel_perf_target, otel_perf_end = "otel_perf_target", "otel_perf_end"
    otel_perf_exit, otel_perf_any = "otel_perf_exit", "otel_perf_any"
    otel_perf_steps = otel_perf_target({arguments})
    otel_perf_first = "otel_perf_first"
    otel_perf_step = otel_perf_first(otel_perf_steps)
    while True:
        try:
            otel_perf_item = await otel_perf_step
        except otel_perf_end:
            return
        except otel_perf_any as otel_perf_error:
            otel_perf_leave_out, otel_perf_deep = "otel_perf_leave_out", "otel_perf_deep"
            try:
                otel_perf_leave_out(otel_perf_error)
            except otel_perf_deep:
                pass
            raise
        try:
            otel_perf_step = otel_perf_steps.asend((yield otel_perf_item))
        except otel_perf_exit:
            await otel_perf_steps.aclose()
            raise
        except otel_perf_any as otel_perf_error:
            otel_perf_step = otel_perf_steps.athrow(otel_perf_error)
"""
_OUTER: Final = """
def _({names}):
{body}
"""
_KINDS: Final = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR


def measured_code(target: FunctionType, function: Function) -> CodeType:
    """Code for ``target`` with which its calls are counted by ``function``."""
    code = target.__code__
    copy = FunctionType(code, target.__globals__, target.__name__, None, target.__closure__)
    copy.__qualname__ = target.__qualname__
    kind = code.co_flags & _KINDS
    flags = code.co_flags & (_KINDS | CO_VARARGS | CO_VARKEYWORDS)
    free = len(code.co_freevars)
    template = _template(flags, code.co_posonlyargcount, code.co_argcount, code.co_kwonlyargcount, free)
    parameters = _count(flags, code.co_argcount, code.co_kwonlyargcount)
    keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    values: dict[object, Any] = {
        "otel_perf_function": function, _TARGET: copy, "otel_perf_begin": LazySpan,
        "otel_perf_any": BaseException, "otel_perf_exit": GeneratorExit, "otel_perf_end": StopAsyncIteration,
        "otel_perf_deep": RecursionError, "otel_perf_leave_out": _leave_out, "otel_perf_first": decorators.first_step,
        **{f"otel_perf_k{number}": keyword for number, keyword in enumerate(keywords)},
    }  # fmt: skip
    if kind & (CO_GENERATOR | CO_ASYNC_GENERATOR):
        values[_TARGET] = decorators.wrap(copy, function)

    def filled(constant: Any) -> Any:
        if isinstance(constant, tuple):
            return tuple(map(filled, constant))
        return values.get(constant, constant) if isinstance(constant, str) else constant

    return template.replace(
        co_consts=filled(template.co_consts),
        co_varnames=code.co_varnames[:parameters] + template.co_varnames[parameters:],
        co_freevars=code.co_freevars,
        co_flags=template.co_flags | code.co_flags & CO_ITERABLE_COROUTINE,
        co_filename=code.co_filename,
        co_firstlineno=code.co_firstlineno,
        co_name=code.co_name,
        co_qualname=code.co_qualname,
    )


def is_ours(frame: FrameType) -> bool:
    """Whether a frame on the stack is one of the new code, or of the wrapper of a generator."""
    return _TARGET in frame.f_code.co_varnames or frame.f_globals is vars(decorators)


def _leave_out(error: BaseException) -> None:
    """Take the frames of ours off the traceback, which a bare ``raise`` then leaves as it is."""
    below = error.__traceback__
    while below is not None and is_ours(below.tb_frame):
        below = below.tb_next
    if below is not None:  # else it began here, like an interrupt
        error.__traceback__ = below


def _count(flags: int, positional: int, keywords: int) -> int:
    return positional + keywords + bool(flags & CO_VARARGS) + bool(flags & CO_VARKEYWORDS)


@lru_cache(maxsize=1024)
def _template(flags: int, positional_only: int, positional: int, keywords: int, free: int) -> CodeType:
    """Code with parameters of this number and kind, and with this number of variables of an outer function."""
    kind, is_async, wait = _PLAIN, "", ""
    if flags & CO_GENERATOR:
        kind = _GENERATOR
    elif flags & CO_ASYNC_GENERATOR:
        kind = _ASYNC_GENERATOR
    elif flags & CO_COROUTINE:
        is_async, wait = "async ", "await "
    parameters, arguments = _parameters(flags, positional_only, positional, keywords)
    text = kind.format(is_async=is_async, wait=wait, parameters=parameters, arguments=arguments)
    if free:
        outer = ", ".join(f"otel_perf_f{number:05}" for number in range(free))
        text = _OUTER.format(names=outer, body=indent(f"{text}    if 0: {outer}", "    "))
    tree: Any = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr | ast.excepthandler | ast.arg | ast.keyword):
            node.lineno, node.end_lineno = 1, 1  # a traceback shows the function's first line
            node.col_offset, node.end_col_offset = -1, -1
    code = compile(tree, "", "exec", dont_inherit=True)
    for _ in range(2 if free else 1):
        (code,) = [one for one in code.co_consts if type(one) is CodeType]
    return code


def _parameters(flags: int, positional_only: int, positional: int, keywords: int) -> tuple[str, str]:
    """What stands in the head, and in a call that hands it all on."""
    names = [f"otel_perf_p{number}" for number in range(positional)]
    options = [f"otel_perf_k{number}" for number in range(keywords)]
    parameters, arguments = [*names], [*names]
    if positional_only:
        parameters.insert(positional_only, "/")
    if flags & CO_VARARGS:
        parameters.append("*otel_perf_args")
        arguments.append("*otel_perf_args")
    elif options:
        parameters.append("*")
    parameters += options
    arguments += [f"{name}={name}" for name in options]
    if flags & CO_VARKEYWORDS:
        parameters.append("**otel_perf_kwargs")
        arguments.append("**otel_perf_kwargs")
    return ", ".join(parameters), ", ".join(arguments)
