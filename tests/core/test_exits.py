"""Flushing at the end: bounded, and without a trace when undone. The endings themselves are in tests/e2e."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest

from otel_perf.core import exits


def test_bounded_work_that_ends_is_done():
    seen = []
    assert exits.bounded(lambda: seen.append(1), 5)
    assert seen == [1]


def test_bounded_work_that_hangs_is_left_behind():
    never = threading.Event()
    assert not exits.bounded(never.wait, 0.01)
    never.set()


def test_bounded_work_is_done_here_when_no_thread_can_start(monkeypatch):
    def refuse(*_arguments):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(exits, "start_new_thread", refuse)
    seen = []
    assert exits.bounded(lambda: seen.append(threading.current_thread()), 1)
    assert seen == [threading.main_thread()]


def test_undone_it_leaves_signals_and_os_as_they_were():
    before = (signal.getsignal(signal.SIGTERM), os._exit, os.execv, os.execve)
    undo = ExitStack()
    exits.install(lambda _: None, lambda: None, undo)
    assert os._exit is not before[1]
    undo.close()
    assert (signal.getsignal(signal.SIGTERM), os._exit, os.execv, os.execve) == before


FORKS = """
import ctypes, os
from contextlib import ExitStack
from otel_perf.core import exits

undo = ExitStack()
exits.install(lambda _: None, lambda: os.write(1, b"shut down\\n"), undo)
child = {fork}
if child:
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize(("fork", "times"), [("os.fork()", 2), ("ctypes.PyDLL(None).fork()", 1)])
def test_who_was_forked_without_telling_python_shuts_nothing_down(fork, times):
    """GIVEN a child that C has forked, as a worker of uWSGI WHEN it ends THEN it waits for no thread, which it has not."""
    command = [sys.executable, "-c", FORKS.format(fork=fork)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "shut down\n" * times)


def test_a_handler_of_the_app_is_not_replaced():
    def mine(_number, _frame):
        pass

    before = signal.signal(signal.SIGTERM, mine)
    try:
        undo = ExitStack()
        exits.install(lambda _: None, lambda: None, undo)
        assert signal.getsignal(signal.SIGTERM) is mine
        undo.close()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_that_the_app_sets_later_stays_when_undone():
    def mine(_number, _frame):
        pass

    before = signal.getsignal(signal.SIGTERM)
    undo = ExitStack()
    exits.install(lambda _: None, lambda: None, undo)
    signal.signal(signal.SIGTERM, mine)
    undo.close()
    assert signal.getsignal(signal.SIGTERM) is mine
    signal.signal(signal.SIGTERM, before)


def test_in_another_thread_signals_are_left_alone():
    undo = ExitStack()
    thread = threading.Thread(target=exits.install, args=(lambda _: None, lambda: None, undo))
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    undo.close()


def test_a_patch_of_somebody_else_on_top_of_ours_stays():
    undo = ExitStack()
    original = os._exit
    exits.install(lambda _: None, lambda: None, undo)
    ours = os._exit

    def theirs(status):
        ours(status)

    os._exit = theirs
    try:
        undo.close()
        assert os._exit is theirs
    finally:
        os._exit = original


def test_sudden_ends_flush_first(monkeypatch):
    seen = []
    monkeypatch.setattr(os, "_exit", lambda status: seen.append(status))
    undo = ExitStack()
    exits.install(lambda _: seen.append("flushed"), lambda: None, undo)
    os._exit(3)
    undo.close()
    assert seen == ["flushed", 3]


def test_a_signal_flushes_and_is_raised_again(monkeypatch):
    """Process 1 of a container survives its own SIGTERM: then we go on watching."""
    seen = []
    undo = ExitStack()
    exits.install(lambda _: seen.append("flushed"), lambda: None, undo)
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "kill", lambda pid, number: seen.append((pid, number, signal.getsignal(number))))
    try:
        signal.raise_signal(signal.SIGTERM)
        assert seen == ["flushed", (os.getpid(), signal.SIGTERM, signal.SIG_DFL)]
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        undo.close()
