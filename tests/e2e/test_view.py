"""The page as a person uses it: Chromium, the real shop under load, by click and by keyboard."""

import contextlib
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_perf.core.home import STORE_FILE
from otel_perf.store.database import Database
from otel_perf.view.lines import LOOKED
from tests.built import built
from tests.e2e import browser
from tests.e2e.support import Running, environment, free_port, instrumented, wait_for
from tests.view.test_index import one_span, put
from tests.view.test_questions import log_lines, signal_span
from tools import environments

ROOT = Path(__file__).resolve().parents[2]
SCREENS = ("findings", "traces", "functions", "runtime", "logs", "signals", "health")
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The shop with an N+1, a load on it that goes on, and the page of its store: the page's address and the shop's."""
    home, folder = tmp_path_factory.mktemp("view") / ".otel-perf", environments.ensure("shop")
    port = free_port()
    variables = {
        "SHOP_PORT": str(port), "SHOP_DATA": str(home.parent), "SHOP_SLOW": "n_plus_one,serial_io", "OTEL_SERVICE_NAME": "shop",
        "OTEL_METRIC_EXPORT_INTERVAL": "1000", "OTEL_PERF_BOTTLENECKS_N_PLUS_ONE_LEAST": "1ms",
    }  # fmt: skip
    command = [sys.executable, "-m", "otel_perf", "view", "--home", str(home), "--port", "0", "--json"]
    with instrumented(folder, home, "python", "-m", "examples.shop", cwd=ROOT, variables=variables) as shop:
        shop.wait_until_listening(port, timeout=60)
        url = f"http://127.0.0.1:{port}"
        load = [
            str(folder / "bin" / "python"),
            "-m",
            "examples.shop.load",
            f"--url={url}",
            "--rate=4",
            "--seconds=60",
            "--errors=0.05",
        ]
        with Running(load, environment(folder, home), ROOT, home.parent / "load.log"):
            wait_for(lambda: (home / "telemetry.db").exists(), 60, "the shop's store")
            with Running(command, environment(Path(sys.prefix), home), ROOT, home.parent / "view.log") as view:
                wait_for(lambda: "url" in view.output(), 60, "the page")
                page = json.loads(view.output().splitlines()[0])["url"]
                wait_for(lambda: has_n_plus_one(page), 60, "an N+1 of the shop in the index")
                yield page, url


def has_n_plus_one(page):
    try:
        with urllib.request.urlopen(f"{page}api/findings", timeout=20) as answer:
            return any(one["kind"] == "n_plus_one" for one in json.load(answer)["findings"])
    except OSError:
        return False


@pytest.fixture(scope="module")
def chromium():
    with browser.browser() as chromium:
        yield chromium


@pytest.fixture
def page(chromium, served):
    with browser.page(chromium, served[0]) as page:
        yield page
        assert page.errors == []
        assert page.elsewhere == []


def line_of_source(page):
    """The file, line and text that the page marks; the text is compared with the real file."""
    page.tab.wait_for_selector(".panel .source .hit")
    place = page.tab.inner_text(".panel .source figcaption")
    shown = page.tab.inner_text(".panel .source .hit")
    path, _, line = place.rpartition(":")
    text = (ROOT / path).read_text().splitlines()[int(line) - 1]
    assert shown.removeprefix(line).strip() == text.strip()
    return path, text


def test_the_n_plus_one_is_found_and_its_line_read_by_click(page):
    page.open("findings")
    card = page.tab.locator(".card", has=page.tab.locator(".kind.n_plus_one")).first
    card.locator(".evidence a").click()
    page.shown("trace")
    assert page.tab.locator(".waterfall .row").count() > 3
    assert page.tab.locator(".track .path").count() > 0
    page.tab.locator(".faults button", has=page.tab.locator(".kind.n_plus_one")).first.click()
    path, text = line_of_source(page)
    assert path.startswith("examples/shop/")
    assert text.strip()
    page.picture("trace-n-plus-one")


def test_the_n_plus_one_is_found_and_its_line_read_by_keyboard(page):
    page.open("logs")
    page.tab.keyboard.press("1")
    page.shown("findings")
    wanted = page.tab.locator(".card", has=page.tab.locator(".kind.n_plus_one")).first.locator(".evidence").inner_text()
    for _ in range(30):
        page.tab.keyboard.press("j")
        if page.focused() == wanted:
            break
    assert page.focused() == wanted
    page.tab.keyboard.press("Enter")
    page.shown("trace")
    for _ in range(30):
        page.tab.keyboard.press("j")
        if "N+1" in page.focused():
            break
    page.tab.keyboard.press("Enter")
    line_of_source(page)
    page.tab.keyboard.press("Escape")
    page.shown("findings")


def test_the_memory_gauge_moves(page):
    page.open("runtime")
    page.tab.wait_for_selector("[data-panel=memory] canvas")
    gauge = "document.querySelector('[data-now=memory]')?.textContent"
    before = page.tab.evaluate(gauge)
    assert re.fullmatch(r"[\d.]+ MB", before)
    page.until(f"{gauge} && {gauge} !== {json.dumps(before)}")
    assert re.fullmatch(r"[\d.]+ %", page.tab.inner_text("[data-now=pressure]"))
    page.picture("runtime")


def test_lines_are_tailed(page, served):
    """GIVEN the logs on the screen WHEN the shop says something THEN it appears, and nothing else was touched."""
    page.open("logs?q=nowhere-tailed")
    assert page.tab.locator(".log-lines li").count() == 0
    for _ in range(2):
        with pytest.raises(OSError, match="404"):
            urllib.request.urlopen(f"{served[1]}/nowhere-tailed", timeout=20)
    page.tab.wait_for_selector(".log-lines li.fresh")
    page.tab.locator(".log-lines button").first.click()
    page.tab.locator(".log-lines .inside a", has_text="Open its trace").first.click()
    page.shown("trace")


def test_the_search_finds_operations_and_lines_by_keyboard(page):
    page.open("findings")
    page.tab.keyboard.press("/")
    page.tab.keyboard.type("orders")
    page.tab.wait_for_selector("#found a")
    page.tab.keyboard.press("Enter")
    page.tab.keyboard.press("Enter")
    page.until("!location.hash.startsWith('#/findings') || location.hash.includes('open=')")


def test_hostile_words_stay_words(page):
    for where in ("logs?q=", "traces?q=", "functions?q=", "trace/", "findings?open=", "runtime?metric="):
        page.open("health")
        page.tab.evaluate("where => { location.hash = where }", f"#/{where}{HOSTILE}")
        page.settled()
    page.tab.fill("#search", HOSTILE)
    page.tab.wait_for_selector("#found:not([hidden])")
    assert page.tab.locator("main img").count() == 0
    assert page.tab.title() != "owned"
    page.errors[:] = [error for error in page.errors if "400" not in error]  # a trace id that is none is refused


def test_a_link_leads_to_the_same_screen(page, chromium, served):
    page.open("traces")
    page.tab.select_option("#range", "1h")
    page.until("location.hash.includes('range=1h')")
    page.tab.select_option("#service", "shop")
    page.until("location.hash.includes('service=shop')")
    with browser.page(chromium, served[0]) as other:
        other.tab.goto(page.tab.url)
        other.shown("traces")
        assert other.tab.input_value("#range") == "1h"
        assert other.tab.input_value("#service") == "shop"


@pytest.mark.parametrize(
    ("dark", "width"), [(False, 1280), (True, 1280), (False, 400)], ids=["light", "dark", "narrow"]
)
def test_every_screen_can_be_used_by_everybody(chromium, served, dark, width):
    """axe-core finds nothing serious, nothing is cut off or reaches over the edge, and a picture is kept."""
    axe = built("axe").read_text()
    with browser.page(chromium, served[0], dark=dark, width=width) as page:
        page.open("findings")
        trace = page.tab.locator(".card .evidence a").first.get_attribute("href").removeprefix("#/").partition("?")[0]
        for where in (*SCREENS, trace):
            page.open(where)
            page.tab.keyboard.press("l")  # nothing changes while it is looked at
            page.settled()
            page.picture(f"{where.partition('/')[0]}-{'dark' if dark else 'light'}-{width}")
            page.tab.evaluate(f"{axe}; undefined")
            found = page.tab.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            serious = [
                (one["id"], [node["html"][:200] for node in one["nodes"][:3]])
                for one in found
                if one["impact"] in {"serious", "critical"}
            ]
            assert serious == [], where
            assert page.tab.evaluate("document.documentElement.scrollWidth") <= width, where
            foot = page.tab.evaluate("scrollY + document.querySelector('footer').getBoundingClientRect().bottom")
            assert foot >= page.tab.viewport_size["height"] - 1, f"{where}: the foot is in the midst of the window"
            page.tab.keyboard.press("l")
        page.open("findings")
        page.tab.keyboard.press("l")
        page.settled()
        card = page.tab.locator(".card", has=page.tab.locator(".kind.n_plus_one")).first
        card.get_by_role("button", name="Lines and traces").click()
        card.locator(".source .hit").wait_for()
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= width, "a long line of code widens the page"
        assert page.errors == []
        assert page.elsewhere == []


@contextlib.contextmanager
def empty_store(tmp_path):
    """A page of a store in which nothing is: its address, and a way to put lines into the store."""
    home, written = tmp_path / "home", iter(range(10**6))
    home.mkdir()
    Database(home / STORE_FILE, limit=10**9).close()
    command = [sys.executable, "-m", "otel_perf", "view", str(home), "--port", "0", "--json"]

    def put_lines(count):
        """As one batch."""
        records = [(time.time_ns(), f"line {number} end", {}, {}) for number in itertools.islice(written, count)]
        put(home, "logs", log_lines(*records), items=count)

    with Running(command, environment(Path(sys.prefix), home), ROOT, tmp_path / "view.log") as view:
        wait_for(lambda: "url" in view.output(), 60, "the page")
        url = json.loads(view.output().splitlines()[0])["url"]
        wait_for(lambda: (home / "index.db").exists(), 60, "the index")
        yield url, put_lines


def test_signals_are_in_the_waterfall(chromium, tmp_path):
    """GIVEN a span that emits a signal and one that waits WHEN their trace is opened THEN both say so, and how it ended."""
    with empty_store(tmp_path) as (url, _), browser.page(chromium, url) as page:
        home = tmp_path / "home"
        put(home, "traces", one_span(tid=b"g" * 16, sid=b"r" * 8))
        put(home, "traces", signal_span(b"e", 4, {"perf.signal.name": "PAID", "perf.signal.state": "ready"}))
        missing = {
            "perf.signal.names": ["PACKED"], "perf.signal.key": "7",
            "perf.signal.outcome": "timeout", "perf.signal.missing": ["PACKED"],
        }  # fmt: skip
        put(home, "traces", signal_span(b"w", 5, missing))
        wait_for(lambda: ask_state(url)["items"].get("traces") == 3, 60, "the index")
        page.open("signals")
        page.tab.get_by_text("waits for PACKED [7]", exact=True).wait_for()
        page.tab.locator("tbody a[data-row]").first.click()
        page.shown("trace")
        tags = page.tab.locator(".waterfall .tag.signal")
        assert set(tags.all_inner_texts()) == {"emits PAID", "waits for PACKED"}
        page.tab.locator(".waterfall .row", has_text="waits for PACKED").click()
        page.tab.wait_for_selector(".panel p:has-text('timeout, missing PACKED')")
        page.picture("trace-signals")
        page.tab.get_by_role("link", name="All signals").click()
        page.shown("signals")
        put(home, "metrics", one_reading())
        said = "3 spans · 0 lines · 1 reading"
        page.until(f"document.getElementById('counts').textContent === {json.dumps(said)}")
        assert page.errors == []


def one_reading(memory=48_000_000, instance="", ago=0, limit=0):
    """Of a process's memory, and of its limit if there is one; ``ago`` in seconds."""
    request = ExportMetricsServiceRequest()
    process = request.resource_metrics.add()
    if instance:
        process.resource.attributes.add(key="service.instance.id").value.string_value = instance
    scope = process.scope_metrics.add()
    for name, value in (("process.memory.usage", memory), ("perf.memory.limit", limit)):
        if value:
            points = scope.metrics.add(name=name, unit="By").gauge.data_points
            points.add(as_int=value, time_unix_nano=time.time_ns() - ago * 10**9)
    return request


