"""What signals leave in traces, logs and metrics: who said what, who waited for it, and how long.

``emit`` is a PRODUCER span, a wait and a handler's call are CONSUMER spans with a link to the emitter's; all stay in
the traces of their own programs.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otel_perf.core.buckets import Durations
from otel_perf.core.census import SCOPE, Metric
from otel_perf.core.errors import SignalFailedError, SignalTimeoutError
from otel_perf.core.events import WAITED_FOR, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from otel_perf.core.buckets import Counted
    from otel_perf.core.census import Reading
    from otel_perf.core.feature import Host
    from otel_perf.signals.request import Request
    from otel_perf.signals.signal import Signal

EMITTED: Final = Event("perf.signal.emitted", "A signal was emitted: its name, key, state and sequence number")
RECEIVED: Final = Event("perf.signal.received", "A signal reached who waits or responds; the span links to its emitter")
EMITS: Final = Metric("perf.signals.emitted", "{signal}", "counter", "Signals emitted, by perf.signal.state")
RECEIPTS: Final = Metric(
    "perf.signals.received", "{signal}", "counter", "Signals that waits and handlers got, by state"
)
REFUSED: Final = Metric("perf.signals.refused", "{signal}", "counter", "Signals without the right mark")
WAITING: Final = Metric("perf.signals.waiting", "{wait}", "gauge", "Waits that go on")
WAIT: Final = Metric(
    "perf.signals.wait.duration", "s", "histogram",
    "How long waits took, by perf.signal.name (several with commas; 100 of them) and perf.signal.outcome",
)  # fmt: skip

NAMES: Final = 100  # names that have a histogram of their own
OTHER: Final = "(other)"


@cache
def _form() -> re.Pattern[str]:
    return re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Telemetry:
    """Thread-safe. A span of the SDK and an event for each emit and wait, some 50 µs."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._tracer = trace.get_tracer(SCOPE)
        self._lock = RLock()
        self._emitted: Counter[str] = Counter()
        self._received: Counter[str] = Counter()
        self._refused = 0
        self._durations: dict[tuple[str, str], Durations] = {}

    # --- what happens ------------------------------------------------------------------------------

    def emit(self, draft: Signal, put: Callable[[Signal], Signal]) -> Signal:
        """Put ``draft`` on its board, inside a span that it names."""
        with self._tracer.start_as_current_span(
            f"emit {draft.name}", kind=SpanKind.PRODUCER, attributes=_attributes(draft)
        ) as span:
            signal = put(replace(draft, traceparent=_traceparent(span)))
            attributes = _attributes(signal)
            span.set_attribute("perf.signal.sequence", signal.seq)
            span.add_event(EMITTED.name, attributes)
            self._tell(EMITTED, signal, attributes)
        with self._lock:
            self._emitted[signal.state] += 1
        return signal

    @contextmanager
    def waiting(self, wanted: Request) -> Iterator[Callable[[dict[str, Signal]], None]]:
        """A span around a wait; what it yields takes what has come."""
        names = ", ".join(wanted.names)
        attributes: dict[str, Any] = {WAITED_FOR: wanted.names, "perf.signal.any": wanted.any_of}
        attributes.update(_set({"perf.signal.key": wanted.key, "perf.signal.scope": wanted.scope}))
        if wanted.then:
            attributes["perf.signal.then"] = wanted.then
        began, outcome = time.perf_counter(), "error"
        with self._tracer.start_as_current_span(
            f"wait {names}", kind=SpanKind.CONSUMER, attributes=attributes, record_exception=False,
            set_status_on_exception=False,
        ) as span:  # fmt: skip
            try:
                yield lambda found: self._receive(span, found.values())
                outcome = "ready"
            except SignalTimeoutError as error:
                outcome = "timeout"
                span.set_attribute("perf.signal.missing", error.missing)
                if error.cycle:
                    span.set_attribute("perf.signal.cycle", error.cycle)
                _fail(span, error)
                raise
            except SignalFailedError as error:
                outcome = "failed"
                self._receive(span, error.signals)
                _fail(span, error)
                raise
            except (asyncio.CancelledError, GeneratorExit):
                outcome = "cancelled"
                raise
            except Exception as error:
                _fail(span, error)
                raise
            finally:
                span.set_attribute("perf.signal.outcome", outcome)
                self._count(names, outcome, time.perf_counter() - began)

    def handle(self, signal: Signal, call: Callable[[Signal], object]) -> None:
        """Call a handler, inside a span."""
        with self._tracer.start_as_current_span(
            f"handle {signal.name}", kind=SpanKind.CONSUMER, links=_links([signal]), attributes=_attributes(signal)
        ) as span:
            self._receive(span, [signal], link=False)
            call(signal)

    def refused(self) -> None:
        """A signal had not the right mark."""
        with self._lock:
            self._refused += 1

    # --- what is read ------------------------------------------------------------------------------

    def emits(self) -> Iterable[Reading]:
        """By state."""
        return [(number, {"perf.signal.state": state}) for state, number in self._emitted.copy().items()]

    def receipts(self) -> Iterable[Reading]:
        """By state."""
        return [(number, {"perf.signal.state": state}) for state, number in self._received.copy().items()]

    def refusals(self) -> Iterable[Reading]:
        """In all."""
        return [(self._refused, {})]

    def counted(self) -> Iterable[Counted]:
        """How long waits took."""
        with self._lock:
            return list(self._durations.values())

    def after_fork_in_child(self) -> None:
        """Begin anew."""
        self._lock = RLock()
        self._emitted, self._received, self._refused, self._durations = Counter(), Counter(), 0, {}

    # --- how ---------------------------------------------------------------------------------------

    def _receive(self, span: trace.Span, signals: Iterable[Signal], *, link: bool = True) -> None:
        for signal in signals:
            attributes = _attributes(signal)
            attributes["perf.signal.emitter"] = str(signal.producer)
            attributes["perf.signal.age"] = max(0.0, (time.time_ns() - signal.made_ns) / 1e9)
            if link:
                for made in _links([signal]):
                    span.add_link(made.context, made.attributes)
            span.add_event(RECEIVED.name, attributes)
            self._tell(RECEIVED, signal, attributes)
            with self._lock:
                self._received[signal.state] += 1

    def _tell(self, event: Event, signal: Signal, attributes: dict[str, Any]) -> None:
        verb = "emitted" if event is EMITTED else "received"
        reason = "" if signal.ready else f": {signal.reason or 'no reason was given'}"
        body = f"{signal.name} {signal.state}{reason} ({verb})"
        self._host.event(event, attributes, body=body, severity="INFO" if signal.ready else "WARN")

    def _count(self, names: str, outcome: str, seconds: float) -> None:
        with self._lock:
            durations = self._durations.get((names, outcome))
            if durations is None:
                known = {name for name, _ in self._durations}
                names = names if names in known or len(known) < NAMES else OTHER
                durations = self._durations.setdefault(
                    (names, outcome), Durations({"perf.signal.name": names, "perf.signal.outcome": outcome})
                )
            durations.add(seconds)


def _attributes(signal: Signal) -> dict[str, Any]:
    who = signal.producer
    attributes: dict[str, Any] = {"perf.signal.name": signal.name, "perf.signal.state": signal.state}
    attributes.update(
        _set({
            "perf.signal.key": signal.key, "perf.signal.scope": signal.scope, "perf.signal.reason": signal.reason,
            "perf.signal.sequence": signal.seq, "gen_ai.agent.name": who.agent, "gen_ai.agent.id": who.agent_id,
        })
    )  # fmt: skip
    return attributes


def _set(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value}


def _fail(span: trace.Span, error: Exception) -> None:
    span.set_status(Status(StatusCode.ERROR, str(error)))
    span.record_exception(error)


def _traceparent(span: trace.Span) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}" if context.is_valid else ""


def _links(signals: Iterable[Signal]) -> list[Link]:
    links = []
    for signal in signals:
        match = _form().fullmatch(signal.traceparent)
        if match is not None:
            context = SpanContext(int(match[1], 16), int(match[2], 16), True, TraceFlags(int(match[3], 16)))
            if context.is_valid:
                links.append(Link(context, {"perf.signal.name": signal.name}))
    return links
