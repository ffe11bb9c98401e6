"""A percentage chooses traces, the same ones everywhere; on and off at run time; off is not there at all."""

import json
import os
import random
import subprocess
import sys
import textwrap
import time

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor
from opentelemetry.trace import SpanKind

from otel_perf.bottlenecks.processor import BottleneckProcessor
from tests.bottlenecks.conftest import MS


def ago(milliseconds):
    return time.time_ns() - int(milliseconds * MS)


def remote(trace_id):
    context = trace.SpanContext(trace_id, 77, is_remote=True, trace_flags=trace.TraceFlags(1))
    return trace.set_span_in_context(trace.NonRecordingSpan(context))


def slow_trace(app, trace_id):
    with app.tracer.start_as_current_span("root", remote(trace_id), start_time=ago(700)):
        app.tracer.start_span("call", kind=SpanKind.CLIENT, start_time=ago(690)).end()
        with app.tracer.start_as_current_span("function", start_time=ago(600)):
            app.tracer.start_span("inner", kind=SpanKind.CLIENT, start_time=ago(590)).end()


def flagged(app):
    return {span.context.trace_id for span in app.spans() if "perf.bottleneck" in (span.attributes or {})}


def flag(path, value):
    path.write_text(json.dumps({"flags": {"perf.bottlenecks": {"variants": {"v": value}, "defaultVariant": "v"}}}))


def some_ids(number):
    source = random.Random(3)
    return [source.getrandbits(128) for _ in range(number)]


def test_a_quarter_is_about_a_quarter(app):
    app = app(OTEL_PERF_BOTTLENECKS="25%")
    chosen = 0
    for trace_id in some_ids(4_000):
        span = app.tracer.start_span("root", remote(trace_id))
        chosen += len(app.processor.roots)
        span.end()
    assert 880 < chosen < 1_120  # 4.4 standard deviations


def test_all_spans_of_a_trace_agree(app):
    app = app(OTEL_PERF_BOTTLENECKS="25%")
    made = some_ids(200)
    for trace_id in made:
        with app.tracer.start_as_current_span("root", remote(trace_id)):
            root_open = len(app.processor.open)
            with app.tracer.start_as_current_span("child"):
                app.tracer.start_span("leaf")
                assert len(app.processor.open) == 3 * root_open
        app.processor.open.clear()


def test_the_same_traces_are_chosen_in_every_process(app):
    program = textwrap.dedent("""
        import random, sys
        from opentelemetry import trace
        from otel_perf.pipeline import Pipeline
        pipeline = Pipeline(); pipeline.start()
        source, tracer = random.Random(3), trace.get_tracer("t")
        for _ in range(300):
            context = trace.SpanContext(source.getrandbits(128), 77, True, trace.TraceFlags(1))
            span = tracer.start_span("root", trace.set_span_in_context(trace.NonRecordingSpan(context)))
            print(len(pipeline.providers.shaper.roots), end="")
            span.end()
        pipeline.shutdown()
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={
        **os.environ, "OTEL_PERF_BOTTLENECKS": "25%", "OTEL_SERVICE_NAME": "another", "OTEL_PERF_STORE": "off",
    })  # fmt: skip
    app = app(OTEL_PERF_BOTTLENECKS="25%")
    here = ""
    for trace_id in some_ids(300):
        span = app.tracer.start_span("root", remote(trace_id))
        here += str(len(app.processor.roots))
        span.end()
    assert done.stdout == here
    assert 40 < here.count("1") < 110


def test_a_larger_share_has_the_traces_of_a_smaller_one(app, tmp_path):
    path = tmp_path / "flags.json"
    flag(path, "25%")
    app = app(OTEL_PERF_FLAGS_FILE=str(path))
    chosen = []
    for value in ("25%", "50%", True):
        flag(path, value)
        app.pipeline.reload()
        some = set()
        for trace_id in some_ids(300):
            span = app.tracer.start_span("root", remote(trace_id))
            if app.processor.roots:
                some.add(trace_id)
            span.end()
        chosen.append(some)
    assert chosen[0] < chosen[1] < chosen[2]
    assert len(chosen[2]) == 300


def test_findings_are_on_the_chosen_traces_only(app):
    app = app(OTEL_PERF_BOTTLENECKS="50%")
    low, high = 2**100 + 5, 2**100 + 2**56 - 5
    slow_trace(app, low)
    slow_trace(app, high)
    assert flagged(app) == {high}
    assert len(app.spans()) == 8


def test_it_goes_on_and_off_at_run_time(app, tmp_path):
    path = tmp_path / "flags.json"
    flag(path, False)
    app = app(OTEL_PERF_FLAGS_FILE=str(path))
    expected = set()
    for number, value in enumerate((False, True, False, "on", "off", True), 1):
        flag(path, value)
        app.pipeline.reload()
        slow_trace(app, number)
        app.flush()
        if value in {True, "on"}:
            expected.add(number)
    assert flagged(app) == expected
    assert len(app.spans()) == 6 * 4


def test_a_trace_that_is_open_when_it_is_turned_on_comes_out_whole(app, tmp_path):
    path = tmp_path / "flags.json"
    flag(path, False)
    app = app(OTEL_PERF_FLAGS_FILE=str(path))
    with app.tracer.start_as_current_span("root", start_time=ago(700)):
        flag(path, True)
        app.pipeline.reload()
        app.tracer.start_span("call", kind=SpanKind.CLIENT, start_time=ago(600)).end()
    assert sorted(span.name for span in app.spans()) == ["call", "root"]
    assert app.processor.open == {} == app.processor.roots


def test_off_puts_nothing_in_the_way(app):
    app = app(OTEL_PERF_BOTTLENECKS="off")
    assert app.processor is None
    active = app.pipeline.providers.tracer._active_span_processor
    assert isinstance(active, SynchronousMultiSpanProcessor)
    assert not any(isinstance(part, BottleneckProcessor) for part in active._span_processors)
    slow_trace(app, 1)
    assert len(app.spans()) == 4
    assert flagged(app) == set()


def test_the_environment_wins_over_the_flag_file(app, tmp_path):
    path = tmp_path / "flags.json"
    flag(path, True)
    app = app(OTEL_PERF_FLAGS_FILE=str(path), OTEL_PERF_BOTTLENECKS="off")
    slow_trace(app, 1)
    assert flagged(app) == set()


@pytest.mark.parametrize("value", ["120%", "often", "-5%"])
def test_a_wrong_share_is_said_once_and_it_is_on(app, caplog, value):
    app = app(OTEL_PERF_BOTTLENECKS=value)
    assert len([record for record in caplog.records if "OTEL_PERF_BOTTLENECKS" in record.getMessage()]) == 1
    slow_trace(app, 1)
    assert flagged(app) == {1}
