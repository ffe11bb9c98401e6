"""The real Prometheus with the bundle's configuration, and what it answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.built import built
from tests.e2e.promql import loosened
from tests.e2e.support import Running, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIG: Final = ROOT / "collector" / "prometheus"
# What docker-compose.yml starts it with, besides paths and addresses.
FLAGS: Final = ("--web.enable-otlp-receiver", "--enable-feature=exemplar-storage,otlp-deltatocumulative")
SCRAPED: Final = "collector:8888"


class QueryError(Exception):
    """Prometheus does not take a query; what it said."""


def programs() -> Path:
    """The folder with ``prometheus`` and ``promtool``. Without Go the test is skipped, in CI it fails."""
    return built("prometheus")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it."""
    command = [programs() / "promtool", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)


class Prometheus:
    """A Prometheus on the loopback interface, whose data are in ``folder``."""

    def __init__(self, folder: Path, collector_metrics: int) -> None:
        self.folder = folder
        self.scraped = collector_metrics  # the port of the Collector's own telemetry
        self.at: float | None = None  # the time that is asked for; now, if nobody says when
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self) -> Iterator[Running]:
        """The process, ready to receive."""
        config = self.folder / "prometheus"
        shutil.copytree(CONFIG, config)
        file = config / "prometheus.yml"
        text = file.read_text()
        assert text.count(SCRAPED) == 1
        file.write_text(text.replace(SCRAPED, f"127.0.0.1:{self.scraped}"))
        command = [str(programs() / "prometheus"), f"--config.file={file}", *FLAGS]
        command += [f"--storage.tsdb.path={self.folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{self.port}"]
        with Running(command, os.environ, self.folder, self.folder / "prometheus.log") as process:
            process.wait_until_listening(self.port)
            wait_for(self.is_ready, what="Prometheus is ready")
            yield process

    def is_ready(self) -> bool:
        """Whether it takes data."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an expression now; each has ``metric`` and ``value`` or ``histogram``."""
        data = self.get("query", query=expression, time=self.now())
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        found: list[dict[str, Any]] = data["result"]
        return found

    def course(self, expression: str, seconds: float = 300) -> list[dict[str, Any]]:
        """The series of an expression over the last ``seconds``, each 15 s; each has ``values`` or ``histograms``."""
        now = self.now()
        found = self.get("query_range", query=expression, start=now - seconds, end=now, step=15)["result"]
        return list(found)

    def now(self) -> float:
        """The time that is asked for."""
        return time.time() if self.at is None else self.at

    def get(self, path: str, **parameters: Any) -> Any:
        """The data of an answer of its API. Raises ``QueryError``."""
        body = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{body}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise QueryError(f"{path} {parameters}: {error.read().decode(errors='replace')[:500]}") from error

    def loosened(self, expression: str) -> list[str]:
        """What has to return something, if ``expression`` is to be able to."""
        return loosened(self.get("parse_query", query=expression))
