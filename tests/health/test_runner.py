"""Checks are asked in the background, each as often as it wants, and none holds up another."""

import sys
import threading
import time
from types import ModuleType

import pytest

import otel_perf
from otel_perf.core import health
from otel_perf.core.guard import Guard
from otel_perf.health import runner as module
from otel_perf.health.runner import LONGEST, SETTLED, Runner
from tests.e2e.support import wait_for

pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture
def told():
    return []


@pytest.fixture
def published():
    return []


@pytest.fixture
def still(told, published, clock):
    """A runner without its thread: the test takes the steps."""
    return Runner("shop", {"named"}, told.append, published.append, lambda: Guard("health"), clock)


@pytest.fixture
def running(told, published):
    """One with its thread."""
    made = Runner("shop", (), told.append, published.append, lambda: Guard("health"))
    health.changed.append(made.news)
    made.start()
    yield made
    made.end()


def of(runner, name):
    return next((check for check in runner.report["checks"] if check["name"] == name), {"status": "unknown"})


def status(runner, name):
    return of(runner, name)["status"]


def test_a_check_is_asked_as_often_as_it_wants(still, clock):
    asked = []
    health.register("often", lambda: asked.append(clock.now), every=10, quick=True)
    for _ in range(40):
        still.step()
        clock.now += 1.0
    assert asked == [1000.0, 1010.0, 1020.0, 1030.0]


def test_it_sleeps_until_there_is_something_to_do(still, clock):
    health.register("a", lambda: None, every=0.3, quick=True)
    assert still.step() == pytest.approx(0.3)
    health.checks.clear()
    assert still.step() == LONGEST


def test_news_are_asked_for_at_once(still, clock):
    answers = ["healthy"]
    health.register("a", lambda: answers[-1], every=100, quick=True)
    still.step()
    answers.append("degraded")
    still.step()
    assert status(still, "a") == "healthy"
    still.news("a")
    still.step()
    assert status(still, "a") == "degraded"


def test_one_that_was_taken_back_is_asked_no_more(still):
    remove = health.register("a", lambda: None, quick=True)
    still.step()
    remove()
    remove()
    still.step()
    assert still.report["checks"] == []
    assert list(still.readings()) == []


def test_a_critical_check_decides_whether_it_is_ready(still, clock):
    answers = {"plain": "healthy", "critical": "healthy", "named": "healthy"}
    for name in ("plain", "critical", "named"):
        health.register(name, lambda name=name: answers[name], critical=name == "critical", every=1, quick=True)

    def after(**changed):
        answers.update(changed)
        clock.now += 1.0
        still.step()
        return still.report["ready"], still.report["status"]

    assert (still.report["ready"], still.report["status"]) == (False, "degraded")  # nobody was asked yet
    assert after() == (True, "healthy")
    assert after(plain="unhealthy") == (True, "degraded")
    assert after(critical="degraded") == (True, "degraded")
    assert after(critical="unhealthy") == (False, "unhealthy")
    assert after(critical="healthy", named="unhealthy") == (False, "unhealthy")
    assert after(named="healthy", plain="healthy") == (True, "healthy")
    assert still.report["live"]


def test_a_live_check_decides_whether_it_lives(still):
    health.register("worker", lambda: False, live=True, quick=True)
    still.step()
    assert (still.report["live"], still.report["ready"]) == (False, False)


def test_it_has_started_once_it_was_ready_for_a_while_and_stays_so(still, clock):
    answers = ["unhealthy"]
    health.register("critical", lambda: answers[-1], critical=True, every=0.1, quick=True)
    still.step()
    answers.append("healthy")
    clock.now += 1
    still.step()
    assert (still.report["ready"], still.report["started"]) == (True, False)
    clock.now += SETTLED
    still.step()
    assert still.report["started"]
    answers.append("unhealthy")
    clock.now += 1
    still.step()
    assert (still.report["ready"], still.report["started"]) == (False, True)


def test_changes_are_told_with_their_reason(still, told, clock):
    answers = ["healthy"]
    health.register("named", lambda: answers[-1], every=1, quick=True)
    still.step()
    assert told == []
    answers.append("the disk is full")
    clock.now += 1
    still.step()
    (change,) = told
    assert (change.name, change.status, change.before, change.reason) == ("named", 2, 0, "the disk is full")
    assert change.critical
    assert not change.flapping


def test_who_forks_workers_leaves_the_apps_checks_to_them(still, clock, monkeypatch):
    """A connection that a check opens in gunicorn's master would be every worker's."""
    monkeypatch.setitem(sys.modules, "gunicorn.arbiter", ModuleType("gunicorn.arbiter"))
    health.register("db", lambda: True)
    health.register("quick", lambda: True, quick=True)
    still.step()
    assert [check["name"] for check in still.report["checks"]] == ["quick"]
    assert still.report["ready"]
    still.after_fork_in_child()
    wait_for(lambda: status(still, "db") == "healthy", timeout=2)
    still.end()


