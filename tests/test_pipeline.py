"""Features are discovered, installed in order of need, and undone in reverse."""

import gc
import json
import logging
import os
import signal
import sys
import threading
import types
from collections import Counter, deque
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from opentelemetry import metrics, trace
from opentelemetry._logs import LogRecord, get_logger

import otel_perf as perf
from otel_perf.core.events import Event
from otel_perf.core.feature import Feature, Parts
from otel_perf.core.guard import LIMIT
from otel_perf.core.settings import Problem
from otel_perf.features import discover, in_order_of_need
from tests.e2e.support import wait_for
from tests.stored import apps_logs, lines, logs, points, spans

ODD = Event("odd", "An event of the tests")


class Demo(Feature):
    summary = "a feature of the tests"

    def __init__(self, name, needs=(), seen=None, fail=""):
        self.name, self.needs, self.seen, self.fail = name, needs, seen if seen is not None else [], fail

    def provide(self, settings, host, parts):
        if self.fail == "provide":
            raise RuntimeError("cannot provide")
        self.seen.append(f"provide {self.name}")

    def install(self, settings, host, undo):
        undo.callback(self.seen.append, f"undo {self.name}")
        if self.fail == "install":
            raise RuntimeError("cannot install")
        self.seen.append(f"install {self.name}")


@pytest.fixture
def only(monkeypatch):
    """Let the pipeline find only these features."""

    def only(*features):
        monkeypatch.setattr("otel_perf.pipeline.discover", lambda: list(features))

    return only


def test_the_features_of_this_version_are_found_in_order_of_need():
    names = [feature.name for feature in discover()]
    assert {"errors", "logs", "memory", "store"} <= set(names)
    assert names.index("errors") < names.index("logs")
    assert all(feature.summary for feature in discover())


def test_needs_come_first_and_cycles_are_named():
    a, b, c = Demo("a", ("c", "absent")), Demo("b"), Demo("c", ("b",))
    assert [feature.name for feature in in_order_of_need({"a": a, "b": b, "c": c})] == ["b", "c", "a"]
    with pytest.raises(ValueError, match="a → c → a"):
        in_order_of_need({"a": a, "c": Demo("c", ("a",))})


def test_features_are_undone_in_reverse(start, only):
    seen = []
    only(Demo("a", seen=seen), Demo("b", seen=seen))
    start().shutdown()
    assert seen == ["provide a", "provide b", "install a", "install b", "undo b", "undo a"]


@pytest.mark.usefixtures("absorbing")
@pytest.mark.parametrize("stage", ["provide", "install"])
def test_a_feature_that_fails_leaves_the_others(start, only, stage):
    seen = []
    only(Demo("a", seen=seen, fail=stage), Demo("b", seen=seen))
    pipeline = start()
    assert pipeline.features["b"].on
    assert not pipeline.features["a"].on
    assert f"cannot {stage}" in pipeline.features["a"].reason
    assert pipeline.guards["a"].errors == 1


@pytest.mark.usefixtures("absorbing")
def test_an_undo_that_fails_does_not_stop_the_others(start, only):
    seen = []

    class Stubborn(Demo):
        def install(self, settings, host, undo):
            undo.callback(lambda: 1 / 0)

    only(Demo("a", seen=seen), Stubborn("b"))
    pipeline = start()
    pipeline.shutdown()
    assert seen[-1] == "undo a"
    assert pipeline.guards["b"].errors == 1


@pytest.mark.usefixtures("absorbing")
def test_last_words_are_stored_at_a_flush_and_at_the_end(start, only, home):
    store = next(feature for feature in discover() if feature.name == "store")

    class Talking(Demo):
        def last_words(self):
            self.host.event(ODD, {"number": self.seen.count("said")})
            self.seen.append("said")

        def install(self, settings, host, undo):
            self.host = host

    class Silent(Demo):
        def last_words(self):
            raise RuntimeError("nothing to say")

    only(store, Silent("a"), Talking("b"))
    pipeline = start()
    pipeline.flush()
    assert [entry.attributes["number"] for entry in logs(home) if entry.event_name == "odd"] == [0]
    pipeline.shutdown()
    assert [entry.attributes["number"] for entry in logs(home) if entry.event_name == "odd"] == [0, 1]
    assert pipeline.guards["a"].errors == 2


