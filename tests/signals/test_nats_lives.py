"""Processes on a NATS board that stop, fork, end, or are killed."""

import contextlib
import os
import re
import signal as os_signal
import subprocess
import sys
import threading
import time

import pytest

from otel_perf.core.errors import SignalError
from otel_perf.signals import nats_mirror
from otel_perf.signals.board import Wait
from tests.e2e import programs
from tests.e2e.support import wait_for
from tests.signals import nats_server
from tests.signals.contract import producer, signal
from tests.signals.nats_boards import EMIT, emitter


@pytest.fixture
def boards(on_nats):
    return on_nats


def test_a_process_that_stood_still_is_believed_again_when_it_goes_on(boards, tmp_path):
    board = boards.open()
    with emitter(boards.url, tmp_path) as process:
        nats_server.stop(process.pid)
        board.join(producer())
        assert board.current("", ["CACHE_WARM"]) == []
        os.kill(process.pid, os_signal.SIGCONT)
        wait_for(lambda: board.current("", ["CACHE_WARM"]), what="the process says that it is here")


FORK = EMIT.replace(
    'print("put", flush=True)\nsys.stdin.read()\n',
    """
import os
import re
from otel_perf.core.forks import on_fork
on_fork(before=board.before_fork, parent=board.after_fork_in_parent, child=board.after_fork_in_child)
if os.fork() == 0:
    me = board.join(Producer("child", uuid.uuid4().hex))
    board.put(Signal("CHILD", "", "", "ready", "", str(os.getpid()), me, uuid.uuid4().hex, time.time_ns(), 0.0))
    print("put", flush=True)
    time.sleep(60)
    os._exit(0)
sys.stdin.read()
""",
)


def test_a_forked_child_has_a_connection_and_a_life_of_its_own(boards, tmp_path):
    board = boards.open()
    with emitter(boards.url, tmp_path, program=FORK) as process:
        (child,) = board.current("", ["CHILD"])
        try:
            assert {h.producer.identity: h.state for h in board.producers()} == {"shop": "here", "child": "here"}
            process.kill()
            process.wait()
            board.join(producer("shop"))
            board.join(producer("child"))
            assert board.current("", ["CACHE_WARM", "CHILD"]) == [child]  # it lives, its parent does not
        finally:
            os.kill(child.value, os_signal.SIGKILL)


def test_threads_that_work_while_the_process_forks_go_on_in_the_parent(boards):
    board = boards.open()
    who = board.join(producer())
    stop = threading.Event()
    put = []

    def emit():
        while not stop.is_set():
            put.append(board.put(signal(who)))

    thread = threading.Thread(target=emit)
    thread.start()
    try:
        wait_for(lambda: put, what="the first signal")
        for _ in range(5):
            board.before_fork()
            child = os.fork()
            if child == 0:
                os_signal.alarm(20)  # one that hangs is a failure
                board.after_fork_in_child()
                os._exit(0 if board.current("", ["CACHE_WARM"]) else 1)
            board.after_fork_in_parent()
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join(10)
    assert board.since(0, 100_000) == put


def test_waits_of_a_process_that_does_not_answer_are_none(boards, tmp_path):
    board, other = boards.open(), boards.open()
    wait = Wait("w", other.join(producer()), "", ("A",), (), 5)
    other.note(wait)
    with emitter(boards.url, tmp_path, "stopped") as process:
        nats_server.stop(process.pid)
        assert board.waits() == [wait]


def test_it_ends_with_its_thread(boards):
    board = boards.open()
    board.close()
    board.close()
    assert not board._link._tasks
    with pytest.raises(SignalError, match="it was closed"):
        board.current("", ["A"])


def test_lives_that_ended_unseen_are_forgotten_when_there_are_too_many(boards, monkeypatch):
    monkeypatch.setattr(nats_mirror, "PRODUCERS", 3)
    boards.emit_and_die("first", "A")
    dead = [boards.open() for _ in range(4)]
    for number, board in enumerate(dead):
        board.join(producer(f"p{number}"))
        board.close()  # without leaving
    board = boards.open(kept=10)
    who = board.join(producer("alive"))
    for _ in range(600):
        board.put(signal(who))
    other = boards.open()

    def made_room():
        for _ in range(32):
            board.put(signal(who))  # who cannot make room in time leaves that to whoever is next
        # One that has a signal, one that lives.
        return {h.producer.identity for h in other.producers()} >= {"first", "alive"}

    wait_for(made_room, what="the others are forgotten")
    assert len(other.producers()) <= 3
    assert other.current("", ["A"])


PROGRAM = """
import os, sys
from otel_perf.signals.api import Signals
signals = Signals(os.environ)
signals.on("NEVER", print)
signals.emit("A")
print("put", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def program(url, folder):
    """One that emits, responds, and ends without a word when its input does."""
    environ = programs.environment(folder, OTEL_PERF_SIGNALS_URL=url, OTEL_SERVICE_NAME="shop")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout.readline() == "put\n"
            yield process
        finally:
            process.kill()


def test_a_program_that_ends_has_left(boards, tmp_path):
    board = boards.open()
    with program(boards.url, tmp_path) as process:
        assert [heard.state for heard in board.producers()] == ["here"]
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0
    assert [heard.state for heard in board.producers()] == ["left"]


@pytest.mark.alone
def test_a_program_that_ends_does_not_wait_long_for_a_server_that_is_away(own_server, tmp_path):
    with program(own_server.url, tmp_path) as process:
        own_server.stop()
        began = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 2.5
    assert (out, process.returncode) == ("", 0)
    assert re.fullmatch(r"(otel-perf: signals: the signal board .*\n)?", err)  # who waits may have looked just then


def test_a_server_that_stays_away_is_told_once_and_that_it_is_back(own_server, tmp_path):
    with program(own_server.url, tmp_path) as process:
        own_server.stop()
        told = process.stderr.readline()
        while told.startswith("otel-perf: signals: "):  # who waits looked just then
            told = process.stderr.readline()
        assert re.fullmatch(rf"otel-perf: the signal board {own_server.url} is away: .*; trying again\n", told)
        own_server.start()
        assert process.stderr.readline() == f"otel-perf: the signal board {own_server.url} is back\n"
        assert process.communicate(timeout=60) == ("", "")
