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
    begin, end = question.times
    size = question.number("limit", 200, most=1000)
    where, values = [], []
    if not question.text("own"):
        where.append("own = 0")
    if question.is_bounded:
        where.append("time BETWEEN ? AND ?")
        values += [begin, end]
    after = question.number("after", 0)
    if after:
        where.append("id > ?")
        values.append(after)
    if before := question.text("before"):
        time, _, number = before.partition("-")
        if not (time.isdigit() and number.isdigit()):
            return {"lines": [], "more": False, "newest": 0}
        where.append("(time, id) < (?, ?)")
        values += [int(time), int(number)]
    plan = _filters(reading, question, where, values)
    newest = reading.row("SELECT coalesce(max(id), 0) FROM log")[0]
    if plan is None:
        return {"lines": [], "more": False, "newest": newest}
    if after and not question.text("q"):
        plan = ""  # there are few
    rows = reading.rows(
        "SELECT id, time, severity, service, scope, event, trace, sid, template, place, pos, body FROM log"
        f" {plan} WHERE {' AND '.join(where) or '1'} ORDER BY time DESC, id DESC LIMIT ?",
        (*values, size + 1),
    )
    return {"lines": [_line(reading, row) for row in rows[:size]], "more": len(rows) > size, "newest": newest}


def _filters(reading: Reading, question: Question, where: list[str], values: list[Any]) -> str | None:
    """Add what is asked for; the index to walk, ``None`` if nothing can be found."""
    plan = "INDEXED BY log_time" if "own = 0" in where else ""
    if service := question.text("service"):
        where.append("service = ?")
        values.append(reading.number(service))
        plan = "INDEXED BY log_service" if plan else ""
    if severity := question.number("severity", 0):
        where.append("severity >= ?")
        values.append(severity)
        if severity >= _SEVERE and plan:
            where.append(f"severity >= {_SEVERE}")
            plan = "INDEXED BY log_severe"
    if template := question.number("template", 0):
        where.append("template = ?")
        values.append(template)
        plan = "INDEXED BY log_template"
    elif logger := question.text("logger"):
        number = reading.number(logger)
        where.append("scope = ?")
        values.append(number)
        if reading.row("SELECT coalesce(sum(count), 0) FROM template WHERE scope = ?", (number,))[0] < RARE:
            where.append("template IN (SELECT id FROM template WHERE scope = ?)")
            values.append(number)
            plan = "INDEXED BY log_template"
    if event := question.text("event"):
        where.append("event = ?")
        values.append(reading.number(event))
    if trace := question.text("trace"):
        where.append("trace > 0 AND trace = (SELECT id FROM trace WHERE tid = ?)")
        values.append(bytes.fromhex(trace) if re.fullmatch("[0-9a-f]{32}", trace) else b"")
        plan = ""
    if text := question.text("q").strip():
        words = words_of(text)
        if not words:
            return None
        plan = ""
        before = question.text("before").partition("-")[2]
        limit = f" AND rowid < {int(before)}" if before.isdigit() else ""
        if reading.row("SELECT 1 FROM sqlite_schema WHERE name = 'log_words'"):
            where.append(
                f"id IN (SELECT rowid FROM log_words WHERE log_words MATCH ?{limit} ORDER BY rowid DESC LIMIT {MATCHES})"
            )
            values.append(words)
        else:
            where.append("instr(lower(body), ?) > 0")
            values.append(text.lower())
    return plan


def _line(reading: Reading, row: tuple[Any, ...]) -> dict[str, Any]:
    number, time, severity, service, scope, event, trace, sid, template, place, pos, body = row
    tid = reading.row("SELECT tid FROM trace WHERE id = ?", (trace,)) if trace else ()
    return {
        "id": number, "cursor": f"{time}-{number}", "time": time, "severity": severity, "service": reading.text(service),
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
            reading.text(row[0]) for row in reading.rows("SELECT DISTINCT scope FROM template WHERE scope > 0 LIMIT 300")
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