def test_one_reading_is_shown_with_the_minute_around_it(chromium, tmp_path):
    """GIVEN a program that ended within its first minute WHEN all of its chart is chosen THEN that is a minute, not years."""
    with empty_store(tmp_path) as (url, _), browser.page(chromium, url) as page:
        put(tmp_path / "home", "metrics", one_reading(), created=time.time_ns())
        wait_for(lambda: ask_state(url)["items"].get("metrics") == 1, 60, "the index")
        page.open("runtime")
        page.tab.wait_for_selector("[data-panel=memory] canvas")
        page.tab.keyboard.press("l")  # no news draw it again meanwhile
        page.settled()
        box = page.tab.locator("[data-panel=memory] .u-over").bounding_box()
        middle = box["y"] + box["height"] / 2
        page.tab.mouse.move(box["x"] + 1, middle)
        page.tab.mouse.down()
        page.tab.mouse.move(box["x"] + box["width"] - 1, middle, steps=5)
        page.tab.mouse.up()
        page.until("location.hash.includes('range=')")
        begin, end = map(int, re.search(r"range=(\d+)-(\d+)", page.tab.url).groups())
        assert 50_000 <= end - begin <= 60_001
        assert page.errors == []


WRITTEN = """{
  window.written = [];
  const plain = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...where) {
    window.written.push(text);
    return plain.call(this, text, ...where);
  };
}"""
PAINTED = """(color) => {
  const box = document.querySelector('[data-panel=memory] canvas');
  const all = box.getContext('2d').getImageData(0, 0, box.width, box.height).data;
  const name = document.createElement('canvas').getContext('2d');
  name.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(color).trim();
  name.fillRect(0, 0, 1, 1);
  const [red, green, blue] = name.getImageData(0, 0, 1, 1).data;
  let found = 0;
  for (let at = 0; at < all.length; at += 4) found += all[at] === red && all[at + 1] === green && all[at + 2] === blue;
  return found;
}"""


