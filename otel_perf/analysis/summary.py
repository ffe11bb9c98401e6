"""What a store holds, in the order in which somebody with a slow service wants to know it."""

from __future__ import annotations

from array import array
from collections import defaultdict
from typing import TYPE_CHECKING

from pydantic import BaseModel

from otel_perf.analysis import otlp
from otel_perf.analysis.bottlenecks import Bottleneck, Bottlenecks
from otel_perf.analysis.errors import ErrorGroup, Errors
from otel_perf.analysis.events import BusinessEvent, Events, RequestRow, SummaryRow
from otel_perf.analysis.functions import FunctionRow, Functions
from otel_perf.analysis.intervals import covered
from otel_perf.analysis.logs import LogLines, Logs
from otel_perf.analysis.memory import Cache, Memory, MemoryEvent, Process
from otel_perf.analysis.numbers import quantile
from otel_perf.analysis.otlp import service_of
from otel_perf.analysis.readiness import Readiness, Signals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_perf.analysis.otlp import LogEntry, SpanRecord
    from otel_perf.store.database import StoreReader


class Operation(BaseModel):
    """All spans of one service with one name and kind. Times in seconds."""

    service: str
    name: str
    kind: str
    count: int
    errors: int
    total: float
    self_time: float
    p50: float
    p99: float
    slowest: float
    slowest_trace: str


class Trace(BaseModel):
    """One trace, by its root (or its earliest span, if the root is not here). Times in seconds."""

    trace_id: str
    root: str
    service: str
    start_ns: int
    duration: float
    spans: int
    errors: int
    logs: int


class Store(BaseModel):
    """The store itself. ``pending`` (not delivered) and ``dropped`` are items by signal."""

    path: str
    size: int
    pending: dict[str, int]
    dropped: dict[str, int]
    sent_to: list[str]


class Report(BaseModel):
    """Everything ``otel-perf report`` shows; the schema of its ``--json``."""

    first_ns: int
    last_ns: int
    services: list[str]
    traces: int
    spans: int
    bottlenecks: list[Bottleneck]
    slowest_traces: list[Trace]
    operations: list[Operation]
    functions: list[FunctionRow]
    errors: list[ErrorGroup]
    processes: list[Process]
    caches: list[Cache]
    memory: list[MemoryEvent]
    requests: list[RequestRow]
    events: list[BusinessEvent]
    summaries: list[SummaryRow]
    readiness: Readiness
    logs: Logs
    store: Store


def summarize(store: StoreReader, *, after: int = 0, since_ns: int = 0, service: str = "", top: int = 10) -> Report:
    """Read the store and report on it; ``top`` rows of each list.

    Cost: about 15 µs a span; memory about 0.4 kB a span while it runs.
    """
    spans, signals = _Spans(), Signals()
    errors = Errors()
    for span in otlp.spans(store.batches(["traces"], after=after, since_ns=since_ns)):
        if _of(span.resource, service):
            if not signals.add(span):
                spans.add(span)
            errors.add_span(span)
    bottlenecks, memory, events, lines = Bottlenecks(), Memory(), Events(), LogLines()
    for entry in otlp.logs(store.batches(["logs"], after=after, since_ns=since_ns)):
        if _of(entry.resource, service) and not bottlenecks.add(entry) and not events.add(entry):
            lines.add(entry)
            memory.add_log(entry)
            errors.add_log(entry)
            spans.add_log(entry)
    functions = Functions()
    points = otlp.points(store.batches(["metrics"], after=after, since_ns=since_ns))
    for point in functions.watching(point for point in points if _of(point.resource, service)):
        memory.add_point(point)
        lines.add_point(point)
    processes = memory.processes()
    traces = spans.traces()
    return Report(
        first_ns=spans.first or 0,
        last_ns=spans.last,
        services=sorted(spans.services | {process.service for process in processes}),
        traces=len(traces),
        spans=spans.count,
        bottlenecks=bottlenecks.rows()[:top],
        slowest_traces=sorted(traces, key=lambda trace: -trace.duration)[:top],
        operations=sorted(spans.operations(), key=lambda operation: -operation.self_time)[:top],
        functions=functions.rows()[:top],
        errors=errors.groups()[:top],
        processes=processes[:top],
        caches=memory.caches()[:top],
        memory=memory.events()[:top],
        requests=events.requests()[:top],
        events=events.business()[:top],
        summaries=events.summaries()[:top],
        readiness=signals.readiness(top),
        logs=lines.logs(top),
        store=Store(
            path=str(store.path),
            size=store.size(),
            pending={signal: items for signal, (_, items) in store.pending().items()},
            dropped={signal: items for signal, (_, items) in store.dropped().items()},
            sent_to=[delivery.place for delivery in store.deliveries() if not delivery.error],
        ),
    )


