import subprocess
import sys

import pytest

from otel_perf.signals.board import KEPT
from otel_perf.signals.sqlite_board import SqliteBoard
from tests.e2e import programs
from tests.signals.contract import BoardContract

EMIT = """
import sys, time, uuid
from pathlib import Path
from otel_perf.signals.sqlite_board import SqliteBoard
from otel_perf.signals.signal import Producer, Signal
path, identity, name, uid = sys.argv[1:]
board = SqliteBoard(Path(path))
who = board.join(Producer(identity, uuid.uuid4().hex))
board.put(Signal(name, "", "", "ready", "", "null", who, uid or uuid.uuid4().hex, time.time_ns(), 0.0))
print("put", flush=True)
sys.stdin.read()
"""


class Boards:
    """Connections to one file."""

    def __init__(self, folder):
        self.path = folder / "signals.db"
        self.opened = []

    def open(self, kept=KEPT):
        self.opened.append(SqliteBoard(self.path, kept=kept))
        return self.opened[-1]

    def emit_and_die(self, identity, name, uid=None):
        command = [sys.executable, "-c", EMIT, str(self.path), identity, name, uid or ""]
        with subprocess.Popen(
            command, env=programs.environment(self.path.parent), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"put\n"
            process.kill()


@pytest.fixture
def boards(tmp_path):
    made = Boards(tmp_path)
    yield made
    for board in made.opened:
        board.close()


class TestSqliteBoard(BoardContract):
    pass