def test_processes_that_told_one_reading_are_seen_beside_each_other(chromium, tmp_path):
    """GIVEN three short runs, hours apart, on a machine with much memory WHEN the page is opened THEN each has a dot in it.

    AND the limit does not press them to the bottom, AND times are written as in the tables.
    """
    with empty_store(tmp_path) as (url, _), browser.page(chromium, url) as page:
        page.tab.add_init_script(WRITTEN)
        for number, (ago, memory) in enumerate(((6 * 3600, 48_000_000), (3 * 3600, 70_000_000), (0, 90_000_000))):
            reading = one_reading(memory, f"i{number}", ago, limit=25 * 10**9)
            put(tmp_path / "home", "metrics", reading, created=time.time_ns())
        wait_for(lambda: ask_state(url)["items"].get("metrics") == 3, 60, "the index")
        page.open("runtime")
        page.tab.wait_for_selector("[data-panel=memory] canvas")
        page.tab.keyboard.press("l")
        page.settled()
        assert min(page.tab.evaluate(PAINTED, f"--series-{number}") for number in (1, 2, 3)) >= 4, "pixels of a colour"
        assert "The limit, 25.0 GB, is far above." in page.tab.inner_text("[data-panel=memory]")
        written = page.tab.evaluate("window.written")
        units = {text.partition(" ")[2] for text in written if re.fullmatch(r"[\d.]+ [kMG]?B", text)}
        assert "MB" in units, "the axis is that of the readings"
        assert "GB" not in units
        assert any(re.fullmatch(r"\d\d:\d\d", text) for text in written)
        assert not any(re.search(r"\d(am|pm)", text) for text in written)
        assert page.errors == []


