"""What every monitored call pays, in Python: two clock reads, one entry in the context, one increment of a bucket.

``_fast.c`` is its compiled twin, for where it could be built; both have the same fields and methods.

The counts are lossless under threads without a lock: between reading a field and writing it back there is no call, no
loop and no allocation that runs Python code, and only at these does CPython (3.11–3.13, with the GIL) change threads.
``tests/calls/test_counts.py`` tries it with threads that change every microsecond.
"""

from __future__ import annotations

import time
from math import log2
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as context_api
from opentelemetry.context.context import Context

from otel_perf.calls.keys import CALL_KEY, NEVER, SPAN_KEY
from otel_perf.core.buckets import BUCKETS, OFFSET

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextvars import Token

    from otel_perf.calls.function import Function

# The context API in front of its ContextVar costs 0.1 µs a call; another runtime than the default one keeps it.
_variable: Any = getattr(context_api._RUNTIME_CONTEXT, "_current_context", None)
current: Any = _variable.get if _variable is not None else context_api.get_current
attach: Any = _variable.set if _variable is not None else context_api.attach
detach: Any = _variable.reset if _variable is not None else context_api._RUNTIME_CONTEXT.detach
perf_counter: Callable[[], float] = time.perf_counter
_OURS: Final = 2  # entries of a context in which a span of ours is current, and nothing else


def set_clock(clock: Callable[[], float] | None) -> None:
    """Put another clock in place, for a test; ``None`` is the machine's."""
    global perf_counter
    perf_counter = clock or time.perf_counter


class CountsBase:
    """The numbers of one function. Times in seconds."""

    __slots__ = (
        "buckets", "count", "errors", "maximum", "minimum", "self_total", "slow", "total", "untimed",
    )  # fmt: skip

    def __init__(self) -> None:
        self.slow = NEVER

    def reset(self) -> None:
        """Begin anew."""
        self.count = 0  # timed calls
        self.untimed = 0  # calls that were only counted
        self.errors = 0
        self.total = self.self_total = 0.0
        self.minimum, self.maximum = NEVER, 0.0
        self.buckets = [0] * BUCKETS


class CallBase:
    """The beginning and the end of one call."""

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
        "is_span",
    )

    def __init__(self, function: Function, is_span: bool = True) -> None:
        self.function = function
        self.counts = function.counts
        self.is_span = is_span
        context = current()
        self._parent = context if is_span else None
        caller: Any
        self._caller = caller = context.get(CALL_KEY)
        self._real: Any = None  # the SDK's span, once there is one
        self._pending: Any = None  # what was set on the span before that
        self._children = 0.0  # seconds in which monitored calls under this one were under way
        self._end = 0.0
        self._under_way = 0  # such calls now, since ``_since``
        self._since: float
        if not is_span:
            inner = Context({**context, CALL_KEY: self})
        elif not context or (caller is not None and caller.is_span and len(context) == _OURS):
            inner = Context({SPAN_KEY: self, CALL_KEY: self})  # nothing else was in it; half as dear
        else:
            inner = Context({**context, SPAN_KEY: self, CALL_KEY: self})
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
        try:  # noqa: SIM105  with suppress() costs half of everything else here
            detach(self._token)
        except ValueError:  # a coroutine that was stepped from several contexts, or is closed from another
            pass
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
        if not 0 <= index < BUCKETS:
            index = 0 if index < 0 else BUCKETS - 1
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

    def outlived(self) -> None:
        """A call begins under this one, which has ended."""

    def settle(self) -> None:
        """The call has ended, and was slow or failed, or is real."""
