"""Each process says in the home folder how it is, and only those that are there count."""

import json
import os
import subprocess
import sys

import pytest

from otel_perf.core.home import Home
from otel_perf.health import files
from otel_perf.health.publisher import REFRESH, RETRY, YOUNG, Publisher
from tests.e2e.support import wait_for


def report(pid=None, **changed):
    made = {
        "status": "healthy",
        "live": True,
        "ready": True,
        "started": True,
        "service": "shop",
        "made": 1.0,
        "checks": [],
    }
    return {**made, "pid": os.getpid() if pid is None else pid, **changed}


@pytest.fixture
def publisher(home, clock):
    return Publisher(Home({"OTEL_PERF_HOME": str(home)}), 0, None, file=True, clock=clock)


@pytest.fixture
def other():
    """Another process that lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def test_what_is_written_is_read(tmp_path, other):
    path = files.write(tmp_path, report())
    files.write(tmp_path, report(other.pid, service="\ud800"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert {found["pid"] for found in files.read(tmp_path)} == {os.getpid(), other.pid}


def test_those_that_have_ended_do_not_count_and_leave_nothing(tmp_path, other):
    files.write(tmp_path, report(other.pid))
    assert len(files.read(tmp_path)) == 1
    other.kill()  # and nobody waits for it yet: a zombie has ended, too
    wait_for(lambda: files.read(tmp_path) == [], what="the file of a dead process is gone")
    assert list(tmp_path.iterdir()) == []


def test_a_process_with_the_number_of_another_does_not_count(tmp_path):
    path = files.write(tmp_path, report())
    path.write_text(json.dumps({**report(), "born": 12345}))
    assert files.read(tmp_path) == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "5", '{"pid": "x", "born": 1}', '{"pid": 1}', '{"pid": null, "born": null}']
)
def test_what_is_no_report_is_passed_over(tmp_path, content):
    (tmp_path / f"health-{files.host()}-9.json").write_text(content)
    files.write(tmp_path, report())
    assert [found["pid"] for found in files.read(tmp_path)] == [os.getpid()]


def test_files_of_another_machine_are_left_alone(tmp_path):
    path = tmp_path / "health-elsewhere-1.json"
    path.write_text(json.dumps({**report(1), "born": 1}))
    assert files.read(tmp_path) == []
    assert path.exists()


def test_a_short_program_leaves_no_folder_behind(publisher, clock, home):
    publisher.publish(report())
    assert not home.exists()
    clock.now += YOUNG
    publisher.publish(report())
    assert len(files.read(home)) == 1


def test_it_is_written_when_something_has_changed_else_seldom(publisher, clock, home):
    clock.now += YOUNG
    publisher.publish(report(made=clock.now))
    (path,) = home.glob("health-*")

    def made():
        return json.loads(path.read_text())["made"]

    clock.now += 1
    publisher.publish(report(made=clock.now))
    assert made() == clock.now - 1
    publisher.publish(report(made=clock.now, ready=False))
    assert made() == clock.now
    clock.now += REFRESH - 0.1
    publisher.publish(report(made=clock.now, ready=False))
    assert made() < clock.now
    clock.now += 0.2
    publisher.publish(report(made=clock.now, ready=False))
    assert made() == clock.now


def test_a_process_that_may_end_takes_it_back_and_says_it_again(publisher, clock, home):
    clock.now += YOUNG
    publisher.publish(report())
    publisher.withdraw()
    publisher.publish(report())
    assert files.read(home) == []
    clock.now += REFRESH
    publisher.publish(report())
    assert len(files.read(home)) == 1
    publisher.withdraw(ended=True)
    clock.now += 2 * REFRESH
    publisher.publish(report())
    assert files.read(home) == []


def test_a_child_writes_its_own_and_leaves_its_parents(publisher, clock, home, other):
    clock.now += YOUNG
    publisher.publish(report())
    publisher.after_fork_in_child()
    publisher.withdraw()
    clock.now += REFRESH + YOUNG
    publisher.publish(report(other.pid))
    assert len(files.read(home)) == 2


def test_a_home_that_cannot_be_written_is_no_trouble_and_tried_again(publisher, clock, home):
    home.write_text("a file")
    clock.now += YOUNG
    publisher.publish(report())
    home.unlink()
    publisher.publish(report())
    assert not home.exists()
    clock.now += RETRY
    publisher.publish(report())
    assert len(files.read(home)) == 1
