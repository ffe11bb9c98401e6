"""What a hostile reader found: forks, handlers of the operating system's signals, marks, deletions, ends."""

import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from math import inf

import pytest

from otel_perf.core.errors import SettingError, SignalError, SignalTimeoutError
from otel_perf.signals.api import Signals
from tests.e2e import programs
from tests.e2e.support import wait_for

HOME = "OTEL_PERF_HOME"


@pytest.fixture
def opened(home):
    made = []

    def make(name="shop", **variables):
        made.append(Signals({HOME: str(home), "OTEL_SERVICE_NAME": name, **variables}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def plain(program, home, *arguments, **variables):
    return programs.run(program, home, *arguments, instrumented=False, **variables)


CHILDREN = """
import multiprocessing, sys
import otel_perf as perf
def emit(name):
    perf.signals.emit(name)
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    if sys.argv[2] == "opened":
        perf.signals.emit("PARENT")
    for name in ("FIRST", "SECOND"):
        child = context.Process(target=emit, args=(name,))
        child.start()
        child.join()
        assert child.exitcode == 0
    print(sorted(perf.signals.wait_sync("FIRST", "SECOND", timeout=0)))
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("parent", ["opened", "closed"])
def test_children_that_end_normally_stay_trusted(home, tmp_path, method, parent):
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    done = subprocess.run(
        [sys.executable, str(script), method, parent], env=programs.environment(home), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "['FIRST', 'SECOND']\n", done.stderr


EXITS = """
import os, sys
import otel_perf as perf
pid = os.fork()
if pid == 0:
    perf.signals.emit("CHILD")
    os._exit(0)
os.waitpid(pid, 0)
if os.fork() == 0:
    perf.signals.emit("OTHER")
    os._exit(0)
os.wait()
print(sorted(perf.signals.wait_sync("CHILD", "OTHER", timeout=0)))
"""


def test_under_the_distribution_a_child_that_ends_by_exit_has_left(home):
    done = programs.run(EXITS, home, OTEL_SERVICE_NAME="shop")
    assert done.out == "['CHILD', 'OTHER']\n", done.err


def test_a_signal_with_a_wrong_mark_hides_nothing(opened):
    good, bad = opened("good", OTEL_PERF_SIGNALS_KEY="ours"), opened("bad")
    waiter = opened("waiter", OTEL_PERF_SIGNALS_KEY="ours")
    said = good.emit("READY")
    for _ in range(3):
        bad.emit("READY", failed="forged")
    assert waiter.wait_sync("READY", timeout=0) == {"READY": said}
    assert waiter.current() == [said]
    assert waiter.since() == [said]


def test_one_idempotency_key_serves_several_signals(opened):
    signals = opened()
    started = signals.emit("STARTED", idempotency="job-17")
    done = signals.emit("DONE", idempotency="job-17")
    assert done.seq > started.seq
    assert signals.emit("STARTED", idempotency="job-17").seq == started.seq
    assert signals.emit("STARTED", idempotency="job-17", failed="no disk").seq > done.seq
    assert not signals.wait_sync("STARTED", timeout=0, accept_failed=True)["STARTED"].ready
    assert signals.emit("STARTED", idempotency="job-17", key="2").seq > done.seq


def test_what_is_said_into_a_board_that_was_deleted_is_the_newest(opened, home):
    signals, waiter = opened(), opened("waiter")
    had = []
    waiter.on("X", lambda s: had.append(s.state))
    signals.emit("X")
    signals.emit("OTHER")
    wait_for(lambda: had == ["ready"], what="the handler is called")
    for path in home.glob("signals.db*"):
        path.unlink()
    signals.emit("X", failed="disk full")
    wait_for(lambda: had == ["ready", "failed"], what="the handler is called with the failure")
    assert not waiter.wait_sync("X", "OTHER", timeout=5, accept_failed=True)["X"].ready
    assert had == ["ready", "failed"]


def test_a_home_that_was_taken_away_is_made_again_and_who_lives_is_trusted(opened, home):
    signals = opened()
    signals.emit("A")
    shutil.rmtree(home)
    other = opened()  # the same service, which asks whether its earlier lives live
    other.emit("B")
    signals.emit("C")
    opened().emit("D")
    assert set(opened("waiter").wait_sync("A", "B", "C", "D", timeout=5)) == {"A", "B", "C", "D"}
    assert (home / ".gitignore").exists()


def test_who_was_taken_for_lost_and_emits_is_here(opened, home):
    signals = opened()
    signals.emit("A")
    with (home / "signals.lock").open():
        pass  # POSIX: the locks of the process are gone
    board = sqlite3.connect(home / "signals.db")
    board.execute("UPDATE producer SET state = 'lost'")
    board.commit()
    board.close()
    opened().join()
    with pytest.raises(SignalTimeoutError):
        opened("waiter").wait_sync("A", timeout=0)
    signals.emit("B")
    assert set(opened("waiter").wait_sync("A", "B", timeout=5)) == {"A", "B"}


HANDLERS = """
import signal, sys, time
import otel_perf as perf
count = [0]
def on_signal(number, frame):
    count[0] += 1
    perf.signals.emit(f"FROM_HANDLER_{count[0] % 5}")
perf.signals.emit("WARM")  # imports: one that is interrupted fails in Python itself
signal.signal(signal.SIGALRM, on_signal)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.003)
end = time.monotonic() + float(sys.argv[1])
number = 0
while time.monotonic() < end:
    number += 1
    perf.signals.emit(f"PLAIN_{number % 5}")
    perf.signals.wait_sync(f"PLAIN_{number % 5}", timeout=5)
signal.setitimer(signal.ITIMER_REAL, 0)
print(number > 10 and count[0] > 10)
"""


@pytest.mark.parametrize("url", ["", "memory:"])
def test_a_handler_of_a_signal_may_emit_in_the_midst_of_an_emit(home, url):
    done = plain(HANDLERS, home, "3", OTEL_PERF_SIGNALS_URL=url)
    assert (done.status, done.out) == (0, "True\n"), done.err


OPENING = """
import os, sys, threading, time
from otel_perf.signals import boards
import otel_perf as perf
from otel_perf.signals.api import signals
original, slow = boards.open_board, threading.Event()
def opening(*arguments):
    slow.set()
    time.sleep(1)
    return original(*arguments)
boards.open_board = opening
thread = threading.Thread(target=perf.signals.emit, args=("PARENT",))
thread.start()
slow.wait()
boards.open_board = original
pid = os.fork()
if pid == 0:
    perf.signals.emit("CHILD")
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
thread.join()
print(sorted(perf.signals.wait_sync("PARENT", "CHILD", timeout=5)))
"""


def test_a_fork_while_the_board_is_opened_stops_nobody(home):
    done = plain(OPENING, home)
    assert done.out == "['CHILD', 'PARENT']\n", done.err


THREADS = """
import os, threading, time
from otel_perf.core.forks import on_fork
import otel_perf as perf
def begin():
    threading.Thread(target=perf.signals.emit, args=("EARLY",), daemon=True).start()
    time.sleep(0.05)
on_fork(child=begin)
perf.signals.emit("PARENT")
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        perf.signals.wait_sync("EARLY", timeout=10)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
print("done")
"""


def test_a_thread_that_a_hook_of_the_fork_starts_gets_the_board(home):
    done = plain(THREADS, home)
    assert done.out == "done\n", done.err


def test_a_handler_that_waits_holds_up_no_other(opened):
    signals = opened()
    had, end = threading.Event(), threading.Event()
    signals.on("A", lambda _signal: end.wait(20))
    signals.on("A", lambda _signal: had.set())
    signals.emit("A")
    assert had.wait(10)
    end.set()


def test_handlers_outlive_a_board_that_is_closed(opened):
    signals = opened()
    had = []
    signals.on("A", lambda s: had.append(s.seq))
    signals.close()
    first = signals.emit("A")
    wait_for(lambda: had == [first.seq], what="the handler is called")


def test_a_handler_whose_thread_cannot_be_started_is_called_later(opened, monkeypatch):
    signals = opened()
    had = []
    start = threading.Thread.start

    def refuse(self):
        if self.name == "otel-perf-signal-handler" and not done:
            done.append(1)
            raise RuntimeError("can't start new thread")
        start(self)

    done = []
    monkeypatch.setattr(threading.Thread, "start", refuse)
    signals.on("A", lambda s: had.append(s.value))
    signals.emit("A", payload=1)
    wait_for(lambda: done, what="it was refused")
    signals.emit("A", payload=2)
    wait_for(lambda: had[-1:] == [2], what="the handler is called")


PENDING = """
import os, threading, time
import otel_perf as perf
go, begun = threading.Event(), threading.Event()
had = []
def handler(signal):
    begun.set()
    if not had:
        go.wait(20)
    had.append(signal.value)
perf.signals.on("A", handler)
perf.signals.emit("A", payload=1)
begun.wait()
pid = os.fork()
if pid == 0:
    go.set()
    end = time.monotonic() + 10
    while not had and time.monotonic() < end:
        time.sleep(0.01)
    os._exit(0 if had == [1] else 1)
print(os.waitpid(pid, 0)[1])
go.set()
"""


def test_what_a_handler_had_not_finished_at_a_fork_is_new_in_the_child(home):
    done = plain(PENDING, home)
    assert done.out == "0\n", done.err


LATE = """
import atexit
import os
atexit.register(lambda: perf.signals.emit("STOPPED"))
import otel_perf as perf
perf.signals.emit("STARTED")
"""


def test_what_is_emitted_at_the_very_end_is_left_in_peace(home, opened):
    for _ in range(2):
        done = plain(LATE, home, OTEL_SERVICE_NAME="app")
        assert (done.status, done.err) == (0, "")
    states = [heard.state for heard in opened("waiter")._opened().board.producers()]
    assert set(states) == {"left"}


@pytest.mark.parametrize("timeout", [float("nan"), -1, "soon"])
def test_a_timeout_that_is_none_is_a_clear_error(opened, timeout):
    with pytest.raises(SettingError, match="timeout"):
        opened().wait_sync("A", timeout=timeout)


def test_an_endless_timeout_is_no_bound(opened):
    signals = opened()
    timer = threading.Timer(0.2, signals.emit, ["A"])
    timer.start()
    assert signals.wait_sync("A", timeout=inf)["A"].ready


def test_who_was_last_heard_of_is_known_on_a_board_of_many(opened, home):
    signals = opened()
    signals.emit("FIRST", ttl=0.01)
    board = sqlite3.connect(home / "signals.db")
    board.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) INSERT INTO signal"
        " SELECT NULL, scope, 'MANY', i, state, reason, payload, 'u' || i, made, 0, '', '', producer, boot, came"
        " FROM signal, n"
    )
    board.commit()
    board.close()
    signals.emit("LAST", ttl=0.01)
    time.sleep(0.05)
    with pytest.raises(SignalTimeoutError, match=r"FIRST \(last heard of shop .*LAST \(last heard of shop"):
        signals.wait_sync("FIRST", "LAST", timeout=0)


GEVENT = """
import sys, time
import otel_perf as perf
if {slow}:
    perf.signals.emit("STARTED")  # as the thread of the start's signals does, half a second after the start
from gevent import monkey
monkey.patch_all()
import gevent
ticks, had = [0], []
def tick():
    while True:
        ticks[0] += 1
        gevent.sleep(0.01)
gevent.spawn(tick)
time.sleep(1.0)
perf.signals.on("A", lambda signal: had.append(signal.value))
perf.signals.emit("A", payload=1)
waiting = gevent.spawn(perf.signals.wait_sync, "B", timeout=20)
gevent.sleep(0.3)
before = ticks[0]
gevent.sleep(0.3)
assert ticks[0] > before + 5, (ticks, before)
perf.signals.emit("B")
print(sorted(waiting.get(timeout=20)), had)
"""


@pytest.mark.parametrize("slow", [False, True])
def test_under_gevent_signals_work_and_nothing_is_printed(home, slow):
    """GIVEN an app that gevent patches before the board is opened, or that is slow to start: after that."""
    assert importlib.util.find_spec("gevent")  # not imported here: much is left out where it is
    done = programs.run(GEVENT.replace("{slow}", str(slow)), home)
    assert (done.status, done.out, done.err) == (0, "['B'] [1]\n", "")


def test_a_wrong_url_is_one_line_and_the_rest_works(home):
    program = "import time; time.sleep(1.5); print('on')"
    done = programs.run(program, home, OTEL_PERF_SIGNALS_URL="carrier-pigeon:")
    assert done.out == "on\n"
    assert done.err.count("otel-perf: signals: OTEL_PERF_SIGNALS_URL='carrier-pigeon:': it must be empty") == 1
    assert len(done.err.splitlines()) == 1, done.err


def test_a_home_that_cannot_be_used_has_a_fallback_as_the_store_has(home, tmp_path, monkeypatch, opened):
    home.write_text("a file")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    signals = opened()
    signals.emit("A")
    assert opened("other").wait_sync("A", timeout=5)["A"].ready


def test_a_board_without_any_place_is_a_clear_error(home, monkeypatch, opened):
    home.write_text("a file")
    from otel_perf.core.home import Home

    monkeypatch.setattr(Home, "fallback", lambda self: (_ for _ in ()).throw(PermissionError("no place")))
    with pytest.raises(SignalError, match="the signal board cannot be made: no place; OTEL_PERF_HOME names another"):
        opened().emit("A")


STATES = """
import json, sys
from otel_perf.distro import pipeline
for line in sys.stdin:
    print(json.dumps({n: [s.on, s.reason] for n, s in pipeline().features.items()}), flush=True)
"""


def flags(path, **values):
    made = {
        f"perf.{name}": {"state": "ENABLED", "variants": {"v": value}, "defaultVariant": "v"}
        for name, value in values.items()
    }
    path.write_text(json.dumps({"flags": made}))


def look(program):
    program.stdin.write("\n")
    program.stdin.flush()
    return {name: is_on for name, (is_on, _) in json.loads(program.stdout.readline()).items()}


def test_what_is_turned_on_while_its_signal_is_awaited_is_on_when_it_comes(home, tmp_path):
    file = tmp_path / "flags.json"
    flags(file, gc_tuning="off")
    variables = {"OTEL_PERF_FLAGS_FILE": str(file), "OTEL_PERF_SIGNALS_EXTERNAL": "HEALTH_MONITORING_READY"}
    with programs.started(STATES, home, **variables) as program:
        assert not look(program)["gc_tuning"]
        flags(file, gc_tuning="on")
        time.sleep(1.5)  # the file is looked at each second
        assert not look(program)["gc_tuning"]
        Signals({HOME: str(home)}).emit("HEALTH_MONITORING_READY")
        wait_for(lambda: look(program)["gc_tuning"], what="it is on")


def test_signals_that_are_turned_off_leave_nothing_waiting(home, tmp_path):
    file = tmp_path / "flags.json"
    flags(file, signals="on")
    variables = {"OTEL_PERF_FLAGS_FILE": str(file), "OTEL_PERF_SIGNALS_EXTERNAL": "ERROR_HANDLING_READY"}
    with programs.started(STATES, home, **variables) as program:
        assert not look(program)["logs"]
        flags(file, signals="off")
        wait_for(lambda: look(program)["logs"], what="the logs are on")


TEAM = """
import os, sys, time
import otel_perf as perf
sys.stdin.readline()
pid = os.fork()
if pid == 0:
    time.sleep(1.5)
    sys.exit(0)
os.waitpid(pid, 0)
print("done", flush=True)
"""


def test_nobody_says_in_the_name_of_others_what_they_took_from_them(home, opened):
    agent = opened("agent")
    agent.emit("ERROR_HANDLING_READY")
    with programs.started(TEAM, home, OTEL_PERF_SIGNALS_EXTERNAL="ERROR_HANDLING_READY") as program:
        agent.wait_sync("MEMORY_MANAGEMENT_READY", timeout=30)
        program.stdin.write("\n")
        program.stdin.close()
        assert program.stdout.readline() == "done\n"
        assert program.wait(30) == 0
    said = [s for s in agent.since() if s.name == "ERROR_HANDLING_READY" and not s.key]
    assert [s.producer.service for s in said] == ["agent"]
    assert os.getpid() == said[0].producer.pid
