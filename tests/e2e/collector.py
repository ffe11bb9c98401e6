"""The real Collector as a process, and what it received."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.e2e.support import Running, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
_GROUPS: Final = {
    "traces": ("resourceSpans", "scopeSpans", "spans"),
    "logs": ("resourceLogs", "scopeLogs", "logRecords"),
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
}


def binary() -> Path:
    """The built Collector. Without Go the test is skipped, in CI it fails."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import collector
    finally:
        sys.path.pop(0)
    try:
        return collector.ensure()
    except RuntimeError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


class Collector:
    """A Collector's addresses, which stay the same when it is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "received.json"
        self.http, self.grpc, self.health = free_port(), free_port(), free_port()

    @contextmanager
    def running(self, config: Path = ROOT / "collector" / "config.yaml") -> Iterator[Running]:
        """The process, ready to receive."""
        environ = {
            **os.environ,
            "OTELCOL_FILE": str(self.file),
            "OTELCOL_HTTP": f"127.0.0.1:{self.http}",
            "OTELCOL_GRPC": f"127.0.0.1:{self.grpc}",
            "OTELCOL_HEALTH": f"127.0.0.1:{self.health}",
        }
        command = [str(binary()), "--config", str(config)]
        with Running(command, environ, self.folder, self.folder / "collector.log") as process:
            for port in (self.http, self.grpc):
                process.wait_until_listening(port)
            yield process

    def url(self, protocol: str = "http/protobuf") -> str:
        """The endpoint for ``protocol``."""
        return f"http://127.0.0.1:{self.grpc if protocol == 'grpc' else self.http}"

    def received(self, signal: str) -> list[dict[str, Any]]:
        """The spans, log records or metrics that its file exporter has written; a line cut short is left out."""
        if not self.file.exists():
            return []
        of_resource, of_scope, items = _GROUPS[signal]
        found = []
        for line in self.file.read_text().splitlines():
            try:
                document = json.loads(line)
            except ValueError:
                continue
            for resource in document.get(of_resource, ()):
                for scope in resource[of_scope]:
                    found += scope[items]
        return found

    def spans(self) -> list[tuple[str, str]]:
        """Trace and span id of every span received."""
        return [(span["traceId"], span["spanId"]) for span in self.received("traces")]

    def wait_for_spans(self, count: int, timeout: float = 30.0) -> set[tuple[str, str]]:
        """The distinct ids, once there are ``count``."""
        wait_for(lambda: len(set(self.spans())) >= count, timeout, f"{count} spans arrive")
        return set(self.spans())
