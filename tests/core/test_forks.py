"""Hooks around fork run in order, can be removed, and never break the fork."""

import os
import signal
import sys
import threading

import pytest

from otel_perf.core import forks


def test_hooks_run_around_a_fork_and_end_when_removed():
    seen = []
    remove = [
        forks.on_fork(before=lambda: seen.append("b1"), parent=lambda: seen.append("p1")),
        forks.on_fork(
            before=lambda: seen.append("b2"), parent=lambda: seen.append("p2"), child=lambda: seen.append("c2")
        ),
    ]
    try:
        pid = os.fork()
        if pid == 0:
            os._exit(0 if seen == ["b2", "b1", "c2"] else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert seen == ["b2", "b1", "p1", "p2"]
    finally:
        for call in remove:
            call()
            call()
    seen.clear()
    forks._before()
    forks._parent()
    assert seen == []


def test_a_failing_hook_leaves_the_fork_alone(caplog):
    remove = forks.on_fork(before=lambda: 1 / 0)
    try:
        forks._before()
        forks._parent()
        forks._child()
    finally:
        forks._child_is_ready()  # as after every fork
        remove()
    assert "a fork handler failed" in caplog.text


def mask():
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


def forked(look=lambda: True):
    """Whether what ``look`` says in a child of fork is true, and who forks and the child have the mask of before."""
    known = mask()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if mask() == known and look() else 1)
    status = os.waitpid(pid, 0)[1]
    return status == 0 and mask() == known


@pytest.fixture
def held():
    end = forks.hold_back(lambda: [signal.SIGUSR1])
    yield
    end()
    end()


@pytest.fixture
def usr1():
    """Every SIGUSR1 that is handled, with whether the process was new then."""
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda *_: seen.append(forks.is_new_child()))
    yield seen
    signal.signal(signal.SIGUSR1, before)


def test_signals_are_held_back_while_a_process_forks(held, usr1):
    masks = []

    def before():
        masks.append(mask())
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)  # another thread, which forks nothing, may take it
        masks.append(list(usr1))

    end = forks.on_fork(before=before)
    try:
        assert forked(lambda: usr1 == [])  # it is the parent's
    finally:
        end()
    assert signal.SIGUSR1 in masks[0]
    assert masks[1] == []
    assert usr1 == [False]


def test_one_that_comes_to_a_new_child_is_handled_there_before_its_hooks_run(held, usr1, monkeypatch):
    seen = []
    end = forks.on_fork(child=lambda: seen.append((list(usr1), forks.is_new_child(), mask())))
    early = []
    let_through = forks._let_through

    def comes_too_early():
        os.kill(os.getpid(), signal.SIGUSR1)
        early.append(list(usr1))
        let_through()

    monkeypatch.setattr(forks, "_let_through", comes_too_early)  # in the child; the parent's hook is the real one
    known = mask()
    try:
        assert forked(lambda: early[0] == [] and seen == [([True], True, known)] and not forks.is_new_child())
    finally:
        end()


@pytest.mark.parametrize("where", ["before", "parent", "child"])
def test_no_signal_stays_blocked_when_a_hook_is_interrupted(held, where, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)

    def interrupted():
        raise KeyboardInterrupt

    end = forks.on_fork(**{where: interrupted})
    try:
        assert forked()
    finally:
        end()


def test_what_the_app_blocks_stays_blocked_and_what_its_hooks_block_too(held):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        assert forked()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])
    end = forks.on_fork(child=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]))
    try:
        assert not forked()  # the child's mask is what its hook made of it
    finally:
        end()


def test_a_thread_that_forks_has_its_mask_again(held):
    found = []
    thread = threading.Thread(target=lambda: found.append(forked()))
    thread.start()
    thread.join()
    assert found == [True]


def test_a_thread_that_a_child_starts_blocks_nothing(held):
    masks = []
    known = mask()

    def run():
        thread = threading.Thread(target=lambda: masks.append(mask()))  # one of before the fork has ended, since 3.13
        thread.start()
        thread.join()

    end = forks.on_fork(child=run)
    try:
        assert forked(lambda: masks == [known])
    finally:
        end()


class Storage:
    def __init__(self):
        self._lock = threading.Lock()
        self.parts = {"a": [Part()], "self": self}


class Part:
    def __init__(self):
        self.lock = threading.Lock()


def test_locks_that_nobody_will_release_are_reset():
    storage = Storage()
    storage._lock.acquire()
    part = storage.parts["a"][0]
    part.lock.acquire()
    assert forks.reset_locks(storage, __name__) == 2
    assert storage._lock.acquire(blocking=False)
    assert part.lock.acquire(blocking=False)


def test_objects_of_other_packages_are_not_entered():
    part = Part()
    part.lock.acquire()
    assert forks.reset_locks([part], "somewhere.else") == 0
