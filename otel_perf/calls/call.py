"""One call under way: two clock reads, one entry in the context, one increment of a bucket.

This is what every monitored call pays, about 1 µs; :mod:`~otel_perf.calls.lazy_span` is what some of them become.

The counts are lossless under threads without a lock: between reading a field and writing it back there is no call, no
loop and no allocation that runs Python code, and only at these does CPython (3.11–3.13, with the GIL) change threads.
``tests/calls/test_statistics.py`` tries it with threads that change every microsecond.
"""

from __future__ import annotations

from math import log2
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry.context.context import Context
from opentelemetry.trace.propagation import _SPAN_KEY

from otel_perf.calls.statistics import OFFSET

if TYPE_CHECKING:
    from contextvars import Token

    from otel_perf.calls.function import Function

CALL_KEY: Final = context_api.create_key("otel-perf-call")
_OURS: Final = 2  # entries of a context in which a span of ours is current, and nothing else

# The context API in front of its ContextVar costs 0.1 µs a call; another runtime than the default one keeps it.
_variable: Any = getattr(context_api._RUNTIME_CONTEXT, "_current_context", None)
current: Any = _variable.get if _variable is not None else context_api.get_current
attach: Any = _variable.set if _variable is not None else context_api.attach
detach: Any = _variable.reset if _variable is not None else context_api._RUNTIME_CONTEXT.detach


class Call:
    """A call of a monitored function, current from its making to :meth:`finish` or :meth:`fail`.

    Belongs to the thread or task that made it; others may read it, and may make it real.
    """

    __slots__ = (
        "_caller",
        "_children",
        "_end",
        "_parent",
        "_pending",
        "_real",
        "_since",
        "_start",
        "_token",
        "_under_way",
        "counts",
        "function",
    )

    is_span = True

    def __init__(self, function: Function) -> None:
        self.function = function
        self.counts = function.counts
        self._parent = context = current()
        caller: Call | None
        self._caller = caller = context.get(CALL_KEY)
        self._real: Any = None  # the SDK's span, once there is one
        self._pending: Any = None  # what was set on the span before that
        self._children = 0.0  # seconds in which monitored calls under this one were under way
        self._end = 0.0
        self._under_way = 0  # such calls now, since ``_since``
        if not context or (caller is not None and caller.is_span and len(context) == _OURS):
            inner = Context({_SPAN_KEY: self, CALL_KEY: self})  # nothing else was in it; half as dear
        else:
            inner = Context({**context, _SPAN_KEY: self, CALL_KEY: self})
        self._token: Token[Context] | None = attach(inner)
        self._start = start = perf_counter()
        if caller is not None:
            if caller._end:
                caller.outlived()
            elif caller._under_way:
                caller._under_way += 1
            else:
                caller._under_way = 1
                caller._since = start

    def finish(self) -> None:
        """The call has returned."""
        end = perf_counter()
        try:
            detach(self._token)
        except ValueError:
            self._detached_elsewhere()
        self._token = None
        self._end = end
        duration = end - self._start
        if self._under_way:  # a task that it started goes on
            self._children += end - self._since
        caller = self._caller
        if caller is not None:
            self._caller = None
            if caller._under_way == 1:
                caller._under_way = 0
                caller._children += end - caller._since
            else:
                caller._under_way -= 1
        counts = self.counts
        index = int(8 * log2(duration or 1e-9) + OFFSET)
        counts.count += 1
        counts.total += duration
        counts.self_total += duration - self._children
        if duration < counts.minimum:  # noqa: PLR1730  min() is a call: another thread may come in between
            counts.minimum = duration
        if duration > counts.maximum:  # noqa: PLR1730
            counts.maximum = duration
        counts.buckets[index] += 1
        if duration >= counts.slow or self._real is not None or self._pending is not None:
            self.settle()

    def fail(self, error: BaseException) -> None:
        """The call has raised ``error``."""
        # Cancelled, closed, interrupted: no error, as OpenTelemetry has it.
        if isinstance(error, Exception):
            self.counts.errors += 1
            self.failed(error)
        self.finish()

    def _detached_elsewhere(self) -> None:
        """A coroutine was stepped from several contexts, or somebody closes it from another: nothing to put back."""

    def suspend(self) -> Context:
        """A generator yields: its consumer goes on, in the context in which it was. Returns the body's context."""
        body: Context = current()
        detach(self._token)
        self._token = None
        now = perf_counter()
        caller, self._caller = self._caller, None
        if caller is not None:
            _left(caller, now)
        if not self._under_way:
            self._under_way, self._since = 1, now  # what the consumer does is not the generator's own time
        else:
            self._under_way += 1
        return body

    def resume(self, body: Context) -> None:
        """The generator goes on, perhaps in another thread or task than before."""
        self._caller = caller = current().get(CALL_KEY)
        self._token = attach(body)
        now = perf_counter()
        _left(self, now)
        if caller is not None:
            _entered(caller, now)

    def failed(self, error: Exception) -> None:
        """The call is about to end with ``error``."""

    def settle(self) -> None:
        """The call has ended, and was slow or failed, or is real."""

    def outlived(self) -> None:
        """A call begins under this one, which has ended."""


class CountedCall(Call):
    """A call that never becomes a span, and is not in the way of those around it (``span="never"``)."""

    __slots__ = ()
    is_span = False

    def __init__(self, function: Function) -> None:
        self.function = function
        self.counts = function.counts
        context = current()
        caller: Call | None
        self._caller = caller = context.get(CALL_KEY)
        self._real = self._pending = self._parent = None
        self._children = self._end = 0.0
        self._under_way = 0
        self._token = attach(Context({**context, CALL_KEY: self}))
        self._start = start = perf_counter()
        if caller is not None:
            _entered(caller, start)


def _entered(caller: Call, now: float) -> None:
    """A monitored call begins under ``caller``."""
    if caller._end:
        caller.outlived()
    elif caller._under_way:
        caller._under_way += 1
    else:
        caller._under_way, caller._since = 1, now


def _left(caller: Call, now: float) -> None:
    """A monitored call under ``caller`` ends."""
    if caller._under_way == 1:
        caller._under_way = 0
        caller._children += now - caller._since
    else:
        caller._under_way -= 1


class NotMeasured:
    """Stands in for a call while nothing is measured."""

    def suspend(self) -> Context:
        """Nothing."""
        return Context()

    def resume(self, body: Context) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""

    def fail(self, error: BaseException) -> None:
        """Nothing."""


NOT_MEASURED: Final = NotMeasured()
