"""The part of the processor that is compiled, and its twin in Python: the same spans leave the same behind."""

import gc
import importlib
import os
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks import recorder
from otel_perf.bottlenecks.baseline import WINDOW
from otel_perf.core.guard import Guard, strict
from otel_perf.testing import SequentialIds

MS = 1_000_000  # ns
PACKAGE = "otel_perf.bottlenecks"
NAMES = ("baseline", "recorder", "root", "processor")
KINDS = (SpanKind.INTERNAL, SpanKind.CLIENT, SpanKind.SERVER)
STATEMENTS = (
    None,
    {"db.statement": "SELECT 1"},
    {"http.url": "http://a/1"},
    {"url.full": 7},
    {"db.query.text": "x" * 2_000},
)


def modules():
    return {name: importlib.import_module(f"{PACKAGE}.{name}") for name in NAMES}


def in_python():
    """The modules as they are where nothing could be compiled."""
    package = sys.modules[PACKAGE]
    saved = modules()
    native = sys.modules.get(f"{PACKAGE}._recorder")
    for name in NAMES:
        del sys.modules[f"{PACKAGE}.{name}"]
    sys.modules[f"{PACKAGE}._recorder"] = None
    try:
        return modules()
    finally:
        for name, module in saved.items():
            sys.modules[f"{PACKAGE}.{name}"] = module
            setattr(package, name, module)
        del sys.modules[f"{PACKAGE}._recorder"]
        if native is not None:
            sys.modules[f"{PACKAGE}._recorder"] = native


TWINS = {"compiled": modules(), "python": in_python()}


class Sink(SpanProcessor):
    def __init__(self):
        self.names = []

    def on_end(self, span):
        self.names.append(span.name)


class Starting(Sink):
    def __init__(self):
        super().__init__()
        self.started = []

    def on_start(self, span, parent_context=None):
        self.started.append(span.name)


class Watched:
    """A processor of one kind with a tracer, and what came of it."""

    def __init__(self, kind, sink=None):
        twin = TWINS[kind]
        self.baselines = twin["baseline"].Baselines()
        self.processor = twin["processor"].BottleneckProcessor(lambda: Guard("test"), self.baselines)
        self.begun, self.finished = [], []
        self.processor.on = True
        self.processor.begun = lambda root: self.begun.append(root.span_id)
        self.processor.finished = self._finished
        self.sink = sink or Sink()
        self.processor.feed(self.sink)
        provider = TracerProvider(id_generator=SequentialIds())
        provider.add_span_processor(self.processor)
        self.tracer = provider.get_tracer("t")

    def _finished(self, root):
        ended = [(span.name, task) for span, _, task in root.ended]
        self.finished.append((root.span_id, root.start, root.kind, ended, root.clocks is not None))
        self.processor.release(root)

    def known(self):
        """All that has to be alike."""
        made = self.processor
        return {
            "begun": self.begun,
            "finished": self.finished,
            "handed on": self.sink.names,
            "open": list(made.open),
            "roots": [root.span_id for root in made.roots.values()],
            "skipped": made.skipped,
            "operations": {name: (known.seen, known.recent) for name, known in self.baselines.roots.items()},
            "calls": {key: (known.seen, known.recent) for key, known in self.baselines.clients.items()},
        }


@pytest.fixture(params=TWINS)
def watched(request):
    return Watched(request.param)


def test_the_compiled_part_is_what_runs_here():
    if not os.environ.get("CI") and recorder.Recorder is recorder._Recorder:
        pytest.skip("otel_perf/bottlenecks/_recorder.c is not compiled here")
    assert recorder.Recorder is not recorder._Recorder
    twin = TWINS["python"]["recorder"]
    assert twin.Recorder is twin._Recorder


STEPS = st.one_of(
    st.tuples(
        st.just("start"),
        st.integers(0, 9),  # its parent
        st.sampled_from(KINDS),
        st.sampled_from(STATEMENTS),
        st.integers(-5, 120),  # ms after its parent
    ),
    st.tuples(st.just("end"), st.integers(0, 9), st.integers(-5, 120)),
    st.tuples(st.just("noted"), st.integers(0, 200)),
    st.tuples(st.just("off"), st.booleans()),
)


def played(kind, steps, base):
    strict(True)
    app = Watched(kind)
    spans, starts, ended = [], [], set()
    for step in steps:
        if step[0] == "start":
            _, parent, span_kind, attributes, after = step
            if parent < len(spans):
                context, start = trace.set_span_in_context(spans[parent]), starts[parent] + after * MS
            else:
                context, start = trace.set_span_in_context(trace.INVALID_SPAN), base + after * MS
            name = f"{span_kind.name} {len(spans) % 3}"
            spans.append(app.tracer.start_span(name, context, span_kind, attributes, start_time=start))
            starts.append(start)
        elif step[0] == "end" and step[1] < len(spans) and step[1] not in ended:
            ended.add(step[1])
            spans[step[1]].end(starts[step[1]] + step[2] * MS)
        elif step[0] == "noted":
            app.processor.noted = base + step[1] * MS
        elif step[0] == "off":
            app.processor.on = not step[1]
    known = app.known()
    app.processor.forget()
    assert app.processor.kept == 0
    assert sorted(app.sink.names) == sorted(spans[number].name for number in ended)
    return known


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_the_same_spans_leave_the_same_behind(steps):
    base = time.time_ns() - 1_000 * MS
    assert played("compiled", steps, base) == played("python", steps, base)