def test_flags_that_are_there_at_the_start_and_wrong_are_said(start, only, tmp_path, caplog):
    flags = tmp_path / "flags.json"
    flags.write_text(
        json.dumps(
            {"flags": {"perf.a.size": {"variants": {"now": "big"}, "defaultVariant": "now", "state": "ENABLED"}}}
        )
    )

    @dataclass(frozen=True)
    class SizeSettings:
        size: int = 3

    class Sized(Demo):
        settings_type = SizeSettings

        def install(self, settings, host, undo):
            undo.callback(host.adjust("a", settings, ("size",), self.seen.append))

    seen = []
    only(Sized("a", seen=seen))
    start(OTEL_PERF_FLAGS_FILE=str(flags))
    assert seen == ["provide a", SizeSettings()]
    assert "otel-perf: perf.a.size='big' cannot be used; allowed: a whole number; using what it was" in caplog.text


@pytest.mark.usefixtures("absorbing")
def test_a_feature_with_too_many_errors_steps_down_and_says_so(start, home):
    pipeline = start()
    for _ in range(LIMIT):
        with pipeline.guard("memory"):
            raise RuntimeError("boom")
    wait_for(lambda: not pipeline.features["memory"].on)
    pipeline.shutdown()
    (event,) = [entry for entry in logs(home) if entry.event_name == "perf.feature.changed"]
    assert event.body == "memory stepped down: 10 internal errors"
    assert event.attributes == {
        "perf.feature": "memory", "perf.feature.state": "stepped down", "perf.feature.reason": "10 internal errors",
    }  # fmt: skip


def test_spans_logs_and_metrics_reach_the_store(start, home):
    pipeline = start()
    with trace.get_tracer("t").start_as_current_span("work"):
        logging.getLogger("app").warning("hello %s", "you", extra={"user": 7})
    metrics.get_meter("m").create_counter("orders").add(2, {"kind": "book"})
    pipeline.shutdown()
    (span,) = spans(home)
    (entry,) = apps_logs(home)
    assert (span.name, span.resource["service.name"]) == ("work", "shop")
    assert (entry.body, entry.trace_id, entry.span_id) == ("hello you", span.trace_id, span.span_id)
    assert entry.attributes == {"user": 7}
    values = {point.name: point.value for point in points(home)}
    assert values["orders"] == 2
    assert values["process.memory.usage"] > 1_000_000
    assert span.resource["telemetry.distro.name"] == "otel-perf"
    assert span.resource["telemetry.distro.version"] == perf.__version__


def test_off_means_nothing_is_installed(start, home):
    before = (threading.excepthook, sys.unraisablehook, logging.Logger.callHandlers)
    pipeline = start(**{f"OTEL_PERF_{feature.name.upper()}": "off" for feature in discover()})
    assert (threading.excepthook, sys.unraisablehook, logging.Logger.callHandlers) == before
    assert {state.reason for state in pipeline.features.values()} == {
        f"off by OTEL_PERF_{name.upper()}" for name in pipeline.features
    }
    pipeline.shutdown()
    assert not home.exists()


def test_shut_down_leaves_the_process_as_it_was(start):
    before = (
        sys.excepthook, threading.excepthook, sys.unraisablehook, logging.Logger.callHandlers,
        signal.getsignal(signal.SIGTERM), os._exit, os.execv,
    )  # fmt: skip
    pipeline = start()
    assert sys.excepthook is not before[0]
    pipeline.shutdown()
    pipeline.shutdown()
    assert before == (
        sys.excepthook, threading.excepthook, sys.unraisablehook, logging.Logger.callHandlers,
        signal.getsignal(signal.SIGTERM), os._exit, os.execv,
    )  # fmt: skip
    assert logging.getLogger().handlers == [h for h in logging.getLogger().handlers if "otel" not in type(h).__module__]


def test_wrong_values_are_said_once_each_and_the_rest_goes_on(start, caplog):
    pipeline = start(OTEL_PERF_STORE_LIMIT="12 parsecs", OTEL_PERF_LOGS="maybe")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "OTEL_PERF_STORE_LIMIT='12 parsecs'" in caplog.text
    assert "OTEL_PERF_LOGS='maybe'" in caplog.text
    assert pipeline.features["logs"].on


