"""docker-compose.yml in a real engine, with images that can be built here in place of those that cannot be had.

The Collector is the one that is built from modules, FROM scratch as contrib's is; what asks for health and what stands for
the shop is a static busybox. All else is the file's: users, mounts, read-only roots, health checks, who waits for whom.
"""

import io
import os
import secrets
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import yaml

from tests.built import missing
from tests.e2e import otlp_json as otlp
from tests.e2e.collector import ROOT, binary, engine
from tests.e2e.support import free_port, wait_for
from tools import environments

pytestmark = pytest.mark.soak
COLLECTOR = 'FROM scratch\nCOPY otelcol /otelcol\nUSER 10001:10001\nENTRYPOINT ["/otelcol"]\n'
LINKS = "".join(f"COPY busybox /bin/{name}\n" for name in ("busybox", "sh", "cp", "chown", "sleep"))
BUSYBOX = f"FROM scratch\n{LINKS}COPY busybox /www/index.html\nENV PATH=/bin\n"
PAGE = ["busybox", "wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8000/"]


class Composed:
    """A project of docker-compose.yml, with other images."""

    def __init__(self, folder, client):
        self.client, self.name, self.http = client, f"otel-perf-{secrets.token_hex(4)}", free_port()
        made = binary()
        small = f"otel-perf/busybox:{self.name}"
        image(client, f"otel-perf/{made.name}", COLLECTOR, otelcol=made)
        image(client, small, BUSYBOX, busybox=busybox())
        page = {"image": small, "command": ["busybox", "httpd", "-f", "-p", "127.0.0.1:8000", "-h", "/www"]}
        idle = {"image": small, "command": ["sleep", "3600"], "init": True}
        services = {
            "prepare": {"image": small},
            "machine": {"image": small},
            "collector": {"image": f"otel-perf/{made.name}"},
            "shop": {**page, "init": True, "healthcheck": {"test": ["CMD", *PAGE], "interval": "1s"}},
            "payment": {**idle, "healthcheck": {"test": ["CMD", "busybox", "true"], "interval": "1s"}},
            "load": idle,
        }
        self.changes = folder / "changes.yaml"
        self.changes.write_text(yaml.safe_dump({"services": services}))

    def run(self, *arguments):
        """What Compose said."""
        files = ["-f", ROOT / "docker-compose.yml", "-f", self.changes]
        program = environments.ensure("deployment") / "bin" / "docker-compose"
        command = [program, "-p", self.name, *files, "--profile", "demo", *arguments]
        environ = os.environ | {"OTLP_HTTP_PORT": str(self.http), "OTLP_GRPC_PORT": str(free_port())}
        done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def container(self, service):
        return self.client.containers.get(f"{self.name}-{service}-1")

    def queued(self):
        """Bytes that wait for Tempo, as the Collector says itself."""
        asked = ["/tools/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8888/metrics"]
        text = self.container("collector").exec_run(asked).output.decode()
        sizes = [line for line in text.splitlines() if line.startswith("otelcol_exporter_queue_size{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in sizes if "otlp_grpc/tempo" in line)


def busybox():
    """A static one, which runs in an image without anything else."""
    found = shutil.which("busybox")
    if found is None:
        missing("no busybox is installed (Debian's busybox-static)")
    return Path(found)


def image(client, tag, dockerfile, **files):
    """Build an image of these files."""
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, data in {"Dockerfile": dockerfile.encode(), **{n: f.read_bytes() for n, f in files.items()}}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    context.seek(0)
    client.images.build(fileobj=context, custom_context=True, tag=tag, rm=True)


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """The Collector and the demo, all of them healthy."""
    client = engine()
    composed = Composed(tmp_path_factory.mktemp("compose"), client)
    up = ("up", "-d", "--no-build", "--pull", "never", "--wait", "collector", "shop", "payment", "load")
    try:
        composed.run(*up)
        yield composed
    finally:
        composed.run("down", "-v", "--timeout", "1")
        client.close()


def test_the_collector_is_healthy_and_can_do_little(composed):
    """GIVEN an image from scratch, a user that is not root, a volume that was root's THEN it runs and can be asked."""
    attributes = composed.container("collector").attrs
    assert attributes["State"]["Health"]["Status"] == "healthy"
    assert attributes["HostConfig"]["ReadonlyRootfs"] is True
    assert attributes["Config"]["User"] == "10001:10001"


def test_what_it_held_is_in_its_volume_when_it_was_stopped(composed):
    """GIVEN traces that were not judged and no Tempo WHEN it is stopped THEN it ends by itself, and has them afterwards."""
    url = f"http://127.0.0.1:{composed.http}"
    otlp.send(url, "traces", [otlp.span("held", status=otlp.ERROR) for _ in range(500)])
    assert composed.queued() == 0
    composed.run("stop", "collector")
    assert composed.container("collector").attrs["State"]["ExitCode"] == 0
    composed.run("up", "-d", "--no-build", "--pull", "never", "--wait", "collector")
    wait_for(lambda: composed.queued() > 10_000, what="the traces are in the queue")


def test_the_demo_finds_the_shop_after_it_has_started_again(composed):
    """GIVEN all of it on one loopback interface WHEN the shop restarts THEN the load still reaches it."""
    load = composed.container("load")
    assert load.exec_run(PAGE).exit_code == 0
    composed.run("restart", "--timeout", "1", "shop")
    wait_for(lambda: load.exec_run(PAGE).exit_code == 0, what="the shop answers")
