"""Features step down under strain and after errors, one at a time, and come back, later and later; and say so."""

import _thread
import os
import threading
import time

import pytest

from otel_perf import stepping
from otel_perf.core import strain
from otel_perf.core.guard import LIMIT
from otel_perf.stepping import AGAIN, CALM, DAY, NEXT, REST, Stepping
from tests.e2e.support import wait_for
from tests.stored import events
from tests.test_pipeline import Demo, flags


class Shedding(Demo):
    def __init__(self, name, sheds=0):
        super().__init__(name)
        self.sheds = sheds


@pytest.fixture(autouse=True)
def _no_strain():
    yield
    strain.end("test")


@pytest.fixture
def clock():
    """Seconds that pass when the test says so."""
    return [0.0]


@pytest.fixture
def stepped(start, monkeypatch, clock):
    """A pipeline of some features whose steps the test takes; what is on comes with them."""
    made = []

    class Looking(Stepping):
        def __init__(self, pipeline):
            super().__init__(pipeline, lambda: clock[0])
            made.append(self)

        def wake(self):
            """There is no thread."""

    def stepped(*features, **environ):
        monkeypatch.setattr("otel_perf.pipeline.Stepping", Looking)
        monkeypatch.setattr("otel_perf.pipeline.discover", lambda: list(features))
        pipeline = start(**environ)
        return pipeline, made[-1]

    return stepped


def on(pipeline):
    return {name for name, state in pipeline.features.items() if state.on}


def at(clock, look, when):
    """Look at that time; when the next look is due."""
    clock[0] = when
    return when + look()


def fails(pipeline, feature):
    for _ in range(LIMIT):
        with pipeline.guard(feature):
            raise RuntimeError("boom")


def test_what_is_dear_goes_first_and_the_next_only_if_that_does_not_help(stepped, clock):
    pipeline, steps = stepped(Shedding("a", 2), Shedding("b", 1), Shedding("c"), Shedding("d", 3))
    assert steps.look() == float("inf")
    strain.begin("test", "it is too much")
    assert at(clock, steps.look, 10) == 10 + NEXT
    assert on(pipeline) == {"a", "c", "d"}
    assert pipeline.features["b"].reason == "stepped down: it is too much"
    assert at(clock, steps.look, 10 + NEXT / 2) == 10 + NEXT
    assert on(pipeline) == {"a", "c", "d"}
    at(clock, steps.look, 10 + NEXT)
    assert on(pipeline) == {"c", "d"}
    strain.end("test")  # that helped
    assert at(clock, steps.look, 20) == 20 + CALM
    at(clock, steps.look, 20 + CALM - 0.1)
    assert on(pipeline) == {"c", "d"}
    assert at(clock, steps.look, 20 + CALM) == 20 + CALM + NEXT
    assert on(pipeline) == {"a", "c", "d"}
    assert at(clock, steps.look, 20 + CALM + NEXT) == float("inf")
    assert on(pipeline) == {"a", "b", "c", "d"}


def test_what_never_steps_down_stays_under_whatever_strain(stepped, clock):
    pipeline, steps = stepped(Shedding("a", 1), Shedding("b"))
    strain.begin("test", "it is too much")
    for number in range(100):
        at(clock, steps.look, NEXT * number)
    assert on(pipeline) == {"b"}


def test_strain_that_comes_again_keeps_it_down_longer_each_time(stepped, clock):
    pipeline, steps = stepped(Shedding("a", 1))
    now, waited = 0.0, []
    for pause in (*[60.0] * 9, AGAIN):
        strain.begin("test", "it is too much")
        at(clock, steps.look, now)
        assert on(pipeline) == set()
        strain.end("test")
        back = at(clock, steps.look, now + 1)
        waited.append(back - now - 1)
        at(clock, steps.look, back)
        assert on(pipeline) == {"a"}
        now = back + pause
    strain.begin("test", "it is too much")
    at(clock, steps.look, now)
    strain.end("test")
    waited.append(at(clock, steps.look, now) - now)
    assert waited == [CALM * 2**number for number in range(7)] + [AGAIN] * 3 + [CALM]


