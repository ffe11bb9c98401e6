"""Receivers of OTLP for the benchmarks that send: programs/trouble.py, and the real Collector, also one that flaps.

Each is entered with ``with`` and has a port of its own, which another may have when it is gone. ``finish`` stops it and
gives trace and span id, 24 bytes together, of every span in the requests that it answered with 200, in no order.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from typing import TYPE_CHECKING, Final, Self

import common

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Below the ports that a system gives to outgoing connections: one of these could take a port that waits for its owner.
PORTS: Final = range(20_000, 32_000)
ID_BYTES: Final = 24
TIMEOUT: Final = 20.0  # seconds for a Collector to start, or to end
ANSWER_TIMEOUT: Final = 60.0  # seconds for a hundred thousand spans to be decoded
POLL: Final = 0.02
TO_A_FILE: Final = common.ROOT / "tests" / "e2e" / "collector.yaml"

_ports = iter(random.sample(PORTS, len(PORTS)))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on; another one every time."""
    for port in _ports:
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"no free port in {PORTS}")


def split(ids: bytes) -> list[bytes]:
    """The ids that stand in a row in ``ids``."""
    return [ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES)]


class Receiver:
    """What the benchmarks know of any of them."""

    port: int
    requests: int | None = None  # how many came, when it is finished, and if it is known

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when it receives, or is in trouble."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop it if it runs."""
        raise NotImplementedError

    def finish(self) -> list[bytes]:
        """Stop it; the ids of what it took. Its senders have to have ended."""
        raise NotImplementedError


class Trouble(Receiver):
    """A programs/trouble.py, run by the Python of ``folder``, which must know the OTLP messages."""

    def __init__(self, trouble: str, folder: Path) -> None:
        self.port = free_port()
        self._trouble = trouble
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the program."""
        program = [str(common.PROGRAMS / "trouble.py"), self._trouble, str(self.port)]
        self._process = subprocess.Popen(
            [str(self._folder / "bin" / "python"), *program],
            env=common.environ(self._folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"{' '.join(program)} did not start")

    def stop(self) -> None:
        """Kill the program."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def finish(self) -> list[bytes]:
        """Ask it, and kill it."""
        if self._trouble == "refused":
            self.stop()
            return []
        ids = split(self._ask("ids"))
        self.requests = int(self._ask("requests"))
        self.stop()
        return ids

    def _ask(self, what: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{what}", timeout=ANSWER_TIMEOUT) as answer:
            found: bytes = answer.read()
        return found


class Collector(Receiver):
    """The real Collector. It can be started again and again; every time it writes another file to ``folder``.

    ``variables`` are more of what its configuration reads.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        config: Path = TO_A_FILE,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port() if port is None else port
        self.grpc, self._health = free_port(), free_port()
        self._folder, self._config, self._variables = folder, config, variables or {}
        self._binary = common.collector()
        self._files: list[Path] = []
        self._read: dict[Path, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it is healthy."""
        file = self._folder / f"received-{self._health}-{len(self._files)}.json"
        self._files.append(file)
        variables = {
            "OTELCOL_FILE": str(file),
            "OTELCOL_HTTP": f"127.0.0.1:{self.port}",
            "OTELCOL_GRPC": f"127.0.0.1:{self.grpc}",
            "OTELCOL_HEALTH": f"127.0.0.1:{self._health}",
            **self._variables,
        }
        log = file.with_suffix(".log")
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(self._binary), "--config", str(self._config)],
                env={"PATH": os.defpath, **variables},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + TIMEOUT
        while not self._is_healthy():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.stop()
                raise RuntimeError(f"the Collector did not start:\n{log.read_text()[-2000:]}")
            time.sleep(POLL)

    @property
    def pid(self) -> int:
        """Its process, while it runs."""
        assert self._process is not None, "not started"
        return self._process.pid

    def spans(self) -> int:
        """How many have been written since the last call; the exemplars of metrics are none."""
        found = 0
        for file in self._files:
            if file.exists():
                with file.open("rb") as lines:
                    lines.seek(self._read.get(file, 0))
                    new = lines.read()
                whole = new[: new.rfind(b"\n") + 1]
                self._read[file] = self._read.get(file, 0) + len(whole)
                of_spans = (line for line in whole.splitlines() if line.startswith(b'{"resourceSpans"'))
                found += sum(line.count(b'"spanId":"') for line in of_spans)
        return found

    def stop(self) -> None:
        """SIGTERM, and wait: it writes what it took."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"the Collector did not end within {TIMEOUT:g} s of SIGTERM") from None

    def finish(self) -> list[bytes]:
        """Stop it, and read its files."""
        self.stop()
        return [identifier for file in self._files if file.exists() for identifier in _ids_of(file)]

    def _is_healthy(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self._health}", timeout=1) as got:
            return bool(got.status == 200)
        return False


class Flapping(Receiver):
    """A Collector that is down for ``seconds``, then up, then down, and so on."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._collector = Collector(folder)
        self.port = self._collector.port
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._flap, daemon=True)
        self._error: Exception | None = None

    def start(self) -> None:
        """Begin with the first time that it is down."""
        self._thread.start()

    def stop(self) -> None:
        """End it, whatever it was just doing."""
        self._over.set()
        self._thread.join()

    def finish(self) -> list[bytes]:
        """What it took each time that it was up."""
        self.stop()
        if self._error is not None:
            raise self._error
        return self._collector.finish()

    def _flap(self) -> None:
        due = time.monotonic()
        try:
            for change in itertools.cycle((self._collector.start, self._collector.stop)):
                due += self._seconds
                if self._over.wait(max(0.0, due - time.monotonic())):
                    break
                change()
            self._collector.stop()
        except Exception as error:
            self._error = error


def _ids_of(file: Path) -> list[bytes]:
    """Those in the OTLP JSON lines of ``file``."""
    found = []
    with file.open() as lines:
        for line in lines:
            for resource in json.loads(line).get("resourceSpans", ()):
                for scope in resource["scopeSpans"]:
                    found += [bytes.fromhex(span["traceId"] + span["spanId"]) for span in scope["spans"]]
    return found