def test_a_percentage_leaves_some_instances_out(start):
    pipeline = start(OTEL_PERF_LOGS="0.0001%", OTEL_RESOURCE_ATTRIBUTES="service.instance.id=one")
    assert not pipeline.features["logs"].on
    assert pipeline.features["logs"].reason == "not among the 0% of OTEL_PERF_LOGS"


def flags(path, **values):
    content = {f"perf.{name}": {"variants": {"v": value}, "defaultVariant": "v"} for name, value in values.items()}
    path.write_text(json.dumps({"flags": content}))


def test_features_flip_while_the_program_runs(start, home, tmp_path):
    path = tmp_path / "flags.json"
    flags(path, store=False, logs=True)
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(path))

    def make(name):
        trace.get_tracer("t").start_span(name).end()
        assert pipeline.providers.tracer.force_flush()  # one that the machine made slow is looked at first

    make("before")
    flags(path, store="on", logs=False)
    pipeline.reload()
    make("stored")
    assert pipeline.features["store"].on
    assert not pipeline.features["logs"].on
    flags(path, store="off ", logs=False)
    pipeline.reload()
    make("after")
    flags(path, store=True, logs=False, memory=False)
    pipeline.reload()
    make("again")
    pipeline.shutdown()
    assert [span.name for span in spans(home)] == ["stored", "again"]
    flips = [
        (e.attributes["perf.feature"], e.attributes["perf.feature.state"])
        for e in logs(home)
        if e.event_name == "perf.feature.changed"
    ]
    assert ("store", "installed") in flips
    assert {e.event_name for e in logs(home)} >= {"feature_flag.evaluation", "perf.feature.changed"}


def test_what_hides_secrets_is_in_front_of_the_store_when_it_is_turned_on_late(start, home, tmp_path):
    path = tmp_path / "flags.json"
    flags(path, logs=False)
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(path))
    get_logger("theirs").emit(LogRecord(body="password=hunter2Zq"))
    flags(path, logs=True)
    pipeline.reload()
    with perf.correlation("job-17"):
        logging.getLogger("app").warning("password=hunter2Zq", extra={"token": "hunter2Zq"})
    pipeline.shutdown()
    off, on = lines(home)
    assert off.body == "password=hunter2Zq"  # as long as it is off, it does nothing
    assert "hunter2Zq" not in f"{on.body} {on.attributes}"
    assert on.attributes["perf.correlation.id"] == "job-17"


def told(home):
    """Features and what became of them, as events say."""
    found = [entry.attributes for entry in logs(home) if entry.event_name == "perf.feature.changed"]
    return [(event["perf.feature"], event["perf.feature.state"]) for event in found]


def test_the_kill_switch_and_its_end_are_told_of_every_feature(start, home, tmp_path):
    """GIVEN a store that goes off with the others, last, and comes on with them THEN it has the events of all."""
    path = tmp_path / "flags.json"
    flags(path, enabled=True)
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(path))
    flags(path, enabled=False)
    pipeline.reload()
    assert not any(state.on for state in pipeline.features.values())
    flags(path, enabled="on")
    pipeline.reload()
    assert all(state.on for state in pipeline.features.values())
    pipeline.shutdown()
    names = list(pipeline.features)
    assert told(home) == [(name, "off") for name in names[:-1]] + [(name, "installed") for name in names]
    flips = [entry.attributes for entry in logs(home) if entry.event_name == "feature_flag.evaluation"]
    assert [(flip["feature_flag.key"], flip["feature_flag.result.value"]) for flip in flips] == [
        (f"perf.{name}", value) for value in ("0%", "100%") for name in names
    ]


def test_what_changes_with_the_store_is_told_whichever_way_it_goes(start, home, tmp_path):
    path = tmp_path / "flags.json"
    flags(path, store=False, calls=True)
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(path))
    flags(path, store=True, calls=False)
    pipeline.reload()
    flags(path, store="off", calls=True)
    pipeline.reload()
    pipeline.shutdown()
    assert told(home) == [("store", "installed"), ("calls", "off"), ("calls", "installed")]


