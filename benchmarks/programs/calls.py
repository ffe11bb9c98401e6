"""Measures calls of a decorated trivial function whenever it is asked to. Argument: SUBJECT, one of SUBJECTS.

Says ``{"made": …}``, package and version, when it is ready. Then, for each line that it reads, which is ``sync`` or
``async``, it says what a call took in a slice of some milliseconds; at ``end``, which part of all its calls was
recorded. What spans belong to, a root span or a transaction, is part of the slice, one for every :data:`CHILDREN`
calls. Nothing is sent anywhere: exporters discard, and no socket of Python's connects or looks a name up.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import gc
import json
import os
import socket
import sys
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

CHILDREN: Final = 500  # calls under one root
SLICE: Final = 0.03  # seconds that one should take, roots permitting
LONGEST: Final = 100_000  # calls in one
KEPT: Final = 4096  # floor: how many durations before they are let go
SLOW: Final = 60.0  # seconds: a call that loses its core for the default 10 ms would be a span, and counted twice
ROOT: Final = "root"
WARM_UP: Final = 4 * CHILDREN

counts: Counter[str] = Counter()


@dataclass(slots=True)
class Subject:
    """What is measured."""

    package: str  # that is to be measured
    plain: Callable[[int], object]
    coroutine: Callable[[int], Awaitable[object]]
    root: Callable[[], AbstractContextManager[object]] = nullcontext
    calls: int = 1  # monitored ones in one that is made here
    recorded: Callable[[], int] | None = None  # how many calls so far, every root included
    flush: Callable[[], object] = bool


def decorated(package: str, decorator: Callable[[Any], Any], **more: Any) -> Subject:
    """Both functions with ``decorator`` applied."""
    from called import awaited, trivial

    return Subject(package, decorator(trivial), decorator(awaited), **more)


def exported() -> int:
    """Spans that arrived where they are discarded."""
    return counts["exported"]


# --- nothing, and next to nothing ----------------------------------------------------------------------


def bare() -> Subject:
    """No decorator."""
    return decorated("opentelemetry-sdk", lambda function: function)


def floor() -> Subject:
    """Two clock reads and an append."""
    kept: list[float] = []
    append = kept.append

    def plain(function: Callable[[int], object]) -> Callable[[int], object]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> object:
            start = perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                append(perf_counter() - start)
                if len(kept) > KEPT:
                    kept.clear()

        return wrapper

    def coroutine(function: Callable[[int], Awaitable[object]]) -> Callable[[int], Awaitable[object]]:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> object:
            start = perf_counter()
            try:
                return await function(*args, **kwargs)
            finally:
                append(perf_counter() - start)
                if len(kept) > KEPT:
                    kept.clear()

        return wrapper

    return decorated(
        "opentelemetry-sdk",
        lambda function: (coroutine if asyncio.iscoroutinefunction(function) else plain)(function),
    )


# --- otel-perf, and OpenTelemetry with the same provider ------------------------------------------------


def discarding() -> Any:
    """An exporter that counts spans and forgets them."""
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Discarding(SpanExporter):
        def export(self, spans: Sequence[object]) -> SpanExportResult:
            counts["exported"] += len(spans)
            return SpanExportResult.SUCCESS

    return Discarding()


def provider() -> Any:
    """The global tracer provider, with a batch processor in front of an exporter that discards."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(BatchSpanProcessor(discarding()))
    trace.set_tracer_provider(made)
    return made


def otel(*, code: bool = False) -> Subject:
    """OpenTelemetry's own decorator, with the attributes that otel-perf gives a span if ``code``."""
    made = provider()
    tracer = made.get_tracer("bench")

    def decorator(function: Any) -> Any:
        attributes = None
        if code:
            from otel_perf.calls.decorators import code_of

            attributes = code_of(function)
        return tracer.start_as_current_span(function.__name__, attributes=attributes)(function)

    root = functools.partial(tracer.start_as_current_span, ROOT)
    return decorated("opentelemetry-sdk", decorator, root=root, recorded=exported, flush=made.force_flush)


def counted() -> int:
    """Calls in otel-perf's statistics."""
    from otel_perf.calls.function import FUNCTIONS

    return sum(one.count for one in FUNCTIONS.counts())


def turned_on() -> Callable[..., Any]:
    """``monitored``, with the feature on."""
    import otel_perf
    from otel_perf.calls.function import FUNCTIONS

    FUNCTIONS.turn(True, slow=SLOW)
    return otel_perf.monitored


def quiet() -> Subject:
    """Calls that nobody needs a span of, under no span."""
    return decorated("otel-perf", turned_on(), recorded=counted)


