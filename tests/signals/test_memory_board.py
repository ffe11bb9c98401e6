import os
import signal as signals
import threading

import pytest

from otel_perf.core.errors import SignalError
from otel_perf.signals.board import KEPT
from otel_perf.signals.memory_board import MemoryBoard
from tests.e2e.support import wait_for
from tests.signals.contract import BoardContract, producer, signal


class Boards:
    """One board, however often it is opened."""

    def __init__(self):
        self.board = None

    def open(self, kept=KEPT):
        self.board = self.board or MemoryBoard(kept=kept)
        return self.board

    def emit_and_die(self, identity, name, uid=None):
        board = self.open()
        who = board.join(producer(identity))
        board.put(signal(who, name, uid=uid))
        board.lose(who)


@pytest.fixture
def boards():
    made = Boards()
    yield made
    if made.board is not None:
        made.board.close()


class TestMemoryBoard(BoardContract):
    pass


def test_a_child_that_was_forked_while_others_emit_can_use_it(boards):
    board = boards.open()
    who = board.join(producer())
    stop = threading.Event()

    def emit():
        while not stop.is_set():
            board.put(signal(who))

    threads = [threading.Thread(target=emit) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: board.current("", ["CACHE_WARM"]))
        for _ in range(10):
            board.before_fork()
            child = os.fork()
            if child == 0:
                signals.alarm(20)  # one that hangs is a failure
                board.after_fork_in_child()
                os._exit(0 if board.current("", ["CACHE_WARM"]) and board.put(signal(who)).seq else 1)
            board.after_fork_in_parent()
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_one_that_was_closed_says_so(boards):
    board = boards.open()
    board.close()
    with pytest.raises(SignalError, match="the signal board in the memory of this process was closed"):
        board.current("", ["A"])