def test_features_flipped_again_and_again_leave_nothing_behind(start, tmp_path):
    """GIVEN a process without load THEN the objects that there are do not grow with the flips."""
    path = tmp_path / "flags.json"
    names = [feature.name for feature in discover()]
    flags(path, enabled=True)
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(path))

    def objects_after(flips):
        for number in range(flips):
            for value in (False, f"on{' ' * (number % 2)}"):
                flags(path, **dict.fromkeys(names, value))
                pipeline.reload()
        assert all(state.on for state in pipeline.features.values())
        gc.collect()
        kinds = (types.FunctionType, ExitStack, threading.Thread, deque)
        return Counter(type(item).__name__ for item in gc.get_objects() if issubclass(type(item), kinds))

    objects_after(3)
    before = objects_after(1)
    objects_after(20)
    # Threads that were told to end may need a while for it.
    wait_for(lambda: max((objects_after(0) - before).values(), default=0) < 20, what="nothing is left")


def test_the_flag_file_is_watched(start, tmp_path, monkeypatch):
    monkeypatch.setattr("otel_perf.flags.FILE_EVERY", 0.01)
    path = tmp_path / "flags.json"
    flags(path, logs=True)
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(path))
    done = threading.Event()
    monkeypatch.setattr(pipeline, "_changed", lambda state: done.set())
    flags(path, logs=False)
    assert done.wait(10)


@pytest.mark.usefixtures("absorbing")
def test_a_reload_that_fails_does_not_end_the_watch(start, tmp_path, monkeypatch):
    monkeypatch.setattr("otel_perf.flags.FILE_EVERY", 0.001)
    calls, done = [], threading.Event()

    def reload(self):
        calls.append(1)
        if len(calls) <= 2:  # not to the end: it would be raised in the next test
            raise RuntimeError("broken")
        done.set()

    monkeypatch.setattr("otel_perf.pipeline.Pipeline.reload", reload)
    path = tmp_path / "flags.json"
    flags(path)
    start(OTEL_PERF_FLAGS_FILE=str(path))
    assert done.wait(10)


def test_after_shutdown_nothing_is_done(start, only):
    only()
    pipeline = start()
    pipeline.shutdown()
    pipeline.reload()
    pipeline.flush()
    pipeline.event(ODD, {})
    assert not pipeline.step_down("none", "x")
    assert not pipeline.step_up("none")
    pipeline._add_late(Parts())


@pytest.mark.usefixtures("absorbing")
def test_an_event_that_fails_is_absorbed(start):
    pipeline = start()
    pipeline.event(ODD, {}, severity="NO SUCH SEVERITY")


def test_problems_found_later_are_said(start, caplog):
    pipeline = start()
    pipeline.rollout.problems.append(Problem("X", "y", "is odd", "z", "w"))
    pipeline.reload()
    assert "X='y' is odd; allowed: z; using w" in caplog.text


def test_the_resource_hashes_as_upstreams_but_once():
    from opentelemetry.sdk.resources import Resource

    from otel_perf.providers import HashedResource

    plain = Resource.create({"service.name": "shop"})
    hashed = HashedResource.of(plain)
    assert hash(hashed) == hash(plain)
    assert hashed == plain
    assert hashed != Resource.create({"service.name": "other"})
    merged = hashed.merge(Resource({"a": "b"}))
    assert isinstance(merged, HashedResource)
    assert merged.attributes["a"] == "b"
    assert hash(merged) != hash(hashed)


def test_ids_leave_the_apps_random_numbers_alone(start):
    import random

    from opentelemetry import trace

    start()
    random.seed(1)
    expected = random.random()
    random.seed(1)
    spans = [trace.get_tracer("t").start_span("x") for _ in range(10)]
    assert random.random() == expected
    assert len({span.get_span_context().trace_id for span in spans}) == 10


class Shaper:
    """A shaper that hands on at once."""

    def __init__(self):
        self.sinks, self.seen = [], []

    def feed(self, sink):
        self.sinks.append(sink)

    def on_start(self, span, parent_context=None):
        pass

    def _on_ending(self, span):
        pass

    def on_end(self, span):
        self.seen.append(span.name)
        for sink in self.sinks:
            sink.on_end(span)

    def shutdown(self):
        for sink in self.sinks:
            sink.shutdown()

    def force_flush(self, timeout_millis=30000):
        return all(sink.force_flush(timeout_millis) for sink in self.sinks)