def test_of_one_window_the_same_is_learnt():
    window = sorted(int(1.17**number * 1_000) for number in range(WINDOW))
    learnt = [
        twin["baseline"].learnt({3: 0.5, 7: 0.001}, [*window, 0, 10**18, 0.5], 0.9, 0.01, 1e13, 23.0)
        for twin in TWINS.values()
    ]
    assert learnt[0] == learnt[1]
    assert 7 not in learnt[0]


def test_a_regression_is_seen(watched):
    def requests(milliseconds):
        for _ in range(WINDOW):
            start = time.time_ns()
            watched.tracer.start_span("GET", start_time=start).end(start + milliseconds * MS)

    for milliseconds in (10, 10, 10, 10, 20, 20):
        requests(milliseconds)
    assert watched.baselines.roots["GET"].regression is not None
    assert len(watched.finished) == 1  # the one that completed the window


def test_who_wants_to_know_of_starts_is_told(watched):
    sink = Starting()
    watched.processor.feed(sink)
    with watched.tracer.start_as_current_span("root"):
        watched.tracer.start_span("child").end()
    assert sink.started == ["root", "child"]
    assert sink.names == ["child", "root"]
    assert watched.sink.names == ["child", "root"]


def test_a_share_of_the_traces_is_chosen_by_their_ids(watched):
    watched.processor.share = 0.0
    watched.tracer.start_span("none").end()
    assert watched.begun == []
    watched.processor.share = 1.0
    watched.tracer.start_span("all").end()
    assert len(watched.begun) == 1


def test_what_goes_wrong_with_us_is_handled_and_the_span_goes_on(watched):
    handled = []
    watched.processor._failed = handled.append
    watched.processor._guard = lambda: type("", (), {"handle": staticmethod(handled.append)})
    watched.processor.begun = lambda _root: 1 / 0
    watched.tracer.start_span("root").end()
    assert [type(error) for error in handled] == [ZeroDivisionError]
    assert watched.sink.names == ["root"]
    assert not watched.processor.open


def test_an_interrupt_is_not_ours_to_handle(watched):
    def interrupted(_root):
        raise KeyboardInterrupt

    watched.processor.begun = interrupted
    with pytest.raises(KeyboardInterrupt):
        watched.tracer.start_span("root")


def test_what_a_sink_raises_is_not_ours_to_handle(watched):
    def failing(_span):
        raise ValueError("full")

    watched.sink.on_end = failing
    with pytest.raises(ValueError, match="full"):
        watched.tracer.start_span("root").end()


def test_times_beyond_all_bounds_are_counted_somehow(watched):
    for start, end in ((0, 10**30), (-(10**30), 5), (float("inf"), 1.5), (float("nan"), 2), (10**18, -(10**18))):
        with trace.use_span(watched.tracer.start_span("root", start_time=start), end_on_exit=False) as root:
            watched.tracer.start_span("child", kind=SpanKind.CLIENT, start_time=start).end(end)
        root.end(end)
    watched.processor.forget()
    assert watched.sink.names.count("root") == watched.sink.names.count("child") == 5
    assert watched.processor.kept == 0


@pytest.mark.parametrize("setting", ["open", "roots", "_sinks", "_starting"])
def test_what_is_not_a_container_cannot_be_set(setting):
    if recorder.Recorder is recorder._Recorder:
        pytest.skip("otel_perf/bottlenecks/_recorder.c is not compiled here")
    made = Watched("compiled").processor
    for wrong in (None, 1, []):
        with pytest.raises(TypeError, match=setting):
            setattr(made, setting, wrong)
    with pytest.raises(TypeError):
        delattr(made, setting)


def test_threads_count_exactly(watched):
    """GIVEN eight threads, each with roots of its own WHEN all have ended THEN nothing counts as kept."""

    def work():
        for _ in range(200):
            with watched.tracer.start_as_current_span("root"):
                for _ in range(10):
                    watched.tracer.start_span("child").end()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watched.processor.kept == 0
    assert not watched.processor.open
    assert not watched.processor.roots
    assert len(watched.sink.names) == 8 * 200 * 11


def test_nothing_is_left_of_spans_and_processors(watched):
    def run(made):
        for number in range(300):
            with made.tracer.start_as_current_span("root"):
                for child in range(5):
                    made.tracer.start_span("child", kind=KINDS[child % 2], attributes=STATEMENTS[child]).end()
                open_one = made.tracer.start_span(f"outlives {number % 2}")
            open_one.end()
            made.sink.names.clear()
            made.begun.clear()

    run(watched)
    counts = []
    for _ in range(3):
        run(watched)
        gc.collect()
        counts.append(len(gc.get_objects()))
    assert counts[2] - counts[1] < 50
    assert not watched.processor.open
