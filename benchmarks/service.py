"""A web application of the benchmarks (usually programs/web.py) under uvicorn, started for one measurement."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import common

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Mapping
    from pathlib import Path

START_TIMEOUT: Final = 30.0  # seconds
STOP_TIMEOUT: Final = 15.0


@dataclass(frozen=True, slots=True)
class Variant:
    """How the service is started."""

    folder: Path
    env: Mapping[str, str]
    instrumented: bool = True
    app: str = "web:app"


@contextlib.contextmanager
def serving(variant: Variant, work: Path) -> Iterator[tuple[int, int]]:
    """The service's process id and port, until SIGTERM."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    server = ["uvicorn", "--app-dir", str(common.PROGRAMS), "--port", str(port), "--no-access-log", variant.app]
    command = ["opentelemetry-instrument", *server] if variant.instrumented else server
    settings = {"OTEL_PYTHON_FASTAPI_EXCLUDED_URLS": "flush", "OTEL_PERF_HOME": str(work / "home")}
    env = common.environ(variant.folder, settings, variant.env)
    command[0] = str(variant.folder / "bin" / command[0])
    with (work / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, env=env, cwd=work, stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait_until_open(process, port, work)
            yield process.pid, port
            process.send_signal(signal.SIGTERM)
            process.wait(STOP_TIMEOUT)
        finally:
            process.kill()
            process.wait()


def _wait_until_open(process: subprocess.Popen[bytes], port: int, work: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the service did not start:\n{(work / 'output.txt').read_text()[-2000:]}")


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, path: str) -> None:
    """Make one request on a kept connection. Raises ``RuntimeError`` for any status but 200."""
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise RuntimeError(f"{method} {path}: {head!r}")
    await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
