"""A real Redis server on a free port of 127.0.0.1, with nothing on disk, ended by its pid."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.built import built
from tests.e2e.support import Running, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def command() -> Path:
    """The server's command. Where none can be had the test is skipped, in CI it fails."""
    return built("redis_server")


@contextmanager
def running(folder: Path, *options: str) -> Iterator[int]:
    """The port of a server, ready to answer."""
    port = free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
    with Running([str(command()), *arguments, *options], os.environ, folder, folder / "redis.log") as server:
        server.wait_until_listening(port)
        yield port
