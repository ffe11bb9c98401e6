"""What the end-to-end tests share: processes that are started and stopped by pid, and the store read flat.

Nothing here sleeps for luck: whatever has to happen is waited for with :func:`wait_for` and a deadline.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from otel_perf.store.database import FILE, StoreReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

T = TypeVar("T")

POLL: Final = 0.02  # seconds between two looks at a condition
PATIENCE: Final = 20.0  # seconds that anything may take before a test fails
# Variables of whoever runs the tests that would change what the programs under test do.
_FOREIGN: Final = ("OTEL_", "CELERY_", "DJANGO_", "FLASK_", "GUNICORN_", "WERKZEUG_")
_FOREIGN_NAMES: Final = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "APP", "BROKER_URL", "WEB_CONCURRENCY"}


# --- the store ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """One stored span, with the attributes of its resource. Ids are in hexadecimal, times in nanoseconds."""

    name: str
    kind: str  # INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER or UNSPECIFIED
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    status: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    scope: str
    resource: dict[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        """What identifies a span everywhere."""
        return self.trace_id, self.span_id

    @property
    def process(self) -> str:
        """The process that made it, as its resource says."""
        return str(self.resource.get("service.instance.id", ""))


@dataclass(frozen=True, slots=True)
class Log:
    """One stored log record."""

    body: Any
    severity: str
    event_name: str
    trace_id: str
    span_id: str
    time: int
    attributes: dict[str, Any]
    scope: str
    resource: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """One stored data point of a metric; ``value`` is the sum of a histogram, whose ``count`` is set."""

    name: str
    unit: str
    kind: str  # gauge, sum, histogram or exponential_histogram
    value: float
    count: int
    time: int
    attributes: dict[str, Any]
    scope: str
    resource: dict[str, Any]


def spans(home: Path) -> list[Span]:
    """Every span in the store, oldest batch first; none if there is no store yet."""
    found = []
    for body in _bodies(home, "traces"):
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = _attributes(group.resource.attributes)
            found.extend(
                Span(
                    name=span.name,
                    kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    status=span.status.code,
                    attributes=_attributes(span.attributes),
                    events=[(event.name, _attributes(event.attributes)) for event in span.events],
                    scope=scope.scope.name,
                    resource=resource,
                )
                for scope in group.scope_spans
                for span in scope.spans
            )
    return found


def logs(home: Path) -> list[Log]:
    """Every log record in the store, oldest batch first; none if there is no store yet."""
    found = []
    for body in _bodies(home, "logs"):
        for group in ExportLogsServiceRequest.FromString(body).resource_logs:
            resource = _attributes(group.resource.attributes)
            found.extend(
                Log(
                    body=_value(record.body),
                    severity=record.severity_text,
                    event_name=record.event_name,
                    trace_id=record.trace_id.hex(),
                    span_id=record.span_id.hex(),
                    time=record.time_unix_nano or record.observed_time_unix_nano,
                    attributes=_attributes(record.attributes),
                    scope=scope.scope.name,
                    resource=resource,
                )
                for scope in group.scope_logs
                for record in scope.log_records
            )
    return found


def metrics(home: Path) -> list[Point]:
    """Every data point in the store, oldest batch first; none if there is no store yet."""
    found = []
    for body in _bodies(home, "metrics"):
        for group in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            resource = _attributes(group.resource.attributes)
            for scope in group.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    if kind is None:
                        continue
                    for point in getattr(metric, kind).data_points:
                        plain = hasattr(point, "as_double")
                        found.append(
                            Point(
                                name=metric.name,
                                unit=metric.unit,
                                kind=kind,
                                value=getattr(point, point.WhichOneof("value") or "as_int") if plain else point.sum,
                                count=1 if plain else point.count,
                                time=point.time_unix_nano,
                                attributes=_attributes(point.attributes),
                                scope=scope.scope.name,
                                resource=resource,
                            )
                        )
    return found


def _bodies(home: Path, signal_name: str) -> Iterator[bytes]:
    if not (home / FILE).exists():
        return
    reader = StoreReader(home)
    try:
        for batch in reader.batches([signal_name]):
            yield batch.body
    finally:
        reader.close()


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    return getattr(value, kind)


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


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
                preexec_fn=_default_signals,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None:
            return
        try:
            if self.poll() is None:
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


def _default_signals() -> None:
    # Shells start background jobs with SIGINT ignored, and a child would inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def environment(env_folder: Path, home: Path, variables: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables for a program of ``env_folder`` that stores into ``home``, free of the tester's own."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
    }
    path = f"{env_folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return kept | {"PATH": path, "OTEL_PERF_HOME": str(home), "PYTHONUNBUFFERED": "1"} | dict(variables or {})


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