def test_the_worst_of_one_name_is_the_metric(still):
    for answer in ("degraded", "healthy", "unhealthy", "degraded"):
        health.register("db", lambda answer=answer: answer, quick=True)
    still.step()
    assert list(still.readings()) == [(2, {"perf.health.check": "db"})]


def test_one_that_raises_or_wants_to_end_the_program_is_unhealthy(running):
    def leave():
        raise SystemExit(3)

    health.register("raises", lambda: 1 / 0)
    health.register("leaves", leave)
    health.register("quick", lambda: 1 / 0, quick=True)
    for name, reason in (("raises", "ZeroDivisionError"), ("leaves", "SystemExit: 3"), ("quick", "ZeroDivisionError")):
        wait_for(lambda name=name: status(running, name) == "unhealthy", what=name)
        assert of(running, name)["reason"].startswith(reason)


def test_one_that_hangs_holds_up_nothing_and_has_one_thread(running):
    """GIVEN a check that hangs THEN it is unhealthy after its timeout, asked once, and well when it answers again."""
    release, asked, beats = threading.Event(), [], []

    def hang():
        asked.append(threading.get_ident())
        release.wait(20)

    health.register("hangs", hang, timeout=0.2, every=0.05)
    health.register("beats", lambda: beats.append(time.monotonic()), every=0.05)
    wait_for(lambda: status(running, "hangs") == "unhealthy", timeout=2)
    assert of(running, "hangs")["reason"] == "no answer within 0.2 s"
    before = len(beats)
    wait_for(lambda: len(beats) > before + 5, timeout=2, what="the other one is asked")
    assert len(asked) == 1
    release.set()
    wait_for(lambda: status(running, "hangs") == "healthy", timeout=2)
    assert len(asked) >= 2  # what it said late is not what it says now


def test_without_a_thread_to_be_had_it_says_so_and_tries_again(running, monkeypatch):
    def none(*_arguments):
        raise RuntimeError("can't start new thread")

    start = module.start_new_thread
    monkeypatch.setattr(module, "start_new_thread", none)
    health.register("db", lambda: True, every=0.05)
    wait_for(lambda: status(running, "db") == "degraded")
    assert "no thread" in of(running, "db")["reason"]
    monkeypatch.setattr(module, "start_new_thread", start)
    wait_for(lambda: status(running, "db") == "healthy")


def test_questions_are_not_traced(running):
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled

    health.register("db", lambda: "traced" if is_instrumentation_enabled() else True)
    wait_for(lambda: status(running, "db") != "unknown")
    assert status(running, "db") == "healthy"


def test_after_the_end_nobody_is_asked(running, published):
    asked = []
    health.register("a", lambda: asked.append(1), every=0.01)
    wait_for(lambda: len(asked) > 3)
    running.end()
    running.end()
    seen, looks = len(published), []
    again = Runner("shop", (), lambda _: None, looks.append, lambda: Guard("health"))
    again.start()
    wait_for(lambda: len(looks) > 10, what="another one has looked often since")
    again.end()
    assert len(published) <= seen + 1  # the look that was under way


def test_the_app_is_told_of_changes_whatever_its_listeners_do(still, clock, monkeypatch, caplog):
    from otel_perf.health import present

    monkeypatch.setattr(still, "_tell", present.tell)
    heard = []
    health.register("named", lambda: "full", quick=True)
    otel_perf.health.on_change(lambda change: 1 / 0)
    end = otel_perf.health.on_change(heard.append)
    still.step()
    wait_for(lambda: heard, what="the change was told")
    assert heard == [
        {"name": "named", "status": "unhealthy", "before": "healthy", "reason": "full", "critical": True, "flapping": False}
    ]  # fmt: skip
    assert "called because named changed, failed" in caplog.text
    end()
    end()
    assert len(present.listeners) == 1


def test_a_listener_that_hangs_holds_up_no_check_and_changes_keep_their_order(still, clock, monkeypatch):
    from otel_perf.health import present

    monkeypatch.setattr(still, "_tell", present.tell)
    release, heard, answers = threading.Event(), [], ["healthy"]

    def slow(change):
        release.wait(20)
        heard.append(change["status"])

    health.register("named", lambda: answers[-1], every=1, quick=True)
    otel_perf.health.on_change(slow)
    for answer in ("degraded", "unhealthy", "healthy"):
        answers.append(answer)
        still.step()
        clock.now += 1
    assert heard == []
    release.set()
    wait_for(lambda: len(heard) == 3)
    assert heard == ["degraded", "unhealthy", "healthy"]


def test_a_child_of_a_fork_tells_its_own_changes(still, monkeypatch):
    """GIVEN a parent in the midst of telling THEN its child does not wait for a thread that it does not have."""
    from otel_perf.health import present

    monkeypatch.setattr(still, "_tell", present.tell)
    heard = []
    otel_perf.health.on_change(heard.append)
    health.register("named", lambda: "full", quick=True)
    assert present._telling.acquire(blocking=False)
    present._untold.append({"name": "the parent's"})
    present.after_fork_in_child()
    still.step()
    wait_for(lambda: heard)
    assert [change["name"] for change in heard] == ["named"]
