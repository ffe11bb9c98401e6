"""``monitored``: measures functions, coroutines, generators, methods, classes and blocks."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from opentelemetry.semconv.attributes.code_attributes import CODE_FILE_PATH, CODE_FUNCTION_NAME, CODE_LINE_NUMBER
from opentelemetry.trace import INVALID_SPAN, get_current_span

from otel_perf.calls.call import NOT_MEASURED, Call, CountedCall
from otel_perf.calls.function import FUNCTIONS, MODES, Function, SpanMode
from otel_perf.calls.keys import CALL_KEY
from otel_perf.calls.lazy_span import LazySpan
from otel_perf.calls.pure import current

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping
    from types import TracebackType

    from opentelemetry.trace import Span

Wrapped = TypeVar("Wrapped", bound="Callable[..., Any] | type | staticmethod[Any, Any] | classmethod[Any, Any, Any]")

MARK: Final = "__otel_perf_function__"  # of a wrapper: the Function that counts it


@overload
def monitored(target: str, /, *, span: SpanMode = "auto", attributes: Mapping[str, Any] | None = None) -> Block: ...
@overload
def monitored(target: property, /) -> property: ...
@overload
def monitored(target: Wrapped, /) -> Wrapped: ...
@overload
def monitored(
    *, name: str | None = None, span: SpanMode = "auto", attributes: Mapping[str, Any] | None = None
) -> Callable[[Wrapped], Wrapped]: ...
def monitored(
    target: Any = None,
    /,
    *,
    name: str | None = None,
    span: SpanMode = "auto",
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """Measure every call of ``target``: a function, coroutine, generator, method, property, class, or a named block.

    ``@monitored``, ``@monitored(name=…, span=…, attributes=…)`` or ``with monitored("phase"):``. A class is measured
    by its public methods. A generator's span covers its iteration, and its consumer never sees that span.

    ``span="auto"`` makes a span of a call only when it is needed: when a child span, a log line or a propagator asks
    for it, when it is slow (``OTEL_PERF_CALLS_SLOW``), or when it raises; ``"always"`` of every call, ``"never"`` of
    none. Each call counts in ``perf.call.duration`` (s) all the same, by its name.

    Costs about 1 µs a call, nothing but an extra call when the feature is off. Thread-safe, re-entrant. Raises
    ``TypeError`` for what cannot be called, ``ValueError`` for another ``span``.
    """
    if span not in MODES:
        raise ValueError(f"monitored: span is {span!r}; it must be one of {', '.join(MODES)}")
    if target == "":
        raise ValueError("monitored: the name of a block is empty; it takes a name")
    if isinstance(target, str):
        return Block(target, span, attributes)
    if target is not None:
        return _wrapped(target, name, span, attributes)
    return functools.partial(_wrapped, name=name, span=span, attributes=attributes)


def _wrapped(target: Any, name: str | None, span: SpanMode, attributes: Mapping[str, Any] | None) -> Any:
    if isinstance(target, type):
        for key, value in public_methods(target):
            setattr(target, key, _wrapped(value, None, span, attributes))
        return target
    if isinstance(target, staticmethod | classmethod):
        return type(target)(_wrapped(target.__func__, name, span, attributes))
    if type(target) is functools.cached_property:
        return functools.cached_property(_wrapped(target.func, name, span, attributes))
    if type(target) is property:  # a subclass does something else as well
        parts = [part and _wrapped(part, name, span, attributes) for part in (target.fget, target.fset, target.fdel)]
        return property(parts[0], parts[1], parts[2], target.__doc__)
    if not callable(target):
        raise TypeError(
            f"monitored: {target!r} cannot be called; it takes a function, a method, a class or a block's name"
        )
    return wrap(target, FUNCTIONS.add(name or qualified_name(target), span, {**code_of(target), **(attributes or {})}))


def public_methods(cls: type) -> list[tuple[str, Any]]:
    """Functions, static and class methods that ``cls`` itself defines, not measured yet, no name begins with ``_``."""
    kinds = (FunctionType, staticmethod, classmethod)
    return [
        (key, value)
        for key, value in vars(cls).items()
        if isinstance(value, kinds) and not key.startswith("_") and not hasattr(value, MARK)
    ]


def qualified_name(target: Any) -> str:
    """``module.Class.method``, as the conventions want ``code.function.name``."""
    while isinstance(target, functools.partial):
        target = target.func
    name = getattr(target, "__qualname__", None) or type(target).__qualname__
    module = getattr(target, "__module__", None) or type(target).__module__
    return f"{module}.{name}"


def code_of(target: Any) -> dict[str, Any]:
    """Where the function stands, as attributes of its spans."""
    found: dict[str, Any] = {CODE_FUNCTION_NAME: qualified_name(target)}
    while isinstance(target, functools.partial):
        target = target.func
    code = getattr(inspect.unwrap(target), "__code__", None)
    if code is not None:
        found |= {CODE_FILE_PATH: code.co_filename, CODE_LINE_NUMBER: code.co_firstlineno}
    return found


class Block:
    """What ``monitored("name")`` gives: a context manager, re-entrant and for any thread; or a decorator."""

    def __init__(self, name: str, span: SpanMode, attributes: Mapping[str, Any] | None) -> None:
        self._name, self._span, self._attributes = name, span, attributes
        self._function = FUNCTIONS.block(name, span, attributes)
        self._begin = _BEGIN[span]

    def __call__(self, target: Wrapped) -> Wrapped:
        """Decorate ``target`` under this name."""
        wrapped: Wrapped = _wrapped(target, self._name, self._span, self._attributes)
        return wrapped

    def __enter__(self) -> Span:
        if not self._function.on:
            return INVALID_SPAN
        self._begin(self._function)
        return get_current_span()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        call = current().get(CALL_KEY)
        if call is None or call.function is not self._function or call._end:
            return  # it began while nothing was measured, or what ran inside left another context behind
        if error is None:
            call.finish()
        else:
            call.fail(error)


def _begin_real(function: Function) -> Call:
    return LazySpan.real(function)


_BEGIN: Final[dict[SpanMode, Callable[[Function], Call]]] = {
    "auto": LazySpan,
    "always": _begin_real,
    "never": CountedCall,
}


def wrap(target: Callable[..., Any], function: Function) -> Any:
    """``target`` with every call counted by ``function``."""
    if inspect.isasyncgenfunction(target):
        make = _async_generator
    elif inspect.iscoroutinefunction(target):
        make = _coroutine
    elif inspect.isgeneratorfunction(target):
        make = _generator
    else:
        make = _plain
    wrapper = functools.wraps(target)(make(target, function, _BEGIN[function.mode]))
    code = getattr(target, "__code__", None)
    if code is not None and code.co_flags & inspect.CO_ITERABLE_COROUTINE:
        wrapper = types.coroutine(wrapper)
    if not isinstance(target, FunctionType):  # lru_cache's cache_info and the like are no part of __dict__
        for name in dir(target):
            if not name.startswith("__") and not hasattr(wrapper, name):
                with suppress(Exception):
                    setattr(wrapper, name, getattr(target, name))
    setattr(wrapper, MARK, function)
    return wrapper


Begin = Callable[["Function"], Call]


def _plain(target: Callable[..., Any], function: Function, begin: Begin) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not function.on:
            if function.counting:
                function.counts.untimed += 1
            return target(*args, **kwargs)
        call = begin(function)
        try:
            result = target(*args, **kwargs) if kwargs else target(*args)  # an empty dict costs a tenth of all this
        except BaseException as error:
            try:
                call.fail(error)
            except RecursionError:  # there is no room for that, perhaps for this
                if not call._end:
                    call.finish()
            raise
        call.finish()
        return result

    return wrapper


def _coroutine(target: Callable[..., Any], function: Function, begin: Begin) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not function.on:
            if function.counting:
                function.counts.untimed += 1
            return await target(*args, **kwargs)
        call = begin(function)
        try:
            result = await target(*args, **kwargs)
        except BaseException as error:
            try:
                call.fail(error)
            except RecursionError:  # there is no room for that, perhaps for this
                if not call._end:
                    call.finish()
            raise
        call.finish()
        return result

    return wrapper


def _generator(target: Callable[..., Any], function: Function, begin: Begin) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        if not function.on:
            if function.counting:
                function.counts.untimed += 1
            return (yield from target(*args, **kwargs))
        generator = target(*args, **kwargs)
        call = begin(function)
        body = call.suspend()
        step, argument = generator.send, None
        while True:
            call.resume(body)
            try:
                item = step(argument)
            except StopIteration as stop:
                call.finish()
                return stop.value
            except BaseException as error:
                argument = None
                call.fail(error)
                raise
            body = call.suspend()
            argument = None  # what was thrown is not to be kept alive by this frame
            try:
                step, argument = generator.send, (yield item)
            except GeneratorExit:
                call.resume(body)
                try:
                    value = generator.close()
                except BaseException as error:
                    call.fail(error)
                    raise
                call.finish()
                return value
            except BaseException as error:
                step, argument = generator.throw, error

    return wrapper


def first_step(generator: AsyncGenerator[Any, Any]) -> Any:
    """The first ``asend`` of a generator that another one closes: the event loop is not to close it as well."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return generator.asend(None)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _async_generator(target: Callable[..., Any], function: Function, begin: Begin) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        generator = target(*args, **kwargs)
        call = begin(function) if function.on else NOT_MEASURED
        if function.counting:
            function.counts.untimed += 1
        body = call.suspend()
        step = first_step(generator)
        while True:
            call.resume(body)
            try:
                item = await step
            except StopAsyncIteration:
                call.finish()
                return
            except BaseException as error:
                call.fail(error)
                raise
            body = call.suspend()
            try:
                step = generator.asend((yield item))
            except GeneratorExit:
                call.resume(body)
                try:
                    await generator.aclose()
                except BaseException as error:
                    call.fail(error)
                    raise
                call.finish()
                raise
            except BaseException as error:
                step = generator.athrow(error)

    return wrapper