COUNT = "document.querySelectorAll('.log-lines li').length"
TEXTS = "Array.from(document.querySelectorAll('.log-lines li .text'), (one) => one.textContent)"


def test_a_tail_has_every_line_once_however_many_come(chromium, tmp_path):
    """GIVEN the lines of an empty store WHEN one comes, and then more than one answer has THEN all are there, once."""
    with empty_store(tmp_path) as (url, put_lines), browser.page(chromium, url) as page:
        page.open("logs")
        put_lines(1)
        page.until(f"{COUNT} === 1")
        # Answers that take longer than it takes until the next news: two looks at once would bring the same lines.
        page.tab.route(re.compile("api/lines.*after="), lambda route: (time.sleep(1.2), route.continue_()))
        for count in (300, 300, 900):
            put_lines(count)
            page.tab.wait_for_timeout(700)
        page.until(f"{COUNT} >= 1501")
        page.tab.wait_for_timeout(1500)
        texts = page.tab.evaluate(TEXTS)
        assert sorted(texts) == sorted(f"line {number} end" for number in range(1501))
        # Of more than the page holds the oldest make room, but for what is read: they come again when they are asked for.
        for read in (0, 10):
            page.tab.locator(".log-lines button", has_text=f"line {read} end").click()
        put_lines(700)
        page.until(f"{TEXTS}.includes('line 2200 end') && {COUNT} <= 2002")
        assert page.tab.evaluate(TEXTS)[-2:] == ["line 10 end", "line 0 end"]
        page.tab.locator(".log-lines button", has_text="line 0 end").last.click()
        put_lines(1)
        page.until(f"{TEXTS}.includes('line 2201 end') && !{TEXTS}.includes('line 0 end')")
        older = page.tab.get_by_role("button", name="Older lines")
        while older.is_visible():
            before = page.tab.evaluate(COUNT)
            older.click()
            page.until(f"{COUNT} > {before}")
        assert page.tab.evaluate(TEXTS) == [f"line {number} end" for number in reversed(range(2202))]
        assert page.errors == []


