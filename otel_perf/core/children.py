"""Threads and processes that work starts, and work that it hands to processes, go on in its context.

A thread gets the context itself, a process its W3C headers: the trace, and the baggage with the correlation id. Workers
of a pool serve everybody: they begin with no context, whoever made them start, and have the one of each piece of work.
"""

from __future__ import annotations

import threading
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.executors import run_in
from otel_perf.core.ids import attach, detach
from otel_perf.core.patches import on_import, put
from otel_perf.core.served import carried, request

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from opentelemetry.context import Context

_FIELD: Final = "_otel_perf_context"  # in the dictionary of a thread or process, until it runs
_POOLS: Final = ("concurrent.futures.", "multiprocessing.")
_POOL_METHODS: Final = ("apply_async", "_map_async", "imap", "imap_unordered")


def install(undo: ExitStack) -> None:
    """Patch threads now, processes when the app imports them. 1 µs a thread, 20 µs what goes to a process."""
    put(threading.Thread, "start", _start_thread(threading.Thread.start), undo)
    inner = "_bootstrap_inner"  # around ``run``, which subclasses have of their own
    if inner in vars(threading.Thread):
        put(threading.Thread, inner, _run_thread(vars(threading.Thread)[inner]), undo)

    def process(module: Any) -> None:
        kind = module.BaseProcess
        put(kind, "start", _start_process(vars(kind)["start"]), undo)
        put(kind, "_bootstrap", _run_process(vars(kind)["_bootstrap"]), undo)

    def executor(module: Any) -> None:
        kind = module.ProcessPoolExecutor
        put(kind, "submit", _submit(vars(kind)["submit"]), undo)

    def pool(module: Any) -> None:
        for name in _POOL_METHODS:
            put(module.Pool, name, _hand_to_pool(vars(module.Pool)[name], module.ThreadPool), undo)

    on_import("multiprocessing.process", process, undo)
    on_import("concurrent.futures.process", executor, undo)
    on_import("multiprocessing.pool", pool, undo)


def _is_pools(worker: Any) -> bool:
    """Whether what a thread or process runs is Python's own worker of a pool."""
    return str(getattr(getattr(worker, "_target", None), "__module__", "")).startswith(_POOLS)


# --- threads -------------------------------------------------------------------------------------------


def _start_thread(original: Any) -> Any:
    @wraps(original)
    def start(self: Any) -> None:
        context = carried()
        if context and not _is_pools(self):
            vars(self)[_FIELD] = context
        original(self)

    return start


def _run_thread(original: Any) -> Any:
    @wraps(original)
    def bootstrap_inner(self: Any) -> None:
        context = vars(self).pop(_FIELD, None)
        if context is None:
            original(self)
            return
        token = attach(context)
        try:
            original(self)
        finally:
            detach(token)

    return bootstrap_inner


# --- processes -----------------------------------------------------------------------------------------


def _headers(context: Context) -> dict[str, str]:
    """The W3C headers of ``context``, whatever the program propagates to others."""
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    try:
        TraceContextTextMapPropagator().inject(headers, context)
        W3CBaggagePropagator().inject(headers, context)
    except Exception:  # somebody's object in the baggage whose text fails: the work goes without
        headers.clear()
    return headers


def _context_of(headers: dict[str, str]) -> Context:
    from opentelemetry.baggage.propagation import W3CBaggagePropagator
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return W3CBaggagePropagator().extract(headers, TraceContextTextMapPropagator().extract(headers, Context()))


class Carried:
    """A function that goes to another process, and the headers with which it runs there."""

    __slots__ = ("function", "headers")

    def __init__(self, function: Callable[..., Any], headers: dict[str, str]) -> None:
        self.function = function
        self.headers = headers

    def __reduce__(self) -> Any:
        return Carried, (self.function, self.headers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        token = attach(_context_of(self.headers))
        try:
            return self.function(*args, **kwargs)
        finally:
            detach(token)


def _carried(function: Any) -> Any:
    context = carried()
    headers = _headers(context) if context and callable(function) else None
    return Carried(function, headers) if headers else function


def _submit(original: Any) -> Any:
    @wraps(original)
    def submit(self: Any, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        return original(self, _carried(fn), *args, **kwargs)

    return submit


def _hand_to_pool(original: Any, of_threads: type[Any]) -> Any:
    @wraps(original)
    def hand(self: Any, func: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self, of_threads):
            return original(self, _carried(func), *args, **kwargs)
        context = carried()
        return original(self, partial(run_in, context, func) if context else func, *args, **kwargs)

    return hand


def _start_process(original: Any) -> Any:
    @wraps(original)
    def start(self: Any) -> None:
        context = carried()
        headers = _headers(context) if context and not _is_pools(self) else None
        if headers:
            vars(self)[_FIELD] = headers
        original(self)

    return start


def _run_process(original: Any) -> Any:
    @wraps(original)
    def bootstrap(self: Any, *args: Any, **kwargs: Any) -> Any:
        from opentelemetry.context import Context

        headers = vars(self).pop(_FIELD, None)
        request.set(None)
        # Nothing to undo: the process ends with this call. A forked one has the context of whoever forked it.
        attach(_context_of(headers) if headers else Context())
        return original(self, *args, **kwargs)

    return bootstrap
