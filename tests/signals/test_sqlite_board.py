import subprocess
import sys

import pytest

from otel_perf.signals.board import KEPT
from otel_perf.signals.sqlite_board import SqliteBoard
from tests.e2e import programs
from tests.signals.contract import BoardContract, producer, signal

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


FORK = """
import os, sys, time, uuid
from pathlib import Path
from otel_perf.signals.sqlite_board import SqliteBoard
from otel_perf.signals.signal import Producer, Signal

def emit(who, name):
    board.put(Signal(name, "", "", "ready", "", "null", who, uuid.uuid4().hex, time.time_ns(), 0.0))

board = SqliteBoard(Path(sys.argv[1]))
who = board.join(Producer("parent", uuid.uuid4().hex))
emit(who, "PARENT")
said, say = os.pipe()
parent = os.getpid()
board.before_fork()
if os.fork():
    board.after_fork_in_parent()
    os.read(said, 1)
    board.leave(who)
    board.close()
    os._exit(0)
board.after_fork_in_child()
me = board.join(Producer("child", uuid.uuid4().hex))
emit(me, "C0")
os.write(say, b"x")
while os.getppid() == parent:
    time.sleep(0.01)
for n in range(1, 20):
    emit(me, f"C{n}")
print("done", flush=True)
sys.stdin.read()
"""


def test_a_child_that_outlives_its_parent_loses_nothing(boards, tmp_path):
    command = [sys.executable, "-c", FORK, str(boards.path)]
    environ = programs.environment(tmp_path)
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"done\n"
        board = boards.open()
        assert [s.name for s in board.since(0)] == ["PARENT", *(f"C{n}" for n in range(20))]
        assert {h.producer.identity: h.state for h in board.producers()} == {"parent": "left", "child": "here"}
        assert board.join(producer("child")).generation == 2
        assert len(board.current("", ["C0"])) == 1  # the child lives


def test_who_waits_for_something_new_is_told_after_a_fork(boards):
    board, other = boards.open(), boards.open()
    who = other.join(producer())
    mark = board.changed(None, 0)
    board.before_fork()
    board.after_fork_in_parent()
    other.put(signal(who))
    assert board.changed(mark, 60) != mark
