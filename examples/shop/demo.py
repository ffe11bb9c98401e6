"""``make demo``: the shop under ``opentelemetry-instrument``, a load on it, then ``otel-perf report``.

Two services, ``shop`` and ``payment``, write into one embedded store; no Collector and no backend are needed.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from examples.shop.payment import Provider

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent
INSTRUMENT: Final = str(BIN / "opentelemetry-instrument")
REPORT: Final = str(BIN / "otel-perf")
SLOW: Final = "n_plus_one,serial_io,cpu"
READY: Final = 30.0  # seconds until the shop has to answer
STOP: Final = 20.0  # seconds until it has to be gone


class DemoError(Exception):
    """The demo cannot go on."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_until_ready(url: str, shop: subprocess.Popen[bytes]) -> None:
    """Return when the shop answers. Raises ``DemoError`` when it ends, or after 30 s."""
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline:
        if shop.poll() is not None:
            raise DemoError(f"the shop ended with status {shop.returncode}")
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise DemoError(f"the shop did not answer at {url}/health within {READY:g} s")


def run(given: argparse.Namespace, home: Path, environ: Mapping[str, str]) -> None:
    """Start both services, put the load on the shop, stop both."""
    url, log = f"http://127.0.0.1:{environ['SHOP_PORT']}", home / "shop.log"
    provider = shop = None
    try:
        provider = Provider({**environ, "OTEL_SERVICE_NAME": "payment"}, (INSTRUMENT, sys.executable))
        with log.open("wb") as output:
            shop = subprocess.Popen(
                [INSTRUMENT, sys.executable, "-m", "examples.shop"], stdout=output, stderr=subprocess.STDOUT,
                env={**environ, "OTEL_SERVICE_NAME": "shop", "SHOP_PAYMENT_URL": provider.url}, cwd=ROOT,
            )  # fmt: skip
        say(f"shop at {url} (pid {shop.pid}), slow by: {given.slow or 'nothing'}; log in {log}")
        wait_until_ready(url, shop)
        one_by_one = f"{given.requests:,} requests, one after the other"
        say(f"load: {one_by_one if given.requests else f'{given.rate:g} requests/s for {given.seconds:g} s'}")
        load = [sys.executable, "-m", "examples.shop.load", f"--url={url}", f"--rate={given.rate}"]
        load += [f"--seconds={given.seconds}", f"--seed={given.seed}", f"--errors={given.errors}"]
        load.append(f"--requests={given.requests}")
        if subprocess.run(load, check=False, cwd=ROOT, env=environ).returncode:
            raise DemoError("not every request was answered")
        shop.send_signal(signal.SIGTERM)
        status = shop.wait(STOP)
        # uvicorn shuts down, then raises the signal again, as a process that ends by a signal should.
        if status not in {0, -signal.SIGTERM}:
            raise DemoError(f"the shop ended with status {status} after SIGTERM")
        say("shop stopped")
    except (DemoError, subprocess.TimeoutExpired) as error:
        tail = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-20:]) if log.exists() else ""
        raise DemoError(f"{error}\n{tail}") from error
    finally:
        if shop is not None and shop.poll() is None:
            shop.kill()
            shop.wait()
        if provider is not None:
            provider.stop()


def say(text: str) -> None:
    """One line, before what the child processes print next."""
    print(f"demo: {text}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run it; the report's exit status."""
    parser = argparse.ArgumentParser(prog="examples.shop.demo", description="The shop, a load, the report.")
    parser.add_argument("--home", type=Path, help="where the telemetry is kept (default: a new temporary folder)")
    parser.add_argument("--slow", default=SLOW, help=f"SHOP_SLOW of the shop (default {SLOW})")
    parser.add_argument("--rate", type=float, default=40.0, help="requests a second (default 40)")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long (default 15)")
    parser.add_argument("--requests", type=int, default=0, help="so many, one after the other, and no --rate")
    parser.add_argument("--errors", type=float, default=0.01, help="share of requests that meet a bug (default 0.01)")
    parser.add_argument("--seed", type=int, default=7, help="of the load (default 7)")
    given = parser.parse_args(arguments)
    home = (given.home or Path(tempfile.mkdtemp(prefix="otel-perf-demo-")) / ".otel-perf").absolute()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    environ = {
        **os.environ,
        "OTEL_METRIC_EXPORT_INTERVAL": "2000",  # the default is a minute, which a short demo does not last
        "OTEL_PERF_HOME": str(home),
        "SHOP_DATA": os.environ.get("SHOP_DATA") or tempfile.mkdtemp(prefix="shop-", dir=home),
        "SHOP_PORT": str(free_port()),
        "SHOP_SLOW": given.slow,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", "")))),
    }
    try:
        run(given, home, environ)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    say(f"otel-perf report --home {home}\n")
    return subprocess.run([REPORT, "report", "--home", str(home)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
