"""The Collector of docker-compose.yml: collector/config.yaml as it is, with other endpoints and shorter waits."""

from __future__ import annotations

import os
import re
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import yaml

from tests.e2e.collector import ROOT, Collector, Network, binary, container
from tests.e2e.support import Running, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG: Final = ROOT / "collector" / "config.yaml"
# Docker's API calls them as Compose does.
CONFINED: Final = ("user", "read_only", "cap_drop", "security_opt", "pids_limit", "mem_limit")


class Bundle(Collector):
    """It sends all that it keeps to ``behind``, which stands for Tempo, Prometheus and Loki."""

    def __init__(self, folder: Path, behind: Collector, config: Path = CONFIG, **variables: str) -> None:
        folder.mkdir(exist_ok=True)
        super().__init__(folder, **variables)
        self.behind, self.config, self.metrics = behind, config, free_port()

    def environ(self) -> dict[str, str]:
        """The variables that the configuration reads."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("OTELCOL_")},
            "OTELCOL_HTTP": f"127.0.0.1:{self.http}",
            "OTELCOL_GRPC": f"127.0.0.1:{self.grpc}",
            "OTELCOL_HEALTH": f"127.0.0.1:{self.health}",
            "OTELCOL_METRICS_HOST": "127.0.0.1",
            "OTELCOL_METRICS_PORT": str(self.metrics),
            "OTELCOL_STORAGE": str(self.folder / "storage"),
            "OTELCOL_TEMPO": f"127.0.0.1:{self.behind.grpc}",
            "OTELCOL_PROMETHEUS": self.behind.url(),
            "OTELCOL_LOKI": self.behind.url(),
            **self.settings,
        }

    @contextmanager
    def running(self) -> Iterator[Any]:
        """The process, ready to receive."""
        command = [str(binary()), "--config", str(self.config)]
        with Running(command, self.environ(), self.folder, self.folder / "bundle.log") as process:
            process.wait_until_listening(self.health)
            wait_for(self.is_healthy, what="the Collector is healthy")
            yield process

    def own(self, name: str) -> dict[str, float]:
        """Values of a metric of its own, by labels, as Prometheus scrapes them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = re.findall(rf"^{name}(?:_total)?({{[^\n]*}})? (\S+)$", text, re.MULTILINE)
        return {labels: float(value) for labels, value in found}

    def queued(self) -> dict[str, float]:
        """Bytes in its queues, by signal."""
        found = self.own("otelcol_exporter_queue_size")
        return {re.search(r'data_type="(\w+)"', labels)[1]: size for labels, size in found.items()}  # type: ignore[index]

    def judged(self) -> float:
        """How many traces have been judged, kept or not."""
        return sum(self.own("otelcol_processor_tail_sampling_global_count_traces_sampled").values())

    def handed_on(self) -> float:
        """How many spans that were judged are in the queue, or have been."""
        return sum(self.own("otelcol_processor_batch_batch_send_size_sum").values())

    def own_waits(self) -> bool:
        """Whether there is a trace that has not been judged."""
        return any(self.own("otelcol_processor_tail_sampling_sampling_traces_on_memory").values())


class ContainerBundle(Bundle):
    """The same in a container, one of a ``network``, where it goes by ``name``; confined as docker-compose.yml says.

    Who it sends to goes by ``behind`` there. All else has the configuration's own defaults.
    """

    def __init__(self, folder: Path, name: str, network: Network, config: Path, **variables: str) -> None:
        super().__init__(folder, self, config, **variables)
        self.name, self.network = name, network

    @contextmanager
    def running(self) -> Iterator[Any]:
        """The container, ready to receive. Without an engine the test is skipped, in CI it fails."""
        storage = self.folder / "storage"
        storage.mkdir(exist_ok=True)
        storage.chmod(0o777)  # the container's user is none of this machine's
        addresses = {
            "OTELCOL_TEMPO": "behind:4317", "OTELCOL_PROMETHEUS": "http://behind:4318", "OTELCOL_LOKI": "http://behind:4318",
        }  # fmt: skip
        mounts = {
            str(self.config): {"bind": "/etc/otelcol/config.yaml", "mode": "ro"},
            str(storage): {"bind": "/var/lib/otelcol", "mode": "rw"},
        }
        service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["collector"]
        # As compose does where nothing is set.
        defaults = {name: re.sub(r"\$\{\w+:-(.*?)\}", r"\1", value) for name, value in service["environment"].items()}
        confined = {name: service[name] for name in CONFINED}
        with container(
            {4317: self.grpc, 4318: self.http, 8888: self.metrics, 13133: self.health},
            command=service["command"], environment={**defaults, **addresses, **self.settings},
            volumes=mounts, **confined, **self.network.joined(self.name),
        ) as running:  # fmt: skip
            wait_for(self.is_healthy, what="the Collector is healthy")
            yield running
