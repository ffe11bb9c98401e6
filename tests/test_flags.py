"""Flags are watched where there are some: a file, or OpenFeature from when the app imports it; also in a child."""

import importlib
import os
import sys
import threading
from contextlib import ExitStack

import pytest

from otel_perf import flags
from otel_perf.core.guard import Guard
from otel_perf.flags import FlagWatch
from tests.e2e.support import wait_for


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(flags, "FILE_EVERY", 0.01)
    monkeypatch.setattr(flags, "PROVIDER_EVERY", 0.02)
    wait_for(lambda: threads() == [], what="those of other tests have ended")


@pytest.fixture
def no_openfeature(monkeypatch):
    """As in a process that has not imported it."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "openfeature":
            monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def watching():
    """Begin to watch; how often the flags were read."""
    with ExitStack() as undo:

        def watching(*, file):
            reads = []
            FlagWatch(lambda: reads.append(1), lambda: Guard("rollout")).install(undo, file=file)
            return reads

        yield watching


def threads():
    """Those that watch flags."""
    return [thread for thread in threading.enumerate() if thread.name == "otel-perf-flags"]


@pytest.mark.usefixtures("no_openfeature")
def test_without_flags_there_is_no_thread(watching):
    watching(file=False)
    assert threads() == []


@pytest.mark.usefixtures("no_openfeature")
def test_a_file_is_watched_until_the_end():
    reads = []
    with ExitStack() as undo:
        FlagWatch(lambda: reads.append(1), lambda: Guard("rollout")).install(undo, file=True)
        wait_for(lambda: len(reads) > 3)
        (thread,) = threads()
    thread.join(10)
    assert threads() == []


@pytest.mark.usefixtures("no_openfeature")
@pytest.mark.parametrize("file", [False, True])
def test_openfeature_is_watched_once_it_is_imported_in_one_thread_with_the_file(watching, file):
    reads = watching(file=file)
    importlib.import_module("openfeature.api")
    wait_for(lambda: len(reads) > 3)
    assert len(threads()) == 1


def test_openfeature_that_is_there_already_is_watched(watching):
    importlib.import_module("openfeature.api")
    reads = watching(file=False)
    wait_for(lambda: len(reads) > 3)


@pytest.mark.parametrize("file", [False, True])
def test_a_child_has_a_thread_of_its_own_if_there_was_one(watching, no_openfeature, file):
    reads = watching(file=file)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            reads.clear()
            if file:
                wait_for(lambda: len(reads) > 3)
            status = 0 if len(threads()) == file else 1
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
