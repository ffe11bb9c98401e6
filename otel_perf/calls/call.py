"""One call under way. :mod:`~otel_perf.calls.lazy_span` is what some of them become.

Its beginning and end are compiled where they could be (``_fast.c``), else :mod:`~otel_perf.calls.pure`.
``OTEL_PERF_CALLS_PURE=1`` chooses the latter.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from opentelemetry.context.context import Context

from otel_perf.calls import pure
from otel_perf.calls.keys import CALL_KEY, SPAN_KEY
from otel_perf.calls.pure import attach, current, detach

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_perf.calls.function import Function
    from otel_perf.calls.pure import CallBase, CountsBase

    COMPILED: bool
    _fast = pure
else:
    COMPILED = False
    CallBase, CountsBase = pure.CallBase, pure.CountsBase
    with suppress(ImportError):
        asked = os.environ.get("OTEL_PERF_CALLS_PURE", "").strip().lower()
        if pure._variable is None or asked in {"1", "on", "true", "yes"}:
            raise ImportError
        from otel_perf.calls import _fast

        _fast.configure(pure._variable, Context, SPAN_KEY, CALL_KEY)
        CallBase, CountsBase, COMPILED = _fast.CallBase, _fast.CountsBase, True


__all__ = ["COMPILED", "NOT_MEASURED", "Call", "CountedCall", "CountsBase", "set_clock"]


def set_clock(clock: Callable[[], float] | None) -> None:
    """Put another clock in place, for a test; ``None`` is the machine's."""
    pure.set_clock(clock)
    if COMPILED:
        _fast.set_clock(clock)


class Call(CallBase):
    """A call of a monitored function, current from its making to :meth:`finish` or :meth:`fail`.

    Belongs to the thread or task that made it; others may read it, and may make it real.
    """

    __slots__ = ()

    def fail(self, error: BaseException) -> None:
        """The call has raised ``error``."""
        # Cancelled, closed, interrupted: no error, as OpenTelemetry has it.
        if isinstance(error, Exception):
            self.counts.errors += 1
            try:
                self.failed(error)
            finally:
                self.finish()
        else:
            self.finish()

    def suspend(self) -> Context:
        """A generator yields: its consumer goes on, in the context in which it was. Returns the body's context."""
        body: Context = current()
        with suppress(ValueError):  # somebody steps it from several contexts
            detach(self._token)
        self._token = None
        now = pure.perf_counter()
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
        now = pure.perf_counter()
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

    def __init__(self, function: Function) -> None:
        super().__init__(function, False)


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
