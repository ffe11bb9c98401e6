"""The report as one HTML file: no script, nothing from outside, whatever names and messages hold.

The policy in its head forbids both, should a name ever get past the escaping.
"""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Final

import otel_perf
from otel_perf.cli.sections import of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_perf.analysis.summary import Report
    from otel_perf.cli.sections import Section

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2430; --soft: #5a6675; --line: #dde2e8; --card: #f6f8fa;
  --bad: #b3261e; --bar: #7aa7e0; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161c; --ink: #e6e9ee; --soft: #9aa6b4; --line: #2b333d;
  --card: #1a2028; --bad: #ff8a80; --bar: #3f6ea8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .25rem 0; }
.soft { color: var(--soft); } .place, code { font-family: ui-monospace, monospace; font-size: .87em; }
.finding { background: var(--card); border-left: 4px solid var(--bad); border-radius: 4px; margin: .6rem 0;
  padding: .6rem .9rem; overflow-wrap: anywhere; }
.finding b { color: var(--bad); } .finding .saves { font-weight: 600; }
/* A shadow at the side where a table goes on: the two covers move with it, the shadows stay. */
.wide { overflow-x: auto; background:
  linear-gradient(to right, var(--paper) 40%, transparent) left / 2rem 100% no-repeat local,
  linear-gradient(to left, var(--paper) 40%, transparent) right / 2rem 100% no-repeat local,
  linear-gradient(to right, var(--soft), transparent) left / .5rem 100% no-repeat scroll,
  linear-gradient(to left, var(--soft), transparent) right / .5rem 100% no-repeat scroll; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 500; font-size: .82em; text-align: right; white-space: nowrap; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; }
td { text-align: right; white-space: nowrap; } th.text, td.text { text-align: left; }
td.id { color: var(--soft); font-family: ui-monospace, monospace; font-size: .8em; }
@media print { body { max-width: none; } .finding { break-inside: avoid; } }
"""
_TRACE: Final = re.compile(r"[0-9a-f]{32}")


def render(report: Report, *, asked: str = "") -> str:
    """The whole document."""
    heading, *sections = of(report, asked)
    title = ", ".join(report.services) or "no spans"
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    made = datetime.now().astimezone()  # as the times above, and whoever reads it may be elsewhere
    return "".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<title>{escape(title)}: otel-perf report</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n",
            f"<main>\n<h1>{escape(title)}</h1>\n<p>{escape(heading.title)}</p>\n",
            *(part for section in sections for part in _section(section)),
            f'</main>\n<p class="soft">otel-perf {otel_perf.__version__}, {made:%Y-%m-%d %H:%M %Z};',
            " all times are of this zone</p>\n",
            "</body>\n</html>\n",
        ]
    )


def _section(section: Section) -> Iterator[str]:
    if not section.rows and not section.after:
        yield f"<p>{escape(section.title)}</p>\n"
        return
    yield f"<section>\n<h2>{escape(section.title)}</h2>\n"
    if section.beneath:
        yield from _findings(section)
    elif section.rows:
        yield from _table(section)
    yield from (f"<p>{escape(sentence)}</p>\n" for sentence in section.after)
    yield "</section>\n"


def _findings(section: Section) -> Iterator[str]:
    for number, row in enumerate(section.rows):
        cells = {heading: escape(cell) for heading, cell in zip(section.headings, row, strict=True)}
        service = f" in {cells['SERVICE']}" if "SERVICE" in cells else ""
        first, *others = map(escape, section.beneath.get(number, [""]))
        yield (
            f'<div class="finding"><b>{cells["KIND"]}</b>{service}: <span class="saves">would save {cells["SAVES"]}'
            f'</span> in {cells["TRACES"]} traces, {cells["WORST"]} in the worst <span class="place">{cells["WHERE"]}'
            f"</span>\n<p>{first}</p>\n"
        )
        yield from (f'<p class="soft">{sentence}</p>\n' for sentence in others)
        yield f'<p class="soft">in trace <code>{cells["IN TRACE"]}</code></p></div>\n'


def _table(section: Section) -> Iterator[str]:
    yield '<div class="wide" tabindex="0"><table>\n<thead><tr>'
    for number, heading in enumerate(section.headings):
        yield f"<th{_class(number in section.left)}>{escape(heading.lower())}</th>"
    yield "</tr></thead>\n<tbody>\n"
    for row in section.rows:
        yield "<tr>"
        for number, cell in enumerate(row):
            kind = ' class="text id"' if _TRACE.fullmatch(cell) else _class(number in section.left)
            yield f"<td{kind}>{escape(cell)}</td>"
        yield "</tr>\n"
    yield "</tbody></table></div>\n"


def _class(is_text: bool) -> str:
    return ' class="text"' if is_text else ""
