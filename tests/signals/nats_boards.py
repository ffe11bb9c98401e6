"""What the tests of the NATS board share: connections to one bucket, and a process that emits."""

import asyncio
import contextlib
import subprocess
import sys
import uuid

import nats

from otel_perf.signals.board import KEPT
from otel_perf.signals.nats_address import address_of
from otel_perf.signals.nats_board import NatsBoard
from otel_perf.signals.settings import SignalsSettings
from tests.e2e import programs

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


def opened(url, kept=KEPT, **settings):
    return NatsBoard(address_of(SignalsSettings(url=url, **settings)), kept=kept)


@contextlib.contextmanager
def emitter(url, folder, identity="shop", name="CACHE_WARM", uid=None, program=EMIT):
    """A process that has emitted, and lives until it is killed."""
    command = [sys.executable, "-c", program, url, identity, name, uid or ""]
    with subprocess.Popen(
        command, env=programs.environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout.readline() == b"put\n"
            yield process
        finally:
            process.kill()


class Boards:
    """Connections to one bucket."""

    def __init__(self, server, folder):
        self.url = f"{server.url}/t{uuid.uuid4().hex}"
        self.folder = folder
        self.opened = []

    def open(self, kept=KEPT):
        self.opened.append(opened(self.url, kept))
        return self.opened[-1]

    def emit_and_die(self, identity, name, uid=None):
        with emitter(self.url, self.folder, identity, name, uid):
            pass

    def close(self):
        for board in self.opened:
            board.close()


def run(server, work):
    async def main():
        client = await nats.connect(server.url)
        try:
            await work(client.jetstream())
        finally:
            await client.close()

    asyncio.run(main())
