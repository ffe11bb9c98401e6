"""The report as a page holds what the report holds, and nothing that a browser would run or fetch."""

import re
import sys
import time
from datetime import datetime, timedelta
from html.parser import HTMLParser

import pytest

from otel_perf import cli
from otel_perf.analysis.summary import summarize
from otel_perf.cli import page, terminal, text
from otel_perf.store.database import StoreReader

EVIL = "</td><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & [bold]x[/bold] \x1b[31m"


@pytest.fixture
def report(start, home):
    """Of a run in which every name is hostile."""
    import logging

    from opentelemetry import trace

    pipeline = start(OTEL_SERVICE_NAME=f"shop{EVIL}")
    tracer = trace.get_tracer("t")
    with tracer.start_as_current_span(f"GET {EVIL}"):
        try:
            with tracer.start_as_current_span("inner"):
                raise KeyError(EVIL)
        except KeyError:
            logging.getLogger("shop").exception("failed: %s", EVIL)
    pipeline.shutdown()
    store = StoreReader(home)
    yield summarize(store)
    store.close()


class Seen(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text.append(data)


def test_nothing_in_it_runs_or_is_fetched(report):
    document = page.render(report)
    seen = Seen()
    seen.feed(document)
    assert set(seen.tags) <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "section", "div", "b", "span", "code",
        "table", "thead", "tbody", "tr", "th", "td",
    }  # fmt: skip
    assert {name for name, _ in seen.attributes} <= {
        "lang",
        "charset",
        "http-equiv",
        "content",
        "name",
        "class",
        "tabindex",
    }
    assert EVIL.split("\x1b", maxsplit=1)[0] in "".join(seen.text)
    assert "http://" not in document
    assert "url(" not in document


def test_its_policy_allows_its_own_style_and_nothing_else(report):
    import base64
    import hashlib

    document = page.render(report)
    (style,) = re.findall("<style>(.*?)</style>", document, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}';" in document


def test_it_holds_every_part_of_the_report(report):
    document = page.render(report)
    for title in ("Bottlenecks", "Slowest operations", "Slowest traces", "Errors", "Memory", "Logs:", "Store:"):
        assert title in document
        assert title in text.render(report)


def test_it_is_written_where_it_is_asked_for(report, home, tmp_path, capsys):
    assert cli.main(["report", "--home", str(home), "--html", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    capsys.readouterr()
    assert cli.main(["report", "--home", str(home), "--html", str(tmp_path / "no" / "report.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err


class Screen:
    """A terminal of eighty columns."""

    def __init__(self):
        self.written = []

    def isatty(self):
        return True

    def write(self, written):
        self.written.append(written)
        return len(written)

    def flush(self):
        pass


@pytest.mark.parametrize("stream", ["stdout", "stderr"])  # report's, and run's
def test_in_a_terminal_it_fits_and_names_are_no_markup(stream, report, monkeypatch):
    screen = Screen()
    monkeypatch.setattr(f"sys.{stream}", screen)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal.show(report, to=getattr(sys, stream))
    shown = "".join(screen.written)
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "[bold]x[/bold] �[31m" in plain
    assert "\x1b[31m" not in text.render(report)
    assert all(len(line) <= 80 for line in plain.splitlines())


@pytest.mark.parametrize("why", ["dumb", "no rich", "pipe"])
def test_elsewhere_it_is_plain(why, report, monkeypatch, capsys):
    monkeypatch.setenv("TERM", "dumb" if why == "dumb" else "xterm")
    if why != "pipe":
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    if why == "no rich":
        monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    terminal.show(report)
    assert capsys.readouterr().out == text.render(report) + "\n"


def test_whoever_reads_it_elsewhere_knows_of_which_zone_its_times_are(report, monkeypatch):
    """GIVEN a machine in New York WHEN the page is written THEN its foot is in the zone of its heading, and names it."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        document = page.render(report)
    finally:
        monkeypatch.undo()
        time.tzset()
    heading = re.search(r"1 trace, 2 spans, (\d{4}-\d\d-\d\d \d\d:\d\d):", document)
    foot = re.search(r"(\d{4}-\d\d-\d\d \d\d:\d\d) (E[SD]T); all times are of this zone", document)
    assert heading
    assert foot
    apart = datetime.fromisoformat(foot[1]) - datetime.fromisoformat(heading[1])
    assert apart < timedelta(minutes=10)
