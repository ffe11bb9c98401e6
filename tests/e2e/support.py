"""What the end-to-end tests share: processes that are started and stopped by pid.

Nothing here sleeps for luck: whatever has to happen is waited for with :func:`wait_for` and a deadline.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

T = TypeVar("T")

POLL: Final = 0.02  # seconds between two looks at a condition
PATIENCE: Final = 20.0  # seconds that anything may take before a test fails
# Variables of whoever runs the tests that would change what the programs under test do.
_FOREIGN: Final = ("OTEL_", "CELERY_", "DJANGO_", "FLASK_", "GUNICORN_", "WERKZEUG_")
_FOREIGN_NAMES: Final = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "APP", "BROKER_URL", "WEB_CONCURRENCY"}


# --- waiting -----------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], T], timeout: float = PATIENCE, what: str = "") -> T:
    """Poll until ``condition()`` is true and return what it returned; fail after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout:g} s still not: {what or getattr(condition, '__name__', condition)}")
        time.sleep(POLL)


# Ports that tests listen on are below those that the kernel gives to whoever asks for any, which would be somebody's
# before they are used. Each worker has its own, and takes another one each time.
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_PORTS: Final = 2_500
_turns = itertools.count(os.getpid())


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, nor will."""
    while True:
        port = 12_000 + _WORKER * _PORTS + next(_turns) % _PORTS
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def listens(port: int) -> bool:
    """Whether a connection to ``port`` of 127.0.0.1 is accepted. Sends nothing, hence makes no request."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# --- processes ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Running:
    """A process of ours: started on entry; on exit it and its children are ended, by pid.

    It leads a process group of its own and is not reaped before the end, so that no number here can
    mean somebody else's process. Standard output and error go to the file ``log``.
    """

    command: list[str]
    environ: Mapping[str, str]
    cwd: Path
    log: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _status: int | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=default_signals,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        try:
            if self.poll() is None and error is not None:
                os.killpg(process.pid, signal.SIGABRT)  # faulthandler prints where each thread stands
                self._await(5.0)
            elif self.poll() is None:
                self.send(signal.SIGTERM)
                self._await(5.0)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # what is left of the group, whose leader is not reaped yet
            process.wait()
            if error is not None:
                error.add_note(f"output of {' '.join(self.command)}:\n{self.output()[-8000:]}")

    @property
    def pid(self) -> int:
        """The process id; stays the same through ``opentelemetry-instrument``, which executes the program."""
        assert self._process is not None, "not started"
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        os.kill(self.pid, number)

    def poll(self) -> int | None:
        """The exit status as :mod:`subprocess` gives it, or ``None`` while it runs."""
        if self._status is None:
            # WNOWAIT: leave the zombie, so that its pid stays ours.
            result = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if result is not None:
                self._status = result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
        return self._status

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit status; fails if the process still runs after ``timeout`` seconds."""
        if not self._await(timeout):
            raise AssertionError(f"{' '.join(self.command)} still runs after {timeout:g} s")
        assert self._status is not None
        return self._status

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = PATIENCE) -> int:
        """Send ``number`` to the process, wait for its end, return its exit status."""
        self.send(number)
        return self.wait(timeout)

    def output(self) -> str:
        """What it has written so far, to standard output and error."""
        return self.log.read_text(errors="replace")

    def wait_until_listening(self, port: int, timeout: float = PATIENCE) -> None:
        """Wait until it accepts connections on ``port`` of 127.0.0.1; fails at once if it ends first."""

        def ready() -> bool:
            if self.poll() is not None:
                raise AssertionError(f"{' '.join(self.command)} ended with {self._status} before it listened")
            return listens(port)

        wait_for(ready, timeout, f"port {port} is listened on")

    def _await(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL)
        return True


def default_signals() -> None:
    """Undo what a child inherits: shells start background jobs with SIGINT ignored, nohup ignores SIGHUP."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def environment(env_folder: Path, home: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables for a program of ``env_folder`` that stores into ``home``, free of the tester's own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
    }
    path = f"{env_folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    ours = {"OTEL_PERF_HOME": str(home), "OTEL_PERF_STORE_PROBE": "off", "PYTHONUNBUFFERED": "1"}
    ours["PYTHONFAULTHANDLER"] = "1"  # for a test that fails
    return kept | {"PATH": path} | ours | dict(variables or {})


def plain(
    env_folder: Path, home: Path, *command: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> Running:
    """``command`` of ``env_folder`` without any instrumentation, to be entered with ``with``."""
    folder = cwd or home.parent
    program = str(env_folder / "bin" / command[0])
    log = home.parent / f"{command[0]}-{time.monotonic_ns()}.log"
    return Running([program, *command[1:]], environment(env_folder, home, variables), folder, log)


def instrumented(
    env_folder: Path, home: Path, *command: str, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> Running:
    """``command`` of ``env_folder`` under ``opentelemetry-instrument``, to be entered with ``with``.

    It runs in ``cwd``, by default the folder that holds ``home``; its output goes to a file there.
    """
    program = str(env_folder / "bin" / command[0])
    return plain(env_folder, home, "opentelemetry-instrument", program, *command[1:], cwd=cwd, variables=variables)