def _of(resource: dict[str, object], service: str) -> bool:
    return not service or resource.get("service.name") == service


class _Spans:
    """Durations by operation, and the intervals of each span's children for its own time."""

    def __init__(self) -> None:
        self.count = 0
        self.first: int | None = None
        self.last = 0
        self.services: set[str] = set()
        self._rows: list[tuple[str, str, tuple[str, str, str], int, int]] = []
        self._children: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._errors: dict[tuple[str, str, str], int] = defaultdict(int)
        self._traces: dict[str, Trace] = {}
        self._has_root: set[str] = set()
        self._ends: dict[str, int] = {}

    def add(self, span: SpanRecord) -> None:
        service = service_of(span.resource)
        key = (service, span.name, span.kind)
        self.count += 1
        self.services.add(service)
        self.first = span.start if self.first is None else min(self.first, span.start)
        self.last = max(self.last, span.end)
        self._rows.append((span.trace_id, span.span_id, key, span.start, span.end))
        if span.parent_id:
            self._children[span.parent_id].append((span.start, span.end))
        self._errors[key] += span.error
        self._add_to_trace(span, service)

    def _add_to_trace(self, span: SpanRecord, service: str) -> None:
        trace = self._traces.get(span.trace_id)
        if trace is None:
            trace = self._traces[span.trace_id] = Trace(
                trace_id=span.trace_id, root=span.name, service=service, start_ns=span.start,
                duration=0.0, spans=0, errors=0, logs=0,
            )  # fmt: skip
        trace.spans += 1
        trace.errors += span.error
        root = not span.parent_id
        if root or (span.trace_id not in self._has_root and span.start < trace.start_ns):
            trace.root, trace.service = span.name, service
        if root:
            self._has_root.add(span.trace_id)
        trace.start_ns = min(trace.start_ns, span.start)
        end = self._ends[span.trace_id] = max(self._ends.get(span.trace_id, 0), span.end)
        trace.duration = (end - trace.start_ns) / 1e9

    def add_log(self, entry: LogEntry) -> None:
        trace = self._traces.get(entry.trace_id)
        if trace is not None:
            trace.logs += 1

    def traces(self) -> list[Trace]:
        return list(self._traces.values())

    def operations(self) -> Iterator[Operation]:
        durations: dict[tuple[str, str, str], array[float]] = defaultdict(lambda: array("d"))
        own: dict[tuple[str, str, str], float] = defaultdict(float)
        slowest: dict[tuple[str, str, str], tuple[float, str]] = {}
        for trace_id, span_id, key, start, end in self._rows:
            seconds = max(0, end - start) / 1e9
            durations[key].append(seconds)
            own[key] += max(0.0, seconds - covered(self._children.get(span_id, ()), start, end) / 1e9)
            if key not in slowest or seconds > slowest[key][0]:
                slowest[key] = (seconds, trace_id)
        for key, values in durations.items():
            ordered = sorted(values)
            yield Operation(
                service=key[0], name=key[1], kind=key[2],
                count=len(ordered), errors=self._errors[key], total=sum(ordered), self_time=own[key],
                p50=quantile(ordered, 0.50), p99=quantile(ordered, 0.99),
                slowest=slowest[key][0], slowest_trace=slowest[key][1],
            )  # fmt: skip
