"""A real Redis server on a free port of 127.0.0.1, with nothing on disk, ended by its pid."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.support import Running, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]


def command() -> Path:
    """The server's command. Where none can be had the test is skipped, in CI it fails."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import redis_server as tool
    finally:
        sys.path.pop(0)
    try:
        return tool.ensure()
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@contextmanager
def running(folder: Path, *options: str) -> Iterator[int]:
    """The port of a server, ready to answer."""
    port = free_port()
    arguments = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
    with Running([str(command()), *arguments, *options], os.environ, folder, folder / "redis.log") as server:
        server.wait_until_listening(port)
        yield port