def test_what_is_shown_is_what_was_clicked_on_last_and_what_fails_is_said(chromium, tmp_path):
    """GIVEN a span whose answer comes late, then no server WHEN another span is opened THEN the late answer is not shown."""
    with empty_store(tmp_path) as (url, put_lines), browser.page(chromium, url) as page:
        for number, name in enumerate(("root", "slow", "fast")):
            parent = b"s" * 8 if number else b""
            put(
                tmp_path / "home",
                "traces",
                one_span(sid=name.encode().ljust(8) if number else b"s" * 8, parent=parent, name=name),
            )
        put_lines(1)
        wait_for(lambda: ask_state(url)["items"].get("traces") == 3, 60, "the index")
        page.open(f"trace/{(b't' * 16).hex()}?service=nobody")
        assert page.tab.locator("#service").input_value() == "nobody"  # what an address filters by is seen
        page.tab.wait_for_selector(".panel h3")
        late = []
        page.tab.route(re.compile("api/span"), lambda route: route.continue_() if late else late.append(route))
        page.tab.locator(".waterfall .row", has_text="slow").click()
        page.until("document.querySelector('.panel h2').textContent === 'slow'")
        wait_for(lambda: page.tab.wait_for_timeout(20) or late, 20, "the question")
        page.tab.locator(".waterfall .row", has_text="fast").click()
        page.tab.wait_for_selector(".panel h3")
        with page.tab.expect_response(re.compile("api/span")):
            late[0].continue_()
        page.tab.wait_for_timeout(300)
        assert page.tab.inner_text(".panel h2") == "fast"
        assert page.errors == []
        page.tab.route(re.compile("api/(span|lines)"), lambda route: route.abort())
        page.tab.locator(".waterfall .row", has_text="slow").click()
        page.tab.wait_for_selector(".panel [role=alert]:has-text('does otel-perf view still run?')")
        page.tab.evaluate("location.hash = '#/logs'")
        page.tab.wait_for_selector("main [role=alert]:has-text('does otel-perf view still run?')")


def test_news_do_not_keep_a_slow_screen_from_being_shown(chromium, tmp_path):
    """GIVEN news each second WHEN a screen's answers take longer than that THEN it is shown all the same."""

    def later(route):
        time.sleep(4)
        with contextlib.suppress(Exception):  # the page has given it up
            route.continue_()

    with empty_store(tmp_path) as (url, put_lines), browser.page(chromium, url) as page:
        page.open("logs")
        ends = threading.Event()

        def write():
            while not ends.wait(0.3):
                put_lines(1)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            page.until(f"{COUNT} > 0")
            page.tab.wait_for_timeout(3500)  # so long after it was drawn, a screen is drawn again at any news
            page.tab.route(re.compile("api/findings"), later)
            page.tab.keyboard.press("1")
            page.shown("findings")
        finally:
            ends.set()
            writer.join()


