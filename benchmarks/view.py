"""The page of ``otel-perf view`` with a store of 1 M spans, 1 M log records and a day of metrics, in a real browser.

What is shown is the time from a click (or a key, or the address) until the answer is on the screen, in Chromium on this
machine, the worst of all rounds, while a program writes on and the page is live; and the memory of the server, which
also takes large requests (``--receive``), and of the process that builds the index. ``--spans`` makes it smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
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

PATIENCE: Final = 60_000  # ms after which a click is given up
RECEIVED: Final = 20_000  # spans of one request
PLACES: Final = {
    "lines with words": "#/logs?q=customer%2077",
    "lines of errors": "#/logs?severity=17",
    "lines of a logger": "#/logs?logger=app.module_3",
    "traces by a span's name": "#/traces?q=table_3",
    "traces that failed": "#/traces?failed=1",
    "traces, the costliest first": "#/traces?sort=costliest",
    "traces of a service": "#/traces?service=mail",
    "lines of a word that is nearly everywhere": "#/logs?q=customer",
    "lines of an event": "#/logs?own=1&event=perf.bottleneck",
    "a metric": "#/runtime?metric=process.cpu.time",
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
            state = ask(url, "state")["items"]
        except OSError:
            continue
        # The store was filled by time: what is left of points comes with the last spans and lines.
        if min(state.get("traces", 0), state.get("logs", 0)) >= items:
            return time.monotonic() - began


class Tab:
    """A tab of the browser, and how long what was done in it took."""

    def __init__(self, tab: Any, took: dict[str, list[float]]) -> None:
        self._tab = tab
        self._took = took

    def timed(self, name: str, act: Callable[[Any], object], until: str = "") -> None:
        """Do something, and note how long it takes."""
        self._took.setdefault(name, []).append(self.done(name, act, until))

    def done(self, name: str, act: Callable[[Any], object], until: str = "") -> float:
        """Do something, until its answer is on the screen: a new one, or what the condition says. Returns seconds."""
        before = self._tab.evaluate("document.getElementById('main')?.dataset.shown || ''")
        began = time.perf_counter()
        act(self._tab)
        main = "document.getElementById('main')"  # a live page is drawn again by itself, but not at another address
        condition = until or (
            f"{main}.dataset.shown !== {json.dumps(before)} && {main}.dataset.shown.startsWith(location.hash + '#')"
            f" && !{main}.hasAttribute('aria-busy')"
        )
        # Not Playwright's own way to wait: it compiles the condition in the page, which the page's policy forbids.
        self._tab.evaluate(
            "new Promise((done, fail) => { const look = () => "
            f"{{ if (performance.now() > ends) fail(new Error({json.dumps(f'{name}: no answer')}));"
            f" else requestAnimationFrame(({condition}) ? done : look); }};"
            f" const ends = performance.now() + {PATIENCE}; look(); }})"
        )
        return time.perf_counter() - began

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

    def inside(self) -> None:
        """What is opened on a screen."""
        self.go("the lines", "#/logs")
        line = ".log-lines .inside:not([hidden])"  # which one it is by now, live as the page is, nobody knows
        self.timed(
            "a line in full", lambda tab: tab.locator(".log-lines li > button").nth(3).click(),
            f"document.querySelector('{line} dl, {line} .empty') !== null",
        )  # fmt: skip
        count = "document.querySelector('.log-lines').childElementCount"
        self._tab.keyboard.press("l")  # what comes meanwhile would be counted as well
        before = self._tab.evaluate(count)
        self.timed(
            "older lines", lambda tab: tab.get_by_role("button", name="Older lines").click(), f"{count} > {before}"
        )
        self.done("live", lambda tab: tab.keyboard.press("l"))  # it asks for all of them once more
        # By itself: Playwright waits until what it clicks on stands still, and lines come in above it.
        template = self._tab.locator("table a[data-row]").nth(3)
        self.timed("lines of a template", lambda _: template.evaluate("link => link.click()"))
        self.go("the functions", "#/functions")
        self.timed(
            "a frame of the flame graph, closer", lambda tab: tab.locator(".flame .depth button").nth(2).click(),
            "document.querySelector('.flame .back') !== null",
        )  # fmt: skip

    def large_trace(self, tid: str) -> None:
        """A trace of thousands of spans, and spans of it."""
        self.go("a trace of 10,000 spans", f"#/trace/{tid}")
        full = "document.querySelector('.panel h3') !== null && document.querySelector('.panel h2').textContent === "
        for at in (3, 9):
            row = self._tab.locator(".waterfall .row").nth(at)
            # Text of its own, so that a panel that is there already is not taken for the answer.
            row.evaluate("row => { document.querySelector('.panel').replaceChildren(); }")
            name = "document.querySelector('.waterfall .row[aria-current] .name')?.textContent.trim()"
            self.timed("a span of it in full", lambda _, row=row: row.click(), f"{full}({name} ?? '')")
        end = "document.querySelector('.waterfall').scrollTop = 5000 * 28"
        self.timed(
            "its spans, scrolled to the middle", lambda tab: tab.evaluate(end),
            "Array.from(document.querySelectorAll('.waterfall .row')).some((row) => row.style.top === '140000px')",
        )  # fmt: skip

    def all(self, url: str, large: str) -> None:
        """Everything once."""
        self.timed(
            "first screen, shown whole", lambda tab: tab.goto(url), "document.getElementById('main').dataset.shown"
        )
        paint = self._tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
        self._took.setdefault("first paint", []).append(paint / 1000)
        self.timed("a finding: its trace", lambda tab: tab.locator(".card .evidence a").first.click())
        self.screens()
        for name, where in PLACES.items():
            self.go(name, where)
        self.inside()
        if large:
            self.large_trace(large)
        self.timed(
            "search (150 ms of it until somebody has typed)", lambda tab: tab.fill("#search", "packed"),
            "document.querySelector('#found a') !== null",
        )  # fmt: skip


def send(address: str) -> None:
    """A large request of OTLP, as a Collector makes them."""
    sys.path.insert(0, str(FILL.parent))
    import view_store

    class Taken:
        def append(self, batches: Any, _: int) -> None:
            self.body = batches[0].body

    taken = Taken()
    filler = view_store.Filler.__new__(view_store.Filler)
    filler.chance, filler.database, filler.traces = view_store.random.Random(1), taken, []
    filler.spans(time.time_ns(), RECEIVED)
    request = urllib.request.Request(f"{address}v1/traces", taken.body, {"content-type": "application/x-protobuf"})
    urllib.request.urlopen(request, timeout=60).close()


def clicks(url: str, rounds: int, large: str) -> dict[str, list[float]]:
    """Seconds until each click's answer is on the screen."""
    from playwright.sync_api import sync_playwright

    sys.path.insert(0, str(ROOT / "tools"))
    import browser

    took: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.ensure(), args=["--no-sandbox"])
        for _ in range(rounds):
            context = chromium.new_context(viewport={"width": 1280, "height": 900})
            Tab(context.new_page(), took).all(url, large)
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
    environ["XDG_CACHE_HOME"] = cache = tempfile.mkdtemp(prefix="otel-perf-view-cache-")
    server = subprocess.Popen(
        [sys.executable, "-m", "otel_perf", "view", str(home), "--port", "0", "--receive", "0", "--json"],
        stdout=subprocess.PIPE, text=True, env=environ, cwd=ROOT,
    )  # fmt: skip
    writer = None
    try:
        assert server.stdout is not None
        said = json.loads(server.stdout.readline())
        url = said["url"]
        indexed = index(url, given.spans)
        found = ask(url, "traces?q=GET%20%2Feverything")["traces"]
        writer = subprocess.Popen([sys.executable, str(FILL), str(home), "live"])
        took = clicks(url, given.rounds, found[0]["trace"] if found else "")
        for _ in range(3):
            send(said["receive"])
        ask(url, "flame")
        children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        memory = {"server": resident(server.pid), "indexer": max(map(resident, map(int, children)), default=0)}
    finally:
        for process in (writer, server):
            if process is not None:
                process.send_signal(signal.SIGTERM)
                process.wait(20)
    rows = {name: {"worst": max(values), "median": statistics.median(values)} for name, values in took.items()}
    index_size = sum(path.stat().st_size for path in Path(cache).rglob("index.db"))
    size = {"store": (home / "telemetry.db").stat().st_size, "index": index_size}
    shutil.rmtree(cache)
    late = {
        name: row["worst"]
        for name, row in rows.items()
        if row["worst"] > (FIRST if name.startswith("first") else CLICK)
    }
    if given.json:
        print(json.dumps({"seconds": rows, "memory": memory, "size": size, "indexed": indexed, "late": late}, indent=2))
    else:
        print(f"{given.spans:,} spans, {given.spans:,} log records, {HOURS} h of metrics")
        print(f"index: {indexed:.0f} s, {size['index'] / 1e6:.0f} MB beside a store of {size['store'] / 1e6:.0f} MB")
        print(f"memory at most: server {memory['server'] / 1e6:.0f} MB, indexer {memory['indexer'] / 1e6:.0f} MB")
        for name, row in rows.items():
            mark = "  too late" if name in late else ""
            print(f"  {name:48} worst {row['worst'] * 1000:6.0f} ms   median {row['median'] * 1000:6.0f} ms{mark}")
    return int(bool(late) or memory["server"] > MEMORY)


if __name__ == "__main__":
    sys.exit(main())
