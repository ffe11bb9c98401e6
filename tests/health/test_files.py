"""Each process says in the home folder how it is, and only those that are there count."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from otel_perf.core.home import Home
from otel_perf.health import files
from otel_perf.health.documents import STALE
from otel_perf.health.publisher import REFRESH, RETRY, YOUNG, Publisher
from tests.e2e.support import wait_for
from tests.health.reports import report


@pytest.fixture
def place(home):
    return Home({"OTEL_PERF_HOME": str(home)})


@pytest.fixture
def publisher(place, clock):
    return Publisher(place, 0, None, file=True, clock=clock)


@pytest.fixture
def other():
    """Another process that lives."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    process.stdin.close()


def test_what_is_written_is_read(place, other):
    path = files.write(place, report())
    files.write(place, report(pid=other.pid, service="\ud800"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert {found["pid"] for found in files.read(place)} == {os.getpid(), other.pid}


def test_those_that_have_ended_do_not_count_and_leave_nothing(place, home, other):
    files.write(place, report(pid=other.pid))
    assert len(files.read(place)) == 1
    other.kill()  # and nobody waits for it yet: a zombie has ended, too
    wait_for(lambda: files.read(place) == [], what="the file of a dead process is gone")
    assert [path.name for path in home.iterdir()] == [".gitignore"]


def test_a_process_with_the_number_of_another_does_not_count(place):
    path = files.write(place, report())
    path.write_text(json.dumps({**report(), "born": 12345}))
    assert files.read(place) == []


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "5", '{"pid": "x", "born": 1}', '{"pid": 1}', '{"pid": null, "born": null}']
)
def test_what_is_no_report_is_passed_over(place, home, content):
    files.write(place, report())
    (home / f"health-{files.host()}-9.json").write_text(content)
    assert [found["pid"] for found in files.read(place)] == [os.getpid()]


def test_files_of_another_machine_are_left_alone(place):
    path = place.make() / "health-elsewhere-1.json"
    path.write_text(json.dumps({**report(pid=1), "born": 1}))
    assert files.read(place) == []
    assert path.exists()


def test_a_short_program_leaves_no_folder_behind(publisher, clock, home, place):
    publisher.publish(report())
    assert not home.exists()
    clock.now += YOUNG
    publisher.publish(report())
    assert len(files.read(place)) == 1


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


def test_a_process_that_may_end_takes_it_back_and_says_it_again(publisher, clock, place):
    clock.now += YOUNG
    publisher.publish(report())
    publisher.withdraw()
    publisher.publish(report())
    assert files.read(place) == []
    clock.now += REFRESH
    publisher.publish(report())
    assert len(files.read(place)) == 1
    publisher.withdraw(ended=True)
    clock.now += 2 * REFRESH
    publisher.publish(report())
    assert files.read(place) == []


def test_a_child_writes_its_own_and_leaves_its_parents(publisher, clock, place, other):
    clock.now += YOUNG
    publisher.publish(report())
    publisher.after_fork_in_child()
    publisher.withdraw()
    clock.now += REFRESH + YOUNG
    publisher.publish(report(pid=other.pid))
    assert len(files.read(place)) == 2


def test_a_home_that_cannot_be_written_has_a_fallback(publisher, clock, home, place, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home.write_text("a file")
    clock.now += YOUNG
    publisher.publish(report())
    assert [found["pid"] for found in files.read(place)] == [os.getpid()]
    publisher.withdraw(ended=True)
    assert files.read(place) == []


def test_where_there_is_none_it_is_tried_again(publisher, clock, home, place, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(home / "no" / "such"))
    home.write_text("a file")
    clock.now += YOUNG
    publisher.publish(report())
    home.unlink()
    publisher.publish(report())
    assert not home.exists()
    clock.now += RETRY
    publisher.publish(report())
    assert len(files.read(place)) == 1


@pytest.fixture
def full(monkeypatch):
    """Folders that can be written no more: a report is cut short."""
    found, write = set(), os.write
    monkeypatch.setattr(
        os, "write", lambda handle, data: write(handle, data[:20] if str(handle_path(handle).parent) in found else data)
    )
    return found


def handle_path(handle):
    return Path(f"/proc/self/fd/{handle}").readlink()


def test_a_home_that_is_full_has_the_fallback_until_there_is_room(
    publisher, clock, home, place, full, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    clock.now += YOUNG
    publisher.publish(report(made=clock.now))
    full.add(str(home))
    clock.now += REFRESH
    publisher.publish(report(made=clock.now, ready=False))
    (found,) = files.read(place)
    assert (found["made"], found["ready"]) == (clock.now, False)
    assert [path.name for path in home.iterdir()] == [".gitignore"]
    full.clear()
    clock.now += REFRESH
    publisher.publish(report(made=clock.now, ready=False))
    assert len(list(tmp_path.rglob("health-*"))) == 1
    assert files.read(place)[0]["made"] == clock.now


def test_what_is_not_true_any_more_or_will_be_too_old_is_taken_back(
    publisher, clock, home, place, full, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    full.add(str(place.fallback()))
    assert RETRY <= REFRESH < STALE / 2
    for changed in (False, True):
        full.discard(str(home))
        clock.now += REFRESH
        publisher.publish(report(made=clock.now))
        assert files.read(place)[0]["made"] == clock.now
        full.add(str(home))
        clock.now += REFRESH
        publisher.publish(report(made=clock.now, ready=not changed))
        assert len(files.read(place)) == (0 if changed else 1)
        clock.now += REFRESH
        publisher.publish(report(made=clock.now, ready=not changed))
        assert files.read(place) == []


@pytest.mark.parametrize("field", ["started", "checks", "service", "status", "made"])
def test_a_report_of_another_version_is_passed_over(place, other, field):
    files.write(place, report())
    found = {**report(pid=other.pid), "born": files.born(other.pid)}
    for wrong in ({field: None}, {field: [{}]}):
        path = place.path / f"health-{files.host()}-{other.pid}.json"
        path.write_text(json.dumps({**found, **wrong}))
        assert [found["pid"] for found in files.read(place)] == [os.getpid()]


def test_a_pipe_in_the_folder_holds_up_nobody(place):
    files.write(place, report())
    os.mkfifo(place.path / f"health-{files.host()}-9.json")
    assert len(files.read(place)) == 1


def test_a_master_whose_workers_have_not_been_seen_is_not_ready(place, clock, other):
    server = SimpleNamespace(reports=(), is_bound=True, bind=lambda: None)
    publisher = Publisher(place, 80, server, file=True, clock=clock)
    publisher.publish(report(leaves=True))
    (own,) = server.reports
    assert (own["live"], own["ready"], own["started"]) == (True, False, False)
    assert "have not said how they are" in own["silent"]
    files.write(place, report(pid=other.pid, port=80))
    clock.now += 1
    publisher.publish(report(leaves=True))
    own, sibling = server.reports
    assert own["ready"]
    assert sibling["sibling"]
