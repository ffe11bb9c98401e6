"""Log lines: the newest, filtered; what came since; and their templates."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from otel_perf.analysis.index_tables import hexadecimal

if TYPE_CHECKING:
    from otel_perf.view.reading import Question, Reading

MATCHES: Final = 3_000  # of words, of which the filters leave some
RARE: Final = 20_000  # lines of a logger that are found by their templates rather than by walking back in time
_SEVERE: Final = 13  # from here on there is an index of severe lines alone
_WORD: Final = re.compile(r"\w+")


def words_of(text: str) -> str:
    """A question of SQLite's full-text search, of any text: each word as it is, the last one as a beginning."""
    found = _WORD.findall(text)[:12]
    return " ".join(f'"{word}"' for word in found) + ("*" if found else "")


def lines(reading: Reading, question: Question) -> dict[str, Any]:
    """Lines, the newest first: before ``before`` or after ``after``, which are numbers of lines."""
    size = question.number("limit", 200, most=1000)
    newest = reading.row("SELECT coalesce(max(id), 0) FROM log")[0]
    asked = _Filter(reading, question)
    if asked.is_empty:
        return {"lines": [], "more": False, "newest": newest}
    rows = reading.rows(
        "SELECT id, time, severity, service, scope, event, trace, sid, template, place, pos, body FROM log"
        f" {asked.index and f'INDEXED BY {asked.index}'} WHERE {' AND '.join(asked.where) or '1'}"
        " ORDER BY time DESC, id DESC LIMIT ?",
        (*asked.values, size + 1),
    )
    return {"lines": [_line(reading, row) for row in rows[:size]], "more": len(rows) > size, "newest": newest}


class _Filter:
    """What is asked for, as SQL; and the index to walk: SQLite does not know how many rows each condition leaves."""

    def __init__(self, reading: Reading, question: Question) -> None:
        self._reading = reading
        self._question = question
        self.where: list[str] = []
        self.values: list[Any] = []
        self.index = ""
        self.is_empty = False  # nothing can be found
        if not question.text("own"):
            self._add("own = 0")
            self.index = "log_time"
        if question.is_bounded:
            self._add("time BETWEEN ? AND ?", *question.times)
        self._service_and_severity()
        self._template_or_logger()
        if event := question.text("event"):
            self._add("event = ?", reading.number(event))
        if trace := question.text("trace"):
            tid = bytes.fromhex(trace) if re.fullmatch("[0-9a-f]{32}", trace) else b""
            self._add("trace > 0 AND trace = (SELECT id FROM trace WHERE tid = ?)", tid)
            self.index = "log_trace"
        if text := question.text("q").strip():
            self._words(text)
        self._page()

    def _add(self, condition: str, *values: Any) -> None:
        self.where.append(condition)
        self.values += values

    def _service_and_severity(self) -> None:
        if service := self._question.text("service"):
            self._add("service = ?", self._reading.number(service))
            self.index = self.index and "log_service"
        if severity := self._question.number("severity", 0):
            self._add("severity >= ?", severity)
            if severity >= _SEVERE and self.index:
                self._add(f"severity >= {_SEVERE}")  # for the partial index, which knows this number alone
                self.index = "log_severe"

    def _template_or_logger(self) -> None:
        if template := self._question.number("template", 0):
            self._add("template = ?", template)
            self.index = "log_template"
        elif logger := self._question.text("logger"):
            number = self._reading.number(logger)
            self._add("scope = ?", number)
            query = "SELECT coalesce(sum(count), 0) FROM template WHERE scope = ?"
            if self._reading.row(query, (number,))[0] < RARE:
                self._add("template IN (SELECT id FROM template WHERE scope = ?)", number)
                self.index = "log_template"

    def _words(self, text: str) -> None:
        words = words_of(text)
        self.is_empty = not words
        self.index = ""
        if not self._reading.row("SELECT 1 FROM sqlite_schema WHERE name = 'log_words'"):
            self._add("instr(lower(body), ?) > 0", text.lower())
            return
        before = self._question.text("before").partition("-")[2]
        limit = f" AND rowid < {int(before)}" if before.isascii() and before.isdigit() else ""
        matching = f"SELECT rowid FROM log_words WHERE log_words MATCH ?{limit} ORDER BY rowid DESC LIMIT {MATCHES}"
        self._add(f"id IN ({matching})", words)

    def _page(self) -> None:
        """Only what is before, or after, a line."""
        if after := self._question.number("after", 0):
            self._add("id > ?", after)
            self.index = ""  # there are few
        if before := self._question.text("before"):
            found = re.fullmatch(r"([0-9]{1,18}|[0-8][0-9]{18})-([0-9]{1,18})", before)
            self.is_empty = self.is_empty or found is None
            if found is not None:
                self._add("(time, id) < (?, ?)", int(found[1]), int(found[2]))


def _line(reading: Reading, row: tuple[Any, ...]) -> dict[str, Any]:
    number, time, severity, service, scope, event, trace, sid, template, place, pos, body = row
    tid = reading.row("SELECT tid FROM trace WHERE id = ?", (trace,)) if trace else ()
    return {
        "id": number, "cursor": f"{time}-{number}", "time": time, "severity": severity,
        "service": reading.text(service),
        "logger": reading.text(scope), "event": reading.text(event), "trace": tid[0].hex() if tid else "",
        "span": hexadecimal(sid), "template": template, "at": [place, pos], "text": body,
    }  # fmt: skip


def templates(reading: Reading, question: Question) -> dict[str, Any]:
    """Templates of lines since the beginning, the most frequent first."""
    where, values = "1", []
    if service := question.text("service"):
        where, values = "service = ?", [reading.number(service)]
    rows = reading.rows(
        f"SELECT id, service, scope, severity, words, count, first, last FROM template WHERE {where}"
        " ORDER BY count DESC LIMIT 300", values,
    )  # fmt: skip
    return {
        "templates": [
            {"id": number, "service": reading.text(service), "logger": reading.text(scope), "severity": severity,
             "words": words, "count": count, "first": first, "last": last}
            for number, service, scope, severity, words, count, first, last in rows
        ],
        "loggers": sorted(
            reading.text(row[0])
            for row in reading.rows("SELECT DISTINCT scope FROM template WHERE scope > 0 LIMIT 300")
        ),
    }  # fmt: skip


def search(reading: Reading, question: Question) -> dict[str, Any]:
    """A few of everything that has these words."""
    from otel_perf.view.traces import matching_operations, operation_name

    text = question.text("q", longest=200).strip()
    if not text:
        return {"operations": [], "traces": [], "findings": [], "lines": []}
    like = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    found = reading.rows(
        "SELECT service, kind, spot, max(cost), culprit FROM finding WHERE kind LIKE ?1 ESCAPE '\\' OR spot LIKE ?1"
        " ESCAPE '\\' OR culprit LIKE ?1 ESCAPE '\\' GROUP BY service, kind, spot LIMIT 8", (like,),
    )  # fmt: skip
    traces = []
    if re.fullmatch("[0-9a-fA-F]{32}", text):
        traces = [row[0].hex() for row in reading.rows("SELECT tid FROM trace WHERE tid = ?", (bytes.fromhex(text),))]
    return {
        "operations": [{"op": op, **operation_name(reading, op)} for op in matching_operations(reading, text, 8)],
        "traces": traces,
        "findings": [
            {"service": reading.text(service), "kind": kind, "spot": spot, "culprit": culprit}
            for service, kind, spot, _, culprit in found
        ],
        "lines": lines(reading, question.with_(limit="5"))["lines"],
    }
