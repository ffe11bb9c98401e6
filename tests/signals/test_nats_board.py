"""The NATS board against the real server: the contract, and what only a network brings."""

import subprocess
import sys
import uuid

import pytest

from otel_perf.signals.board import KEPT
from otel_perf.signals.nats_address import address_of
from otel_perf.signals.nats_board import NatsBoard
from otel_perf.signals.settings import SignalsSettings
from tests.e2e import programs
from tests.signals.contract import BoardContract

EMIT = """
import sys, time, uuid
from otel_perf.signals.nats_address import address_of
from otel_perf.signals.nats_board import NatsBoard
from otel_perf.signals.settings import SignalsSettings
from otel_perf.signals.signal import Producer, Signal
url, identity, name, uid = sys.argv[1:]
board = NatsBoard(address_of(SignalsSettings(url=url)))
who = board.join(Producer(identity, uuid.uuid4().hex))
board.put(Signal(name, "", "", "ready", "", "null", who, uid or uuid.uuid4().hex, time.time_ns(), 0.0))
print("put", flush=True)
sys.stdin.read()
"""


class Boards:
    """Connections to one bucket."""

    def __init__(self, server, folder):
        self.url = f"{server.url}/t{uuid.uuid4().hex}"
        self.folder = folder
        self.opened = []

    def open(self, kept=KEPT):
        self.opened.append(NatsBoard(address_of(SignalsSettings(url=self.url)), kept=kept))
        return self.opened[-1]

    def emit_and_die(self, identity, name, uid=None):
        command = [sys.executable, "-c", EMIT, self.url, identity, name, uid or ""]
        with subprocess.Popen(
            command, env=programs.environment(self.folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"put\n"
            process.kill()

    def close(self):
        for board in self.opened:
            board.close()


@pytest.fixture
def boards(nats_of_all, tmp_path):
    made = Boards(nats_of_all, tmp_path)
    yield made
    made.close()


class TestNatsBoard(BoardContract):
    pass
