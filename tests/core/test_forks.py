"""Hooks around fork run in order, can be removed, and never break the fork."""

import os
import threading

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
        remove()
    assert "a fork handler failed" in caplog.text


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
