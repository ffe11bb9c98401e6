"""The pictures of the README: the shop's demo runs, its store is shown by ``otel-perf view`` and ``otel-perf report``.

    python -m tools.pictures [--home HOME]      # a store that is there already; else the demo makes one

Writes docs/pictures/page.png, trace.png (both Chromium on the real page) and report.svg (what a terminal shows).
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import urllib.request
import zlib
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from otel_perf.analysis.summary import summarize
from otel_perf.cli import sections, terminal
from otel_perf.store.database import StoreReader
from tests.e2e import browser
from tests.e2e.support import Running, environment, wait_for
from tools import environments

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
WIDTH, HEIGHT = 1200, 800
COLUMNS = 128
MOST = 300_000  # bytes of a picture
# Few requests a second, and nothing is said of CPUs that others had: the findings are the shop's, and not the machine's.
LOAD = ("--rate", "4", "--seconds", "40", "--slow", "n_plus_one,serial_io,cpu")
SETTINGS = {"OTEL_PERF_BOTTLENECKS_CPU_STARVED_ENABLED": "off"}
DATA = Path("build") / "shop"  # relative: SQLAlchemy's instrumentor names spans by the file of the database
LAST = "Memory events"  # the first part of the report that is left out
_WHITE, _BLACK = (255, 255, 255), (31, 35, 40)
_COLOURS = [
    (31, 35, 40),
    (207, 34, 46),
    (17, 99, 41),
    (154, 103, 0),
    (9, 105, 218),
    (130, 80, 223),
    (27, 124, 131),
    (89, 99, 110),
]
THEME = TerminalTheme(_WHITE, _BLACK, _COLOURS, _COLOURS)


def demo(home: Path) -> None:
    """The shop with three slow spots, under load."""
    python = environments.ensure("shop") / "bin" / "python"
    shutil.rmtree(ROOT / DATA, ignore_errors=True)
    (ROOT / DATA).mkdir(parents=True)
    subprocess.run(
        [str(python), "-m", "examples.shop.demo", "--home", str(home), *LOAD], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
        env=environment(python.parents[1], home, {**SETTINGS, "SHOP_DATA": str(DATA)}),
    )  # fmt: skip


def page(home: Path) -> None:
    """The first screen, and a trace whose calls wait for each other, with the line of code."""
    command = [sys.executable, "-m", "otel_perf", "view", "--home", str(home), "--port", "0", "--json"]
    log = home.parent / "view.log"
    with Running(command, environment(Path(sys.prefix), home), ROOT, log) as view, browser.browser() as chromium:
        wait_for(lambda: "url" in view.output(), 60, "the page")
        url = json.loads(view.output().splitlines()[0])["url"]
        wait_for(lambda: is_whole(url, home), 120, "the whole store in the index")
        with browser.page(chromium, url, width=WIDTH, height=HEIGHT) as tab:
            tab.open("findings")
            tab.settled()
            shoot(tab, "page")
            card = tab.tab.locator(".card", has=tab.tab.locator(".kind.serial_io")).first
            card.locator(".evidence a").click()
            tab.shown("trace")
            tab.tab.locator(".faults button", has=tab.tab.locator(".kind.serial_io")).first.click()
            tab.tab.wait_for_selector(".panel .source .hit")
            tab.settled()
            shoot(tab, "trace")


def is_whole(url: str, home: Path) -> bool:
    """Whether the page knows as many traces as the report."""
    with urllib.request.urlopen(f"{url}api/findings", timeout=20) as answer:
        shown = {(one["kind"], one["traces"]) for one in json.load(answer)["findings"]}
    store = StoreReader(home)
    try:
        return {(row.kind, row.traces) for row in summarize(store, top=3).bottlenecks} <= shown
    finally:
        store.close()


def shoot(tab: browser.Page, name: str) -> None:
    """Keep what is on the screen, as small as zlib makes it."""
    keep(f"{name}.png", smaller(tab.tab.screenshot()))


def report(home: Path) -> None:
    """The beginning of what ``otel-perf report --top 3`` shows in a terminal of light colours."""
    store = StoreReader(home)
    try:
        parts = sections.of(summarize(store, top=3), "")
    finally:
        store.close()
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="standard", highlight=False
    )
    terminal.draw(console, itertools.takewhile(lambda part: not part.title.startswith(LAST), parts))
    drawn = console.export_svg(title="otel-perf report", theme=THEME)
    keep(
        "report.svg", re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL).encode()
    )  # they load from elsewhere


def keep(name: str, drawn: bytes) -> None:
    """Write one; it must be small, and free of this machine's paths."""
    if len(drawn) > MOST:
        raise SystemExit(f"{name} has {len(drawn):,} bytes; {MOST:,} are allowed")
    if str(ROOT).encode() in drawn or tempfile.gettempdir().encode() in drawn:
        raise SystemExit(f"{name} shows a path of this machine")
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / name).write_bytes(drawn)
    print(f"{PICTURES / name}: {len(drawn):,} bytes")


def smaller(png: bytes) -> bytes:
    """The same picture with its one stream of pixels packed as well as zlib can; without what is not shown."""
    signature, place, kept, packed = png[:8], 8, [], b""
    while place < len(png):
        (length,), kind = struct.unpack(">I", png[place : place + 4]), png[place + 4 : place + 8]
        content = png[place + 8 : place + 8 + length]
        place += length + 12
        if kind == b"IDAT":
            packed += content
        elif kind in {b"IHDR", b"PLTE", b"tRNS"}:
            kept.append((kind, content))
    kept += [(b"IDAT", zlib.compress(zlib.decompress(packed), 9)), (b"IEND", b"")]
    return signature + b"".join(chunk(kind, content) for kind, content in kept)


def chunk(kind: bytes, content: bytes) -> bytes:
    """One part of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def main() -> None:
    """Make all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, help="a store that is there already")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = given.home.absolute() if given.home else Path(folder) / ".otel-perf"
        if not given.home:
            demo(home)
        report(home)
        page(home)


if __name__ == "__main__":
    main()