@pytest.mark.usefixtures("absorbing")
def test_what_failed_is_tried_again_three_times_a_day(stepped, clock, caplog):
    pipeline, steps = stepped(Shedding("a"), Shedding("b"))
    now, rests = 0.0, []
    for _ in range(5):
        fails(pipeline, "a")
        due = at(clock, steps.look, now)
        assert on(pipeline) == {"b"}
        at(clock, steps.look, due - 1)
        assert on(pipeline) == {"b"}
        at(clock, steps.look, due)
        assert on(pipeline) == {"a", "b"}
        rests.append(due - now)
        now = due + 1
    first, second = REST, REST + 1 + 2 * REST  # when it was tried
    assert rests[:3] == [REST, 2 * REST, 4 * REST]
    assert sum(rests[:4]) + 3 == first + DAY
    assert sum(rests) + 4 == second + DAY
    assert "otel-perf: a stepped down: 10 internal errors; it is tried again in 5 min" in caplog.text
    assert "otel-perf: a stepped down: 10 internal errors; it is tried again in 23 h" in caplog.text
    assert caplog.text.count("otel-perf: a is back") == 5
    assert pipeline.guards["a"].errors == 5 * LIMIT


@pytest.mark.usefixtures("absorbing")
def test_after_a_good_day_the_rest_is_short_again(stepped, clock):
    pipeline, steps = stepped(Shedding("a"))
    fails(pipeline, "a")
    due = at(clock, steps.look, 0)
    at(clock, steps.look, due)
    fails(pipeline, "a")
    assert at(clock, steps.look, due + DAY) == due + DAY + REST


@pytest.mark.usefixtures("absorbing")
@pytest.mark.parametrize("later", ["errors", "strain"])
def test_with_two_reasons_it_is_back_when_both_are_over(stepped, clock, later):
    pipeline, steps = stepped(Shedding("a", 1))
    if later == "strain":
        fails(pipeline, "a")
        steps.look()
    strain.begin("test", "it is too much")
    steps.look()
    if later == "errors":
        fails(pipeline, "a")
        steps.look()
    assert on(pipeline) == set()
    strain.end("test")
    steps.look()
    at(clock, steps.look, CALM)
    assert on(pipeline) == set()
    at(clock, steps.look, REST)
    assert on(pipeline) == {"a"}


def test_flags_decide_what_comes_back(stepped, clock, tmp_path):
    path = tmp_path / "flags.json"
    flags(path, a=True, b=True)
    pipeline, steps = stepped(Shedding("a", 1), Shedding("b", 2), OTEL_PERF_FLAGS_FILE=str(path))
    strain.begin("test", "it is too much")
    steps.look()
    at(clock, steps.look, NEXT)
    flags(path, a=False, b=False)
    pipeline.reload()
    assert pipeline.features["a"].reason == "off by flag file, perf.a"
    flags(path, a="on ", b=False)
    pipeline.reload()
    assert on(pipeline) == set()
    assert pipeline.features["a"].reason == "stepped down: it is too much"
    strain.end("test")
    steps.look()
    at(clock, steps.look, CALM + NEXT)
    at(clock, steps.look, CALM + 2 * NEXT)
    assert on(pipeline) == {"a"}
    assert pipeline.features["b"].reason == "off by flag file, perf.b"


def test_each_step_is_an_event_and_a_line(stepped, clock, home, caplog):
    from otel_perf.features import discover

    store = next(feature for feature in discover() if feature.name == "store")
    pipeline, steps = stepped(store, Shedding("a", 1))
    strain.begin("test", "it is too much")
    steps.look()
    strain.end("test")
    steps.look()
    at(clock, steps.look, CALM)
    pipeline.shutdown()
    down, back = events(home, "perf.feature.changed")
    assert (down.body, down.severity) == ("a stepped down: it is too much", 13)
    assert down.attributes["perf.feature.state"] == "stepped down"
    assert (back.body, back.severity) == ("a back: it had stepped down: it is too much", 9)
    assert back.attributes["perf.feature.state"] == "back"
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "otel-perf: a stepped down: it is too much; it comes back when that is over",
        "otel-perf: a is back",
    ]


# --- the thread ----------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    for name in ("NEXT", "CALM", "REST"):
        monkeypatch.setattr(stepping, name, 0.05)


@pytest.fixture
def only(monkeypatch):
    def only(*features):
        monkeypatch.setattr("otel_perf.pipeline.discover", lambda: list(features))

    return only


