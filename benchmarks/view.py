"""The page of ``otel-perf view`` with a store of 1 M spans, 1 M log records and a day of metrics, in a real browser.

What is shown is the time from a click (or a key, or the address) until the answer is on the screen, in Chromium on this
machine, and the memory of the server and of the process that builds the index. ``--spans`` makes it smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
FILL: Final = ROOT / "benchmarks" / "programs" / "view_store.py"
FIRST: Final = 1.0  # s, the most that the first paint may take
CLICK: Final = 0.3  # s
MEMORY: Final = 300_000_000  # bytes of the server
HOURS: Final = 24

if TYPE_CHECKING:
    from collections.abc import Callable

PLACES: Final = {
    "lines with words": "#/logs?q=customer%2077",
    "lines of errors": "#/logs?severity=17",
    "lines of a logger": "#/logs?logger=app.module_3",
    "traces by a span's name": "#/traces?q=table_3",
    "traces that failed": "#/traces?failed=1",
    "traces, the costliest first": "#/traces?sort=costliest",
    "traces of a service": "#/traces?service=mail",
}


def resident(pid: int) -> int:
    """Bytes in memory, the most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def ask(url: str, question: str) -> Any:
    """One answer of the server."""
    with urllib.request.urlopen(f"{url}api/{question}", timeout=60) as answer:
        return json.load(answer)


def index(url: str, items: int) -> float:
    """Seconds until all is in the index."""
    began = time.monotonic()
    while True:
        time.sleep(0.5)
        try:
            found = sum(ask(url, "state")["items"].values())
        except OSError:
            continue
        if found >= items:
            return time.monotonic() - began


class Tab:
    """A tab of the browser, and how long what was done in it took."""

    def __init__(self, tab: Any, took: dict[str, list[float]]) -> None:
        self._tab = tab
        self._took = took

    def timed(self, name: str, act: Callable[[Any], object], until: str = "") -> None:
        """Do something, until its answer is on the screen: a new one, or what the condition says."""
        before = self._tab.evaluate("document.getElementById('main')?.dataset.shown || ''")
        began = time.perf_counter()
        act(self._tab)
        condition = until or f"document.getElementById('main').dataset.shown !== {json.dumps(before)}"
        # Not Playwright's own way to wait: it compiles the condition in the page, which the page's policy forbids.
        self._tab.evaluate(
            "new Promise((done) => { const look = () => requestAnimationFrame("
            f"({condition}) ? done : look); look(); }})"
        )
        self._took.setdefault(name, []).append(time.perf_counter() - began)

    def go(self, name: str, where: str) -> None:
        """Go to an address of the page."""
        self.timed(name, lambda tab: tab.evaluate("where => { location.hash = where }", where))

    def screens(self) -> None:
        """Every screen, by its key, and for another time."""
        for key, name in enumerate(("findings", "traces", "functions", "runtime", "logs", "signals", "health"), 1):
            self.timed(f"screen {name}", lambda tab, key=key: tab.keyboard.press(str(key)))
            if name not in {"signals", "health"}:
                self.timed(f"screen {name}, last hour", lambda tab: tab.select_option("#range", "1h"))
                self.timed(f"screen {name}, all time", lambda tab: tab.select_option("#range", ""))

    def all(self, url: str) -> None:
        """Everything once."""
        self.timed(
            "first screen, shown whole", lambda tab: tab.goto(url), "document.getElementById('main').dataset.shown"
        )
        paint = self._tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
        self._took.setdefault("first paint", []).append(paint / 1000)
        self._tab.keyboard.press("l")
        self._tab.wait_for_timeout(300)
        self.timed("a finding: its trace", lambda tab: tab.locator(".card .evidence a").first.click())
        self.screens()
        for name, where in PLACES.items():
            self.go(name, where)
        self.timed(
            "search (150 ms of it until somebody has typed)", lambda tab: tab.fill("#search", "packed"),
            "document.querySelector('#found a') !== null",
        )  # fmt: skip


def clicks(url: str, rounds: int) -> dict[str, list[float]]:
    """Seconds until each click's answer is on the screen."""
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT / "tools"))
    import browser

    took: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.ensure(), args=["--no-sandbox"])
        for _ in range(rounds):
            context = chromium.new_context(viewport={"width": 1280, "height": 900})
            Tab(context.new_page(), took).all(url)
            context.close()
        chromium.close()
    return took


def main() -> int:
    """Fill, index, measure; 1 if a bound is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spans", type=int, default=1_000_000, help="and as many log records (default 1,000,000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--home", type=Path, help="a store that was filled before, with --spans of each")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    home = given.home or Path(tempfile.mkdtemp(prefix="otel-perf-view-")) / "home"
    if given.home is None:
        subprocess.run(
            [sys.executable, str(FILL), str(home), str(given.spans), str(given.spans), str(HOURS)], check=True
        )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    server = subprocess.Popen(
        [sys.executable, "-m", "otel_perf", "view", str(home), "--port", "0", "--json"],
        stdout=subprocess.PIPE, text=True, env=environ, cwd=ROOT,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        indexed = index(url, given.spans * 2)
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        took = clicks(url, given.rounds)
        memory = {"server": resident(server.pid), "indexer": max(map(resident, map(int, children)), default=0)}
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
    rows = {name: statistics.median(values) for name, values in took.items()}
    size = {"store": (home / "telemetry.db").stat().st_size, "index": (home / "index.db").stat().st_size}
    late = {name: value for name, value in rows.items() if value > (FIRST if name.startswith("first") else CLICK)}
    if given.json:
        print(json.dumps({"seconds": rows, "memory": memory, "size": size, "indexed": indexed, "late": late}, indent=2))
    else:
        print(f"{given.spans:,} spans, {given.spans:,} log records, {HOURS} h of metrics")
        print(f"index: {indexed:.0f} s, {size['index'] / 1e6:.0f} MB beside a store of {size['store'] / 1e6:.0f} MB")
        print(f"memory at most: server {memory['server'] / 1e6:.0f} MB, indexer {memory['indexer'] / 1e6:.0f} MB")
        for name, values in took.items():
            print(f"  {name:48} {statistics.median(values) * 1000:6.0f} ms   worst {max(values) * 1000:6.0f} ms")
    return int(bool(late) or memory["server"] > MEMORY)


if __name__ == "__main__":
    sys.exit(main())
