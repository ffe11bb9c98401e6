"""A span that costs next to nothing until somebody needs it, and then is the SDK's.

It becomes real, with its true start, parent, attributes, events, links and status, when its context is asked for (by a
child span, a log line, a propagator), or at its end when the call was slow, raised, or has an error status. Its parents
become real first. A call that nobody needed leaves nothing behind but its counts.

The sampler decides when the span becomes real, as it would have at its start: it gets the same arguments.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from importlib.metadata import version
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, Span, Status, StatusCode

from otel_perf.calls import pure
from otel_perf.calls.call import Call
from otel_perf.calls.counts import Counts
from otel_perf.calls.keys import CALL_KEY, SPAN_KEY
from otel_perf.calls.pure import attach, current, detach
from otel_perf.core.guard import Guard
from otel_perf.core.threads import allocate_lock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import SpanContext, Tracer
    from opentelemetry.util.types import Attributes, AttributeValue

    from otel_perf.calls.function import Function

SCOPE: Final = "otel_perf.calls"  # instrumentation scope of the spans
PENDING_LIMIT: Final = 128  # what is set on a span before it is made real anyway, OpenTelemetry's own limit for events
GATE_TIMEOUT: Final = 1.0  # seconds that a thread waits while another makes the span real
EXEMPLAR_AGE: Final = 60 * 10**9  # nanoseconds for which the slowest span stands for the others
TRIES: Final = 3  # at reading both clocks without being interrupted
INTERRUPTED: Final = 20e-6  # seconds


class Recorder:
    """What the spans share: the guard against our own errors, and the tracer of the provider in force."""

    def __init__(self) -> None:
        self.guard = Guard("calls")
        self._provider: Any = None
        self._tracer: Tracer | None = None

    def tracer(self) -> Tracer:
        """A tracer of the global provider; making one anew costs more than the span."""
        provider = trace.get_tracer_provider()
        if provider is not self._provider or self._tracer is None:
            self._provider, self._tracer = provider, trace.get_tracer(SCOPE, version("otel-perf"))
        return self._tracer


RECORDER: Final = Recorder()


class LazySpan(Call, Span):
    """The span of one call. All of OpenTelemetry's API works on it at any moment, from any thread."""

    # What few of them need is in the instance's dictionary: "gate", "offset" and "open", see _make.
    __slots__ = ()

    @classmethod
    def real(cls, function: Function) -> LazySpan:
        """A call whose span is real from the start: that costs no more than the SDK's own."""
        real: Span
        try:
            real = RECORDER.tracer().start_span(function.name, attributes=function.attributes)
        except Exception as error:
            RECORDER.guard.handle(error)
            real = NonRecordingSpan(trace.get_current_span().get_span_context())
        span = cls(function)
        span._parent = None
        span._real = real
        vars(span)["open"] = real
        return span

    # --- becoming real -----------------------------------------------------------------------------

    def make_real(self) -> Span:
        """The SDK's span, made now if it was not before, its parents first."""
        if self._real is not None:
            return self._real  # type: ignore[no-any-return]
        line, parent = [self], self._lazy_parent()
        while parent is not None:
            line.append(parent)
            parent = parent._lazy_parent()
        while line:  # not by recursion: calls nest deeper than the stack may
            line.pop()._make()
        return INVALID_SPAN if self._real is None else self._real

    def _lazy_parent(self) -> LazySpan | None:
        context = self._parent  # read once: another thread may make it real just now
        if context is None:
            return None
        parent = context.get(SPAN_KEY)
        return parent if type(parent) is LazySpan and parent._real is None else None

    def _make(self) -> None:
        gate = allocate_lock()
        gate.acquire()
        claimed = vars(self).setdefault("gate", gate)  # one step of the interpreter's: one thread wins
        if claimed is not gate:
            if self._real is None and claimed.acquire(timeout=GATE_TIMEOUT):
                claimed.release()
            return
        try:
            self._real = real = self._started()
            # Whoever takes it out ends it: this thread, or the one in which the call ends just now.
            vars(self)["open"] = real
            self._replay(self._pending)
            if self._end:
                self._end_real()
        finally:
            self._parent = None  # a chain of calls that start each other would keep all their contexts alive
            gate.release()

    def _started(self) -> Span:
        parent: Any = self._parent
        vars(self)["offset"] = offset = _offset()
        if parent.get(_SUPPRESS_INSTRUMENTATION_KEY):  # an exporter's own work: its spans would beget the next ones
            return NonRecordingSpan(trace.get_current_span(parent).get_span_context())
        token = attach(parent)  # samplers and processors see what they would have seen at the start
        try:
            return RECORDER.tracer().start_span(
                self.function.name,
                context=parent,
                attributes=self.function.attributes,
                start_time=offset + round(self._start * 1e9),
            )
        except Exception as error:  # a sampler or processor of somebody's: the call goes on
            RECORDER.guard.handle(error)
            return NonRecordingSpan(trace.get_current_span(parent).get_span_context())
        finally:
            detach(token)

    def _replay(self, pending: Pending | None) -> None:
        """Do on the real span what was set before, by whichever thread comes to it."""
        while pending is not None and (pending.attributes or pending.operations):
            try:
                pending.replay(self._real)
            except Exception as error:  # an exception of somebody's that cannot be shown; it is left out
                RECORDER.guard.handle(error)

    def _end_real(self) -> None:
        real = vars(self).pop("open", None)
        if real is None:
            return
        offset = vars(self).get("offset")
        end = time_ns() if offset is None else offset + round(self._end * 1e9)
        context = real.get_span_context()
        counts, duration = self.counts, self._end - self._start
        before = counts.exemplar
        if context.trace_flags.sampled and (before is None or duration > before[0] or end - before[1] > EXEMPLAR_AGE):
            counts.exemplar = (duration, end, context.trace_id, context.span_id)
        try:
            real.end(end)
        except Exception as error:
            RECORDER.guard.handle(error)

    # --- what a call tells it ----------------------------------------------------------------------

    def failed(self, error: Exception) -> None:
        """The call is about to end with ``error``, which makes it real."""
        if self._real is None or self._real.is_recording():
            try:
                text = f"{type(error).__name__}: {error}"
            except Exception:  # an exception that cannot be shown
                text = type(error).__name__
            try:
                self.record_exception(error)
                self.set_status(Status(StatusCode.ERROR, text))
            except Exception as internal:
                RECORDER.guard.handle(internal)

    def settle(self) -> None:
        """The call has ended: end the real span, or decide whether it becomes one now."""
        if self._real is not None:
            self._end_real()
        elif self._end - self._start >= self.counts.slow or (self._pending is not None and self._pending.failed):
            self.make_real()

    def outlived(self) -> None:
        """A call begins under this one, which has ended: without this a chain of callbacks grows for ever."""
        self.make_real()

    # --- OpenTelemetry's API -----------------------------------------------------------------------

    def enclosing(self) -> Span:
        """The nearest real span, itself or one around it; it stays as lazy as it is."""
        span: Any = self
        while type(span) is LazySpan and span._real is None:
            context = span._parent
            if context is None:
                break
            span = context.get(SPAN_KEY) or INVALID_SPAN
        return span  # type: ignore[no-any-return]

    @property
    def is_lazy(self) -> bool:
        """Whether nobody has needed it so far."""
        return self._real is None

    def get_span_context(self) -> SpanContext:
        """The ids: from now on it is real."""
        return self.make_real().get_span_context()

    def is_recording(self) -> bool:
        """True while the call runs, as long as it is lazy; then what the sampler decided."""
        return not self._end if self._real is None else self._real.is_recording()

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Set an attribute."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Set attributes."""
        if self._real is not None:
            self._real.set_attributes(attributes)
        elif not self._end:
            pending = self._set()
            for key, value in attributes.items():
                # The SDK copies a sequence too: it may be changed later.
                pending.attributes[key] = tuple(value) if isinstance(value, list) else value
            self._limit(pending)

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        """Add an event, now unless ``timestamp`` (ns since the epoch) says when."""
        self._later("add_event", name, None if attributes is None else dict(attributes), timestamp or time_ns())

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Link to another span."""
        self._later("add_link", context, None if attributes is None else dict(attributes))

    def update_name(self, name: str) -> None:
        """Give it another name; the function's counts keep theirs."""
        self._later("update_name", name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status. One that is an error makes it real at its end."""
        code = status.status_code if isinstance(status, Status) else status
        self._later("set_status", status, description, failed=code is StatusCode.ERROR)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Record an exception that was handled; at its end it becomes real."""
        self._later("record_exception", exception, attributes, timestamp or time_ns(), escaped, failed=True)

    def end(self, end_time: int | None = None) -> None:
        """End the span before its call ends."""
        self.make_real()
        real = vars(self).pop("open", None)
        if real is not None:
            real.end(end_time)

    def _later(self, method: str, *arguments: Any, failed: bool = False) -> None:
        if self._real is not None:
            getattr(self._real, method)(*arguments)
        elif not self._end:
            pending = self._set()
            pending.operations.append((method, arguments))
            pending.failed |= failed
            self._limit(pending)

    def _set(self) -> Pending:
        if self._pending is None:
            self._pending = Pending()
        return self._pending  # type: ignore[no-any-return]

    def _limit(self, pending: Pending) -> None:
        if self._real is not None:  # made real by another thread, which may have looked at it before
            self._replay(pending)
        elif len(pending.attributes) + len(pending.operations) > PENDING_LIMIT:
            self.make_real()

    def __getattr__(self, name: str) -> Any:
        """What only the SDK's span has (``attributes``, ``name``, ``parent``): from now on it is real."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.make_real(), name)

    def __repr__(self) -> str:
        return f"<LazySpan {self.function.name!r}, {'lazy' if self._real is None else self._real!r}>"


class Pending:
    """What was set on a span before it was real. Threads may add and replay at once: each thing is done once."""

    __slots__ = ("attributes", "failed", "operations")

    def __init__(self) -> None:
        self.attributes: dict[str, AttributeValue] = {}
        self.operations: deque[tuple[str, tuple[Any, ...]]] = deque()
        self.failed = False

    def replay(self, real: Span) -> None:
        """Do on ``real`` what is there, and forget it."""
        for key in tuple(self.attributes):
            with suppress(KeyError):
                real.set_attribute(key, self.attributes.pop(key))
        while self.operations:
            with suppress(IndexError):
                method, arguments = self.operations.popleft()
                getattr(real, method)(*arguments)


_forking: list[Call] = []


def before_fork() -> None:
    """Make the calls under way in this thread real: parent and child go on under one span."""
    span = trace.get_current_span()
    if isinstance(span, LazySpan):
        span.make_real()
    call = current().get(CALL_KEY)
    _forking.clear()
    while call is not None:
        _forking.append(call)
        call = call._caller


def after_fork_in_child() -> None:
    """What was under way in the parent is ended and counted there."""
    for call in _forking:
        if isinstance(call, LazySpan):
            vars(call).pop("open", None)
        call.counts = Counts("")
    _forking.clear()


def _offset() -> int:
    """Nanoseconds from the performance counter to the epoch, read without an interruption in between if it can be."""
    best, offset = float("inf"), 0
    for _ in range(TRIES):
        before = pure.perf_counter()
        now = time_ns()
        took = pure.perf_counter() - before
        if took < best:
            best, offset = took, now - round((before + took / 2) * 1e9)
            if took < INTERRUPTED:
                break
    return offset