class Shaping(Demo):
    shapes = by_trace = True

    def __init__(self, name):
        super().__init__(name)
        self.shaper, self.shares = Shaper(), []

    def provide(self, settings, host, parts):
        parts.span_shaper = self.shaper

    def install(self, settings, host, undo):
        self.shares.append(host.share(self.name))
        undo.callback(self.shares.append, "off")


@pytest.fixture
def with_shaping(monkeypatch):
    feature = Shaping("shaping")
    found = discover()
    monkeypatch.setattr("otel_perf.pipeline.discover", lambda: [f for f in found if not f.shapes] + [feature])
    return feature


def test_spans_go_through_the_shaper_to_the_store(start, home, with_shaping):
    pipeline = start()
    trace.get_tracer("t").start_span("work").end()
    pipeline.shutdown()
    assert with_shaping.shaper.seen == ["work"]
    assert [span.name for span in spans(home)] == ["work"]


def test_a_shaper_that_is_off_is_in_the_way_only_where_a_flag_may_turn_it_on(start, with_shaping, tmp_path):
    start(OTEL_PERF_SHAPING="off")
    assert with_shaping.shaper.sinks == []
    path = tmp_path / "flags.json"
    flags(path, shaping=False)
    pipeline = start(OTEL_PERF_SHAPING="", OTEL_PERF_FLAGS_FILE=str(path))
    assert with_shaping.shaper.sinks != []
    assert with_shaping.shares == []
    flags(path, shaping=True)
    pipeline.reload()
    assert with_shaping.shares == [1.0]


def test_a_feature_that_chooses_by_trace_is_on_for_any_share_and_told_when_it_changes(start, with_shaping, tmp_path):
    path = tmp_path / "flags.json"
    flags(path, shaping="0.0001%")
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(path))
    for value in ("30%", "off", "50%"):
        flags(path, shaping=value)
        pipeline.reload()
    pipeline.reload()
    assert with_shaping.shares == [pytest.approx(0.000001), "off", 0.3, "off", 0.5]


def test_what_is_stored_late_goes_through_the_shaper_too(start, home, with_shaping, tmp_path):
    path = tmp_path / "flags.json"
    flags(path, store=False)
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(path))
    flags(path, store=True)
    pipeline.reload()
    trace.get_tracer("t").start_span("late").end()
    pipeline.shutdown()
    assert with_shaping.shaper.seen == ["late"]
    assert [span.name for span in spans(home)] == ["late"]


def test_a_provider_that_takes_long_holds_up_neither_a_fork_nor_the_end(start, monkeypatch):
    asking, go_on = threading.Event(), threading.Event()
    pipeline = start()

    def ask(self, keys):
        asking.set()
        go_on.wait(20)

    monkeypatch.setattr("otel_perf.core.rollout.Rollout._ask_provider", ask)
    thread = threading.Thread(target=pipeline.reload)
    thread.start()
    assert asking.wait(10)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    pipeline.shutdown()
    assert thread.is_alive()
    go_on.set()
    thread.join()


def test_a_fork_in_the_midst_of_a_long_turn_leaves_no_events_held(start, tmp_path, monkeypatch):
    """The thread that turns a feature on is not in the child: events flow there, and the next look turns it on."""
    monkeypatch.setattr("otel_perf.pipeline.FORK_WAITS", 0.05)
    path = tmp_path / "flags.json"
    flags(path, calls=False)
    pipeline = start(OTEL_PERF_FLAGS_FILE=str(path))
    turning, go_on = threading.Event(), threading.Event()
    apply = pipeline._apply

    def slowly(state):
        if state.feature.name == "calls" and threading.current_thread() is not threading.main_thread():
            turning.set()
            go_on.wait(20)
        apply(state)

    monkeypatch.setattr(pipeline, "_apply", slowly)
    flags(path, calls=True)
    thread = threading.Thread(target=pipeline.reload)
    thread.start()
    assert turning.wait(10)
    pid = os.fork()
    if pid == 0:
        pipeline.reload()
        good = pipeline.features["calls"].on and pipeline._emitter._held is None
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0
    go_on.set()
    thread.join()