def under_span() -> Subject:
    """The same under a span of the SDK's, as in a server's request."""
    made = provider()
    return decorated(
        "otel-perf",
        turned_on(),
        root=functools.partial(made.get_tracer("bench").start_as_current_span, ROOT),
        recorded=lambda: counted() + exported(),
        flush=made.force_flush,
    )


def nested() -> Subject:
    """A function that calls four others, all five of them monitored."""
    from called import awaited, trivial

    monitored = turned_on()
    inner, awaited_inner = monitored(trivial), monitored(awaited)

    @monitored
    def plain(number: int) -> int:
        inner(number)
        inner(number)
        inner(number)
        return inner(number)

    @monitored
    async def coroutine(number: int) -> int:
        await awaited_inner(number)
        await awaited_inner(number)
        await awaited_inner(number)
        return await awaited_inner(number)

    return Subject("otel-perf", plain, coroutine, calls=5, recorded=counted)


def off() -> Subject:
    """Decorated, and the feature is off."""
    import otel_perf

    return decorated("otel-perf", otel_perf.monitored)


def late() -> Subject:
    """Every call is slow, and becomes a span at its end."""
    monitored = turned_on()
    from otel_perf.calls.function import FUNCTIONS

    FUNCTIONS.turn(True, slow=0.0)
    return spans_of(monitored)


def real() -> Subject:
    """A span of every call, from its start."""
    return spans_of(turned_on()(span="always"))


def spans_of(decorator: Callable[..., Any]) -> Subject:
    """What ``decorator`` covers, within a recorded span, and what of it was exported."""
    made = provider()
    return decorated(
        "otel-perf",
        decorator,
        root=functools.partial(made.get_tracer("bench").start_as_current_span, ROOT),
        recorded=exported,
        flush=made.force_flush,
    )


# --- the others -----------------------------------------------------------------------------------------


def aws() -> Subject:
    """ServiceEvents as it sets itself up: its import hook rewrites the module, a histogram takes each duration."""
    from amazon.opentelemetry.distro.serviceevents.ast_transformation import install_ast_hooks
    from amazon.opentelemetry.distro.serviceevents.python_monitor import _ServiceEventsMonitorState, set_sampling_mode
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View

    name = "service.function.duration"
    reader = InMemoryMetricReader()
    view = View(instrument_name=name, aggregation=ExponentialBucketHistogramAggregation())
    meter = MeterProvider([reader], views=[view], shutdown_on_exit=False).get_meter("serviceevents", "1.0")
    state = _ServiceEventsMonitorState.get_instance()
    state.set_metric_base_attrs({"Telemetry.Source": "ServiceEvents"})
    state.set_function_duration_histogram(meter.create_histogram(name, unit="Microseconds"))
    set_sampling_mode("always")  # its default
    install_ast_hooks({"called"})

    def recorded() -> int:
        data = reader.get_metrics_data()
        metrics = [metric for part in data.resource_metrics for scope in part.scope_metrics for metric in scope.metrics]
        return sum(point.count for metric in metrics for point in metric.data.data_points)

    return decorated("aws-opentelemetry-distro", lambda function: function, recorded=recorded)


def ddtrace() -> Subject:
    """Datadog's decorator, with a writer that discards."""
    from ddtrace.internal.writer.writer import TraceWriter
    from ddtrace.trace import tracer

    class Discarding(TraceWriter):
        def write(self, spans: Sequence[object] | None = None) -> None:
            counts["exported"] += len(spans or ())

        def stop(self, timeout: float | None = None) -> None:
            pass

        def recreate(self, *_: object, **__: object) -> Discarding:
            return self

        def flush_queue(self, *_: object, **__: object) -> None:
            pass

    tracer._span_aggregator.writer = Discarding()
    return decorated("ddtrace", tracer.wrap(), root=functools.partial(tracer.trace, ROOT), recorded=exported)


def logfire() -> Subject:
    """Logfire's decorator as it is by default, with a batch processor in front of an exporter that discards."""
    import logfire as module
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    module.configure(
        send_to_logfire=False,
        console=False,
        metrics=False,
        inspect_arguments=False,
        additional_span_processors=[BatchSpanProcessor(discarding())],
    )
    root = functools.partial(module.span, ROOT)
    return decorated("logfire", module.instrument(), root=root, recorded=exported, flush=module.force_flush)


