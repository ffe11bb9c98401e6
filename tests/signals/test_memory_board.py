import pytest

from otel_perf.signals.board import KEPT
from otel_perf.signals.memory_board import MemoryBoard
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
