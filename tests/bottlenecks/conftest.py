"""The whole pipeline in this process, with another exporter beside the store to look at what comes out."""

import gc
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import Tracer
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks import frames
from otel_perf.bottlenecks.root import Root
from otel_perf.bottlenecks.watchdog import Watchdog

MS = 1_000_000  # ns
NOISE = {"gc_pause", "cpu_starved", "gil_wait"}  # of a machine that is busy


class App:
    """A program with the feature on."""

    def __init__(self, pipeline, exporter):
        self.pipeline = pipeline
        self.exporter = exporter
        self.tracer = trace.get_tracer("t")
        self.made = []  # ids of the spans that `span` and `call` made

    @property
    def processor(self):
        return self.pipeline.providers.shaper

    @property
    def analyst(self):
        return self.processor.flush.__self__

    @property
    def watchdog(self):
        """The one at work; ask once, it is looked for."""
        (found,) = (
            item
            for item in gc.get_objects()
            if type(item) is Watchdog and item._processor is self.processor and not item._ended
        )
        return found

    def flush(self):
        assert self.pipeline.providers.tracer.force_flush()

    def spans(self, *, flush=True):
        """What came out so far, in order."""
        if flush:
            self.flush()
        return self.exporter.get_finished_spans()

    def by_name(self):
        return {span.name: span for span in self.spans()}

    def findings(self, *kinds):
        """(span, its finding's attributes) for each finding that came out, of these kinds."""
        return [
            (span, dict(event.attributes))
            for span in self.spans()
            for event in span.events
            if event.name == "perf.bottleneck" and (not kinds or event.attributes["perf.bottleneck.kind"] in kinds)
        ]

    def kinds(self):
        return {found["perf.bottleneck.kind"] for _, found in self.findings()}

    def call(self, name, seconds, **attributes):
        """A call to somebody else, who takes some time."""
        with self.tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=attributes):
            time.sleep(seconds)

    def fed(self, sink):
        """``sink`` as the place where the feature's spans go, which a test may break."""
        self.processor._sinks = (*self.processor._sinks, sink)
        return sink


@pytest.fixture
def app(start, monkeypatch):
    """Start the pipeline with these variables; another exporter is there as ``OTEL_TRACES_EXPORTER`` would name it."""

    def run(**environ):
        exporter = InMemorySpanExporter()
        monkeypatch.setattr(
            "otel_perf.providers._other_exporters",
            lambda signal, *_: [exporter] if signal == "traces" else [],
        )
        return App(start(**{"OTEL_BSP_MAX_QUEUE_SIZE": "1000000", **environ}), exporter)

    # What thousands of tests left would take a full collection of a tenth of a second, anywhere in a span.
    gc.freeze()
    yield run
    gc.unfreeze()


@pytest.fixture
def made(monkeypatch):
    """The (trace id, span id) of every sampled span that is begun, by whomever."""
    ids = []
    original = Tracer.start_span

    def start_span(self, *arguments, **named):
        span = original(self, *arguments, **named)
        context = span.get_span_context()
        if span.is_recording():
            ids.append((context.trace_id, context.span_id))
        return span

    monkeypatch.setattr(Tracer, "start_span", start_span)
    return ids


def ids(spans):
    """How often each span is among them."""
    return Counter((span.context.trace_id, span.context.span_id) for span in spans)


def kept_of(traces):
    """The local roots of these traces that something still holds."""
    gc.collect()
    return [item for item in gc.get_objects() if type(item) is Root and item.trace_id in traces]


def wait_for(condition, seconds=10):
    """Whether it became true within the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def comes_to_rest(thread):
    """Whether it stands still before long: at the same instruction for a while, and not for want of a CPU."""
    seen = [None]

    def rests():
        time.sleep(0.01)
        seen.append(frames.threads(1).get(thread.ident))
        stat = Path(f"/proc/self/task/{thread.native_id}/stat")
        return seen[-1] and seen[-1] == seen[-2] and (not stat.exists() or ") S " in stat.read_text())

    return wait_for(rests)


def in_threads(function, number):
    """The results of ``function(index)`` in so many threads at once."""
    barrier = threading.Barrier(number)

    def run(index):
        barrier.wait()
        return function(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


def costs_fit(spans):
    """Whether, in every trace, all findings together cost no more than its local root took."""
    cost, longest = Counter(), Counter()
    for span in spans:
        key = span.context.trace_id
        longest[key] = max(longest[key], (span.end_time or 0) - (span.start_time or 0))
        for event in span.events:
            if event.name == "perf.bottleneck":
                assert event.attributes["perf.bottleneck.cost"] >= 0
                cost[key] += event.attributes["perf.bottleneck.cost"]
    return all(cost[key] * 1e9 <= longest[key] + 1_000 for key in cost)