def sentry() -> Subject:
    """Sentry's decorator, with a transport that discards."""
    import sentry_sdk
    from sentry_sdk.transport import Transport

    class Discarding(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            for item in envelope.items:
                if item.payload.json and "spans" in item.payload.json:
                    counts["exported"] += len(item.payload.json["spans"]) + 1

    sentry_sdk.init(
        dsn="http://key@127.0.0.1:9/1",
        traces_sample_rate=1.0,
        transport=Discarding,
        default_integrations=False,
        auto_enabling_integrations=False,
    )
    root = functools.partial(sentry_sdk.start_transaction, name=ROOT)
    return decorated("sentry-sdk", sentry_sdk.trace, root=root, recorded=exported)


def newrelic() -> Subject:
    """New Relic's decorator in a background transaction, the agent in its developer mode, which sends nothing."""
    from newrelic import agent
    from newrelic.core.application import Application

    record = Application.record_transaction

    def recorded(self: Application, data: Any) -> None:
        counts["exported"] += len(data.root.children) + 1
        record(self, data)

    Application.record_transaction = recorded
    agent.initialize()
    application = agent.register_application(timeout=10.0)
    if not application.active:
        raise RuntimeError("newrelic: the application did not become active in developer mode")
    root = functools.partial(agent.BackgroundTask, application, name=ROOT)
    return decorated("newrelic", agent.function_trace(), root=root, recorded=exported)


SUBJECTS: Final[dict[str, Callable[[], Subject]]] = {
    "bare": bare,
    "floor": floor,
    "quiet": quiet,
    "pure": quiet,
    "under-span": under_span,
    "nested": nested,
    "off": off,
    "late": late,
    "real": real,
    "otel": otel,
    "otel-code": functools.partial(otel, code=True),
    "aws": aws,
    "ddtrace": ddtrace,
    "logfire": logfire,
    "sentry": sentry,
    "newrelic": newrelic,
}


# --- measuring --------------------------------------------------------------------------------------------


def made_of(package: str) -> str:
    """The version, and whether otel-perf runs its compiled path."""
    text = f"{package} {version(package)}"
    if package == "otel-perf":
        from otel_perf.calls.call import COMPILED

        text += ", compiled" if COMPILED else ", pure Python"
    return text


class Measurement:
    """Slices of calls of one subject."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.made = self.roots = 0  # calls, and what they were under
        self._loop = asyncio.new_event_loop()
        self._roots = {kind: self._calibrated(kind) for kind in ("sync", "async")}

    def slice(self, kind: str) -> dict[str, float]:
        """CPU nanoseconds a call of the calling thread, and of all threads with what is flushed."""
        gc.collect()
        return self._slice(kind, self._roots[kind])

    def _calibrated(self, kind: str) -> int:
        self._slice(kind, WARM_UP // CHILDREN)
        cost = self._slice(kind, WARM_UP // CHILDREN)["thread"] * self.subject.calls / 1e9
        return max(1, round(min(SLICE / cost, LONGEST) / CHILDREN))

    def _slice(self, kind: str, roots: int) -> dict[str, float]:
        process = process_time()
        thread = self._plain(roots) if kind == "sync" else self._loop.run_until_complete(self._async(roots))
        self.subject.flush()
        process = process_time() - process
        calls = roots * CHILDREN * self.subject.calls
        self.made += calls
        self.roots += roots
        return {"thread": thread / calls * 1e9, "process": process / calls * 1e9}

    def _plain(self, roots: int) -> float:
        function, root, numbers = self.subject.plain, self.subject.root, range(CHILDREN)
        start = thread_time()
        for _ in range(roots):
            with root():
                for number in numbers:
                    function(number)
        return thread_time() - start

    async def _async(self, roots: int) -> float:
        function, root, numbers = self.subject.coroutine, self.subject.root, range(CHILDREN)
        start = thread_time()
        for _ in range(roots):
            with root():
                for number in numbers:
                    await function(number)
        return thread_time() - start

    def recorded(self) -> float | None:
        """The part of all calls that was recorded, if that can be told."""
        if self.subject.recorded is None:
            return None
        roots = 0 if self.subject.root is nullcontext else self.roots
        return (self.subject.recorded() - roots) / self.made


def refuse(*_: object) -> int:
    """Stands in for what a socket connects with."""
    raise OSError(errno.ENETUNREACH, "benchmarks/calls.py sends nothing")


def main(name: str) -> None:
    """Answer on what was standard output; what the subjects print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    socket.socket.connect = socket.socket.connect_ex = refuse  # type: ignore[assignment,method-assign]
    socket.getaddrinfo = refuse  # type: ignore[assignment]
    sys.path.append(str(Path(__file__).resolve().parent))  # last: no name in this folder hides a package
    measurement = Measurement(SUBJECTS[name]())
    print(json.dumps({"made": made_of(measurement.subject.package)}), file=answers)
    for line in sys.stdin:
        if line.strip() == "end":
            print(json.dumps({"recorded": measurement.recorded()}), file=answers)
        else:
            print(json.dumps(measurement.slice(line.strip())), file=answers)
    os._exit(0)  # what the subjects do at exit, like waiting for their senders, is of no interest


if __name__ == "__main__":
    main(sys.argv[1])