@pytest.mark.usefixtures("absorbing", "quick")
def test_a_thread_does_it_from_the_first_need_to_the_end(start, only):
    only(Shedding("a", 1), Shedding("b"))
    before = _thread._count()
    pipeline = start()
    assert pipeline._stepping._bell is None  # nothing costs a thread before it is needed
    strain.begin("test", "it is too much")
    wait_for(lambda: on(pipeline) == {"b"})
    strain.end("test")
    wait_for(lambda: on(pipeline) == {"a", "b"})
    fails(pipeline, "b")
    wait_for(lambda: on(pipeline) == {"a"})
    wait_for(lambda: on(pipeline) == {"a", "b"})
    pipeline.shutdown()
    wait_for(lambda: _thread._count() <= before, what="no thread is left")
    strain.begin("test", "it is too much")
    assert pipeline._stepping._bell is None


def test_strain_from_before_the_start_counts(start, only):
    only(Shedding("a", 1))
    strain.begin("test", "it is too much")
    pipeline = start()
    wait_for(lambda: on(pipeline) == set())


@pytest.mark.usefixtures("absorbing")
def test_the_apps_call_waits_for_nothing(start, only):
    """GIVEN a feature that is being turned off for long THEN the errors of another do not wait for that."""
    turning, go_on = threading.Event(), threading.Event()

    class Slow(Shedding):
        def install(self, settings, host, undo):
            undo.callback(go_on.wait, 30)
            undo.callback(turning.set)

    only(Slow("a"), Shedding("b"))
    pipeline = start()
    other = threading.Thread(target=pipeline.step_down, args=("a", "the test"))
    other.start()
    assert turning.wait(10)
    fails(pipeline, "b")
    assert on(pipeline) == {"b"}
    go_on.set()
    wait_for(lambda: on(pipeline) == set())
    other.join()


@pytest.mark.usefixtures("absorbing")
def test_a_step_that_fails_ends_nothing(start, only, monkeypatch):
    monkeypatch.setattr(stepping, "NEXT", 0.01)
    only(Shedding("a", 1))
    pipeline = start()
    looks = []

    def step_down(feature, reason):
        looks.append(feature)
        if len(looks) <= 2:
            raise RuntimeError("broken")
        return False

    monkeypatch.setattr(pipeline, "step_down", step_down)
    strain.begin("test", "it is too much")
    wait_for(lambda: len(looks) > 2)
    assert pipeline.guards["rollout"].errors == 2


@pytest.mark.usefixtures("absorbing")
def test_without_a_thread_it_stays_on_and_is_tried_at_the_next_need(start, only, monkeypatch):
    def none(*_):
        raise RuntimeError("can't start new thread")

    only(Shedding("a", 1))
    pipeline = start()
    with monkeypatch.context() as patched:
        patched.setattr(stepping, "start_new_thread", none)
        fails(pipeline, "a")
        assert on(pipeline) == {"a"}
    strain.begin("test", "it is too much")
    wait_for(lambda: on(pipeline) == set())


def in_child(check):
    """Whether it is so in a forked child."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.usefixtures("quick")
def test_a_child_goes_on_by_itself(start, only):
    only(Shedding("a", 1))
    pipeline = start()
    strain.begin("test", "it is too much")
    wait_for(lambda: on(pipeline) == set())

    def recovers():
        strain.end("test")
        return wait_for(lambda: on(pipeline) == {"a"})

    assert in_child(recovers)
    assert on(pipeline) == set()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_waits_until_nothing_is_half_turned(start, only):
    """GIVEN features that go on and off all the time THEN a child has each either on or off."""
    half = [False]

    class Slow(Shedding):
        def install(self, settings, host, undo):
            half[0] = True
            time.sleep(0.002)
            undo.callback(self.end)
            half[0] = False

        def end(self):
            half[0] = True
            time.sleep(0.002)
            half[0] = False

    only(Slow("a"))
    pipeline = start()
    ended = threading.Event()

    def turn():
        while not ended.is_set():
            pipeline.step_down("a", "the test")
            pipeline.step_up("a")
            time.sleep(0.001)  # without one, the lock is never free for long enough to be got

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        assert all(in_child(lambda: not half[0] and pipeline.step_up("a")) for _ in range(20))
    finally:
        ended.set()
        thread.join()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_does_not_wait_for_ever(start, only, monkeypatch):
    monkeypatch.setattr("otel_perf.pipeline.FORK_WAITS", 0.01)
    only(Shedding("a"))
    pipeline = start()
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with pipeline._lock:
            held.set()
            go_on.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    try:
        assert in_child(lambda: pipeline.step_down("a", "the test"))
    finally:
        go_on.set()
        thread.join()
    assert pipeline.step_down("a", "the test")  # the lock is free again