@pytest.mark.soak
def test_lines_that_are_too_many_for_a_tail_are_said_to_be_skipped(chromium, tmp_path):
    with empty_store(tmp_path) as (url, put_lines), browser.page(chromium, url) as page:
        page.open("logs")
        put_lines(1)
        page.until(f"{COUNT} === 1")
        page.tab.locator(".log-lines button").first.click()
        put_lines(7_000)
        page.tab.wait_for_selector(".log-lines .skipped")
        assert page.tab.locator(".log-lines .inside:not([hidden])").count() == 1  # what somebody reads stays
        said = int(re.sub(r"\D", "", page.tab.inner_text(".log-lines .skipped")))
        assert 7_001 - 2_500 <= said <= 7_001 - 2_000
        page.tab.locator(".log-lines .skipped button").click()
        page.until(f"{TEXTS}[0] === 'line 7000 end'")
        assert page.tab.locator(".log-lines .skipped").count() == 0
        assert page.errors == []


@pytest.mark.soak
def test_a_filter_that_few_lines_pass_says_how_far_it_looked(chromium, tmp_path):
    """GIVEN more lines than one answer looks through, and the oldest alone passes WHEN asked on THEN it is found."""
    with empty_store(tmp_path) as (url, put_lines), browser.page(chromium, url) as page:
        put_lines(LOOKED + 1_000)
        wait_for(lambda: ask_state(url)["items"].get("logs") == LOOKED + 1_000, 60, "the index")
        page.open("logs?logger=nobody&own=1")
        page.tab.wait_for_selector(".logs .cut:not([hidden])")
        page.tab.get_by_role("button", name="Older lines").click()
        page.until("document.querySelector('.logs .cut').hidden")
        assert page.tab.locator(".log-lines li").count() == 0
        assert page.tab.get_by_text("No line is like that.").is_visible()


def ask_state(url):
    try:
        with urllib.request.urlopen(f"{url}api/state", timeout=20) as answer:
            return json.load(answer)
    except OSError:
        return {"items": {}}


def test_strangers_programs_are_shown(tmp_path):
    """OpenTelemetry's own SDKs of Python, JavaScript and Go send to ``--receive``; the report reads it as well."""
    home, upstream = tmp_path / "home", environments.ensure("upstream")
    command = [
        sys.executable,
        "-m",
        "otel_perf",
        "view",
        "--home",
        str(home),
        "--port",
        "0",
        "--receive",
        "0",
        "--json",
    ]
    programs = {
        "python says hello": ([str(upstream / "bin" / "python"), str(ROOT / "tests/e2e/strangers/stranger.py")], {}),
        "javascript says hello": (["node", str(built("strangers", "js"))], {}),
        "go says hello": ([str(built("strangers", "go"))], {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}),
    }
    with Running(command, environment(Path(sys.prefix), home), ROOT, tmp_path / "view.log") as view:
        wait_for(lambda: "url" in view.output(), 60, "the page")
        said = json.loads(view.output().splitlines()[0])
        for program, variables in programs.values():
            kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
            environ = {
                **kept,
                **variables,
                "OTEL_EXPORTER_OTLP_ENDPOINT": said["receive"].rstrip("/"),
                "OTEL_SERVICE_NAME": "stranger",
            }
            done = subprocess.run(program, env=environ, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stderr

        def ask(question):
            with urllib.request.urlopen(f"{said['url']}api/{question}", timeout=20) as answer:
                return json.load(answer)

        wait_for(lambda: len(ask("traces")["traces"]) == 3, what="three traces")
        traces = {row["name"]: row["trace"] for row in ask("traces")["traces"]}
        assert set(traces) == set(programs)
        for trace in traces.values():
            place, pos = ask(f"trace?trace={trace}")["list"][0]["at"]
            assert ask(f"span?place={place}&pos={pos}")["attributes"]["answer"] == 42
        wait_for(lambda: ask("lines")["lines"], what="the line")
        assert ask("lines")["lines"][0]["text"] == "hello from Python"
        assert ask("lines")["lines"][0]["trace"] == traces["python says hello"]
        assert "stranger.greetings" in {row["name"] for row in ask("metrics")["metrics"]}
    report = subprocess.run(
        [sys.executable, "-m", "otel_perf", "report", "--home", str(home / "received")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "go says hello" in report.stdout
