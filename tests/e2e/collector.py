"""The real Collector, as a process or in a container, and what it received."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import tempfile
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from tests.built import built, missing
from tests.e2e.support import Running, free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parents[2]
CONFIG: Final = Path(__file__).with_name("collector.yaml")
_TLS: Final = Path(__file__).with_name("tls.yaml")
_GROUPS: Final = {
    "traces": ("resourceSpans", "scopeSpans", "spans"),
    "logs": ("resourceLogs", "scopeLogs", "logRecords"),
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
}


def items(lines: str, signal: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Resource and item of every span, log record or metric in lines of OTLP JSON.

    What a kill cut short is left out; what was appended to that line later is not.
    """
    of_resource, of_scope, of_items = _GROUPS[signal]
    found = []
    for part in re.split(r'\n|(?<=.)(?=\{"resource(?:Spans|Logs|Metrics)":)', lines):
        try:
            document = json.loads(part)
        except ValueError:
            continue
        for resource in document.get(of_resource, ()):
            for scope in resource[of_scope]:
                found += [(resource["resource"], item) for item in scope[of_items]]
    return found


def binary() -> Path:
    """The built Collector. Without Go the test is skipped, in CI it fails."""
    return built("collector")


class Certificates:
    """An authority, the Collector's certificate and a client's, as files."""

    def __init__(self, folder: Path) -> None:
        import trustme

        folder.mkdir()
        authority = trustme.CA()
        server, client = authority.issue_cert("localhost", "127.0.0.1"), authority.issue_cert("client@example.org")
        self.authority, self.certificate, self.key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
        self.client_certificate, self.client_key = folder / "client.pem", folder / "client.key"
        authority.cert_pem.write_to_path(self.authority)
        server.cert_chain_pems[0].write_to_path(self.certificate)
        server.private_key_pem.write_to_path(self.key)
        client.cert_chain_pems[0].write_to_path(self.client_certificate)
        client.private_key_pem.write_to_path(self.client_key)

    def variables(self) -> dict[str, str]:
        """What an exporter needs to trust the Collector and to be trusted."""
        return {
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(self.authority),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(self.client_certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(self.client_key),
        }


class Collector:
    """A Collector's addresses, which stay the same when it is killed and started again, and its other variables."""

    def __init__(self, folder: Path, certificates: Certificates | None = None, **variables: str) -> None:
        self.folder = folder
        self.settings = variables
        self.file = folder / "received.json"
        self.certificates = certificates
        self.http, self.grpc, self.health = free_port(), free_port(), free_port()

    @contextmanager
    def running(self) -> Iterator[Any]:
        """The process, ready to receive."""
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OTELCOL_")},
            **self.settings,
            "OTELCOL_FILE": str(self.file),
            "OTELCOL_HTTP": f"127.0.0.1:{self.http}",
            "OTELCOL_GRPC": f"127.0.0.1:{self.grpc}",
            "OTELCOL_HEALTH": f"127.0.0.1:{self.health}",
        }
        command = [str(binary()), "--config", str(CONFIG)]
        if self.certificates is not None:
            command += ["--config", str(_TLS)]
            environ |= {
                "OTELCOL_CERTIFICATE": str(self.certificates.certificate),
                "OTELCOL_KEY": str(self.certificates.key),
                "OTELCOL_CLIENT_CA": str(self.certificates.authority),
            }
        with Running(command, environ, self.folder, self.folder / "collector.log") as process:
            process.wait_until_listening(self.health)
            wait_for(self.is_healthy, what="the Collector is healthy")
            yield process

    def is_healthy(self) -> bool:
        """Whether its health check answers 200."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def url(self, protocol: str = "http/protobuf") -> str:
        """The endpoint for ``protocol``."""
        scheme = "http" if self.certificates is None else "https"
        return f"{scheme}://127.0.0.1:{self.grpc if protocol == 'grpc' else self.http}"

    def variables(self, protocol: str = "http/protobuf") -> dict[str, str]:
        """What makes a program send to it."""
        found = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url(protocol), "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        return found | (self.certificates.variables() if self.certificates is not None else {})

    def received(self, signal: str) -> list[dict[str, Any]]:
        """The spans, log records or metrics that its file exporter has written."""
        if not self.file.exists():
            return []
        return [item for _, item in items(self.file.read_text(), signal)]

    def spans(self) -> list[tuple[str, str]]:
        """Trace and span id of every span received."""
        return [(span["traceId"], span["spanId"]) for span in self.received("traces")]

    def wait_for_spans(self, count: int, timeout: float = 30.0) -> set[tuple[str, str]]:
        """The distinct ids, once there are ``count``."""
        wait_for(lambda: len(set(self.spans())) >= count, timeout, f"{count} spans arrive")
        return set(self.spans())


class ContainerCollector(Collector):
    """The same from collector/Dockerfile: ``FROM scratch``, an unprivileged user, a read-only root."""

    network: Network | None = None

    @contextmanager
    def running(self) -> Iterator[Any]:
        """The container, ready to receive. Without an engine the test is skipped, in CI it fails."""
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        data.chmod(0o777)  # the container's user is none of this machine's
        self.file = data / self.file.name
        environ = {
            "OTELCOL_FILE": f"/data/{self.file.name}",
            "OTELCOL_HTTP": "0.0.0.0:4318",
            "OTELCOL_GRPC": "0.0.0.0:4317",
            "OTELCOL_HEALTH": "0.0.0.0:13133",
        }
        command, mounts = ["--config", "/etc/otelcol/config.yaml"], {str(data): {"bind": "/data", "mode": "rw"}}
        if self.certificates is not None:
            certificates = data / "tls"
            shutil.copytree(self.certificates.certificate.parent, certificates, dirs_exist_ok=True)
            shutil.copy(_TLS, certificates)
            for file in certificates.iterdir():
                file.chmod(0o644)
            command += ["--config", f"/data/tls/{_TLS.name}"]
            environ |= {
                "OTELCOL_CERTIFICATE": f"/data/tls/{self.certificates.certificate.name}",
                "OTELCOL_KEY": f"/data/tls/{self.certificates.key.name}",
                "OTELCOL_CLIENT_CA": f"/data/tls/{self.certificates.authority.name}",
            }
        ports = {4318: self.http, 4317: self.grpc, 13133: self.health}
        more = {} if self.network is None else self.network.joined("behind")
        with container(ports, command=command, environment=environ, volumes=mounts, read_only=True, **more) as running:
            wait_for(self.is_healthy, what="the Collector is healthy")
            yield running


class Network:
    """A network of containers that find each other by name; to be entered with ``with``."""

    def __enter__(self) -> Self:
        self._client = engine()
        self._network = self._client.networks.create(f"otel-perf-{secrets.token_hex(4)}")
        return self

    def __exit__(self, *_: object) -> None:
        self._network.remove()
        self._client.close()

    def joined(self, name: str) -> dict[str, Any]:
        """What makes a container one of it, by that name."""
        endpoint = self._client.api.create_endpoint_config(aliases=[name])
        return {"network": self._network.name, "networking_config": {self._network.name: endpoint}}


@contextmanager
def container(ports: dict[int, int], **options: Any) -> Iterator[Any]:
    """A container of collector/Dockerfile, whose ``ports`` are those of 127.0.0.1; removed at the end."""
    client = engine()
    published = {f"{inside}/tcp": ("127.0.0.1", outside) for inside, outside in ports.items()}
    running = client.containers.run(_image(client), detach=True, ports=published, **options)
    try:
        yield running
    except BaseException as error:
        with contextlib.suppress(Exception):
            error.add_note(running.logs().decode(errors="replace")[-4000:])
        raise
    finally:
        running.remove(force=True)
        client.close()


def engine() -> Any:
    """A client of the container engine. Without one the test is skipped, in CI it fails."""
    import docker

    client = None
    try:
        client = docker.from_env(timeout=120)
        client.ping()
    except docker.errors.DockerException as error:
        if client is not None:
            client.close()
        missing(f"no container engine answers (python tools/engine.py make test starts one): {error}")
    return client


def _image(client: Any) -> str:
    """The image of collector/Dockerfile, built as a user would, with the binary beside it."""
    made = binary()
    tag = f"otel-perf/{made.name}"
    with tempfile.TemporaryDirectory(prefix="otelcol-image-") as context:
        dockerfile = ROOT / "collector" / "Dockerfile"
        for source, name in ((made, "otelcol"), (CONFIG, "config.yaml"), (dockerfile, dockerfile.name)):
            shutil.copy(source, Path(context) / name)
        client.images.build(path=context, tag=tag, rm=True)
    return tag
