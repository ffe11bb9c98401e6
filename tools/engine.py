"""Runs a command with a container engine that answers, for the tests that run the Collector as a container.

    python tools/engine.py make test

An engine that answers already (``DOCKER_HOST``, or the default socket) is used as it is. Where there is none, and this
is Linux and root, Debian's packages are installed if ``dockerd`` or ``busybox`` is missing (which
docker-compose.yml runs in images that have nothing else), an engine of our own is started with
all its files in a temporary folder, and stopped by its pid at the end. Where nothing helps, the reason is printed and
the command runs without: the tests say what they lack, and fail when ``CI=true``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT = "unix:///var/run/docker.sock"
PROGRAMS = ("dockerd", "busybox")
PACKAGES = ("docker.io", "iptables", "busybox-static")
START, STOP = 60.0, 30.0  # seconds


class NoEngineError(Exception):
    """There is no engine, and why."""


def answers(host: str) -> bool:
    """Whether an engine answers at ``host``. Only sockets are asked; another address is taken at its word."""
    if not host.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(2.0)
        try:
            connection.connect(host.removeprefix("unix://"))
            connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
            return b" 200 " in connection.recv(64)
        except OSError:
            return False


@contextlib.contextmanager
def running() -> Iterator[str]:
    """The address of an engine."""
    host = os.environ.get("DOCKER_HOST") or DEFAULT
    if answers(host):
        yield host
        return
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        raise NoEngineError(f"no container engine answers at {host}, and only root on Linux can start one")
    if None in map(shutil.which, PROGRAMS):
        _install()
    folder = Path(tempfile.mkdtemp(prefix="otel-perf-engine-"))
    try:
        with _started(folder) as host:
            yield host
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _install() -> None:
    if shutil.which("apt-get") is None:
        raise NoEngineError(f"{' or '.join(PROGRAMS)} is not installed, and there is no apt-get to install it with")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", *command], env=environ, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NoEngineError(f"apt-get {' '.join(command)} failed: {(done.stderr or done.stdout)[-500:]}")


@contextlib.contextmanager
def _started(folder: Path) -> Iterator[str]:
    host = f"unix://{folder}/docker.sock"
    command = ["dockerd", f"--host={host}", f"--pidfile={folder}/pid"]
    command += [f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
    log = folder / "log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as engine:
        try:
            deadline = time.monotonic() + START
            while not answers(host):
                if engine.poll() is not None or time.monotonic() > deadline:
                    raise NoEngineError(f"dockerd did not start:\n{log.read_text(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield host
        finally:
            engine.terminate()  # it stops its containers and its containerd, and unmounts what it mounted
            try:
                engine.wait(STOP)
            except subprocess.TimeoutExpired:
                engine.kill()


def main(command: list[str]) -> int:
    """Run ``command``; its exit status."""
    # Leaving this way ends the command, then the engine.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with contextlib.ExitStack() as stack:
        environ = dict(os.environ)
        try:
            environ["DOCKER_HOST"] = stack.enter_context(running())
        except NoEngineError as error:
            print(f"engine: {error}", file=sys.stderr)
        return subprocess.run(command, env=environ, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
