"""Whatever goes wrong inside us or inside an exporter, and whenever: every span comes out once."""

import time
from collections import deque

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks import analyst as analysts
from otel_perf.bottlenecks.detectors.calls import SlowIo
from otel_perf.bottlenecks.root import Root
from tests.bottlenecks.conftest import MS, ids, wait_for


def ago(milliseconds):
    return time.time_ns() - int(milliseconds * MS)


def slow_root(app, name="slow"):
    """A trace that is looked at, and its call that is held back."""
    with app.tracer.start_as_current_span(name, start_time=ago(700)):
        app.tracer.start_span("call", kind=SpanKind.CLIENT, start_time=ago(650)).end()


def once(app, made):
    received = ids(app.spans())
    assert set(received) == set(made)
    assert set(received.values()) <= {1}


def test_a_thread_that_ends_a_span_while_the_root_ends_loses_nothing(app, made, monkeypatch):
    """GIVEN a thread that is not let run between the look at its root and the holding back of its span."""
    app = app()
    root = app.tracer.start_span("root", start_time=ago(300))
    child = app.tracer.start_span("child", trace.set_span_in_context(root), start_time=ago(200))
    original = Root.hold

    def hold(self, span):
        if span.name == "child":
            root.end()
            app.flush()
        original(self, span)

    monkeypatch.setattr(Root, "hold", hold)
    child.end()
    once(app, made)


def test_a_thread_that_ends_a_span_while_the_feature_is_turned_off_loses_nothing(app, made, monkeypatch):
    app = app()
    root = app.tracer.start_span("root", start_time=ago(300))
    child = app.tracer.start_span("child", trace.set_span_in_context(root), start_time=ago(200))
    original = Root.hold

    def hold(self, span):
        app.pipeline.step_down("bottlenecks", "the test")
        original(self, span)

    monkeypatch.setattr(Root, "hold", hold)
    child.end()
    root.end()
    once(app, made)


def test_a_flush_in_another_thread_does_not_end_the_analyst(app, made):
    """GIVEN a flush that takes the last root just after the thread saw it THEN later roots are still looked at."""
    app = app()

    class Emptied(deque):
        shrunk = False

        def __len__(self):
            length = super().__len__()
            if length and not Emptied.shrunk:
                Emptied.shrunk = True
                Emptied.taken = self.popleft()
            return length

        def __bool__(self):
            return len(self) > 0

    app.analyst._queue = Emptied()
    started = app.analyst._started
    app.analyst._started = True  # it is started by hand, and its end is noticed
    ended = []

    def run():
        try:
            app.analyst._run(app.analyst._bell)
        except IndexError as error:
            ended.append(error)

    app.analyst._queue.append((time.monotonic(), Root(1, 1, SpanKind.INTERNAL, 0, 0, None)))
    analysts.start_new_thread(run, ())
    assert not started
    assert wait_for(lambda: Emptied.shrunk)
    slow_root(app)

    def came():
        app.processor._sinks[-1].force_flush()
        return len(app.spans(flush=False)) == 2

    assert wait_for(came, 2)
    assert ended == []


@pytest.mark.usefixtures("absorbing")
def test_errors_of_a_detector_lose_nothing_and_turn_it_off(app, made, monkeypatch, caplog):
    """GIVEN a detector that fails, and more slow roots than it takes to turn the feature off."""
    monkeypatch.setattr(SlowIo, "find", lambda self, trace: 1 / 0)
    app = app()
    for _ in range(30):
        slow_root(app)
    assert wait_for(lambda: not app.pipeline.features["bottlenecks"].on)

    def came():
        app.processor._sinks[-1].force_flush()
        return len(app.spans(flush=False)) == len(made)

    assert wait_for(came, 2)
    once(app, made)
    assert "bottlenecks stepped down: 10 internal errors" in caplog.text


@pytest.mark.usefixtures("absorbing")
def test_an_analysis_that_hangs_costs_no_span(app, made, monkeypatch):
    """GIVEN a look at one trace that takes long WHEN the process ends meanwhile THEN all spans are there, once."""
    original = SlowIo.find

    def find(self, trace):
        if trace.top.name == "endless":
            time.sleep(2.5)
        return original(self, trace)

    monkeypatch.setattr(SlowIo, "find", find)
    app = app()
    slow_root(app, "endless")
    assert wait_for(lambda: app.analyst._working.locked())
    for _ in range(5):
        slow_root(app)
    app.pipeline.shutdown()
    received = ids(app.spans(flush=False))
    assert sorted(received) == sorted(made)


@pytest.mark.usefixtures("absorbing")
def test_a_machine_that_has_no_thread_left_costs_no_span(app, made, monkeypatch):
    def none(function, arguments):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(analysts, "start_new_thread", none)
    app = app()
    for _ in range(3):
        slow_root(app)
    once(app, made)


@pytest.mark.usefixtures("absorbing")
def test_an_exporter_that_raises_does_not_stop_the_analyst(app, made):
    app = app()

    class Broken(SpanProcessor):
        def on_end(self, span):
            if span.name == "slow":
                raise RuntimeError("broken")

    app.fed(Broken())
    for _ in range(2):
        slow_root(app)
        assert wait_for(lambda: not app.analyst._queue, 2)
    app.processor._sinks = app.processor._sinks[:-1]
    once(app, made)
