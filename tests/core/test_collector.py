"""Objects are looked for, and collections are watched, without harm to the app."""

import gc
import signal
import threading
import time

import pytest

from otel_perf.core import collector

FIND = {"python": collector._find}
if collector._compiled is not None:
    FIND["compiled"] = collector._compiled.find


class Node:
    pass


class Derived(Node):
    pass


class Lazy:
    """Like those of Django: who asks for its class makes it."""

    @property
    def __class__(self):
        raise RuntimeError("not configured")


@pytest.fixture(params=FIND)
def find(request):
    return FIND[request.param]


def test_objects_of_exactly_these_types_are_found(find):
    nodes, _others, _lazy = [Node() for _ in range(10)], [Derived()], Lazy()
    found = find((Node,), 1_000)
    assert {id(node) for node in found} == {id(node) for node in nodes}
    assert len(find((Node, Derived), 1_000)) == 11
    assert find((), 1_000) == []


def test_of_many_the_first_and_the_last_are_given(find):
    nodes = [Node() for _ in range(100)]
    gc.collect()
    found = find((Node,), 10)
    assert len({id(node) for node in found}) == len(found) == 20
    assert len(find((Node,), 50)) == len(nodes)
    assert len(find((Node,), 60)) == len(nodes)


def test_a_tuple_that_is_being_made_in_another_thread_is_not_disturbed(find):
    """While a list of all objects lives, ``tuple(generator)`` finds its tuple shared, and raises SystemError."""
    ballast = [[number] for number in range(150_000)]
    failed, stop = [], threading.Event()

    def work():
        while not stop.is_set():
            try:
                tuple(number for number in range(12, 200))
            except SystemError as error:
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        find((Node,), 10)
        time.sleep(0.001)
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(ballast) == 150_000


def test_the_collector_is_left_as_it_was(find):
    for turn in (gc.disable, gc.enable):
        turn()
        before = gc.isenabled()
        find((Node,), 10)
        assert gc.isenabled() is before


def test_a_callback_that_fails_keeps_the_others_from_nothing(monkeypatch):
    seen, unraisable = [], []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)

    def fails(_phase, _info):
        raise ValueError("no")

    def sees(phase, _info):
        seen.append(phase)

    removes = [collector.on_collection(fails), collector.on_collection(sees)]
    before = list(gc.callbacks)
    gc.collect()
    for remove in removes:
        remove()
        remove()
    gc.collect()
    assert seen == ["start", "stop"]
    assert [type(found.exc_value) for found in unraisable] == [ValueError, ValueError]
    assert len(gc.callbacks) < len(before)


class TooLongError(Exception):
    pass


def collected_then_more():
    gc.collect()
    for _ in range(1_000):
        pass


HANDLER = """
def handle(number, frame):
    raise error
"""


@pytest.mark.skipif(collector._compiled is None, reason="otel_perf/core/_collector.c is not compiled here")
@pytest.mark.skipif(not hasattr(signal, "raise_signal"), reason="this system has no signals")
@pytest.mark.parametrize("raised", [TooLongError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("phase", ["start", "stop"])
def test_what_a_handler_raises_within_a_callback_reaches_the_app(monkeypatch, raised, phase):
    """GIVEN a signal that comes while a callback runs, as of a busy machine it may THEN the others are called, too."""
    unraisable, seen, sent = [], [], []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    app = {"__name__": "app", "error": raised}
    exec(HANDLER, app)

    def interrupted(now, _info):
        if now == phase and not sent:
            sent.append(now)
            signal.raise_signal(signal.SIGUSR1)

    others = list(gc.callbacks)
    gc.callbacks.clear()  # those of other libraries, like hypothesis's, would take it for themselves
    before = signal.signal(signal.SIGUSR1, app["handle"])
    remove = collector.on_collection(interrupted)
    remove_other = collector.on_collection(lambda now, _info: seen.append(now))
    try:
        with pytest.raises(raised):
            collected_then_more()
    finally:
        signal.signal(signal.SIGUSR1, before)
        remove()
        remove_other()
        gc.callbacks[:] = others
    assert unraisable == []
    assert seen[:2] == ["start", "stop"]


def test_our_own_collections_are_known_by_their_thread():
    seen = []

    def sees(_phase, _info):
        seen.append(threading.get_ident() in collector.collecting)

    remove = collector.on_collection(sees)
    collector.collect()
    gc.collect()
    remove()
    assert seen == [True, True, False, False]
    assert collector.collecting == set()
