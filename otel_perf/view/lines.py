"""Log lines: the newest, filtered; what came since; and their templates.

Lines are walked in the order of their time by the index that leaves the fewest, and no more than ``LOOKED`` of them for
one question: an answer says how far it looked (``cut``), and where the next one goes on (``cursor``).
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from otel_perf.analysis.index_tables import hexadecimal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_perf.view.reading import Question, Reading

MATCHES: Final = 3_000  # lines with some words up to which all are fetched; of more, the newest are walked
FEW: Final = 12_000  # lines that are looked at before the full-text search is asked: it is slow for what is frequent
LOOKED: Final = 30_000
RARE: Final = 20_000  # lines of a logger that are found by their templates rather than by walking back in time
_SEVERE: Final = 13  # from here on there is an index of severe lines alone
_WORD: Final = re.compile(r"\w+")
_TOKEN: Final = re.compile(r"[^\W_]+")
_BEGINS, _BETWEEN, _ENDS = r"(?<![^\W_])", r"[\W_]+", r"(?![^\W_])"
_MOST_WORDS: Final = 12
_COLUMNS: Final = "id, time, severity, service, scope, event, trace, sid, template, place, pos, body"


def words_of(text: str) -> str:
    """A question of SQLite's full-text search, of any text: each word as it is, the last one as a beginning."""
    found = _WORD.findall(text)[:_MOST_WORDS]
    return " ".join(f'"{word}"' for word in found) + ("*" if found else "")


class Words:
    """Says of a line what the full-text search would: the same words, without regard to case and accents."""

    def __init__(self, text: str) -> None:
        words = [_TOKEN.findall(_plain(word)) for word in _WORD.findall(text)[:_MOST_WORDS]]
        self._words = [word for found in words for word in found]
        self._patterns = [
            re.compile(_BEGINS + _BETWEEN.join(map(re.escape, word)) + (_ENDS if at < len(words) else ""))
            for at, word in enumerate(words, 1) if word
        ]  # fmt: skip

    def are_in(self, line: str) -> bool:
        """Whether a line has them all."""
        plain = _plain(line)
        if not all(word in plain for word in self._words):  # nearly all lines end here: patterns are slow
            return False
        return all(pattern.search(plain) for pattern in self._patterns)


def _plain(text: str) -> str:
    lower = text.lower()
    if lower.isascii():
        return lower
    return "".join(letter for letter in unicodedata.normalize("NFKD", lower) if not unicodedata.combining(letter))


def lines(reading: Reading, question: Question) -> dict[str, Any]:
    """Lines, the newest first, and those before ``before``, which is a cursor.

    Or those after ``after``, the number of a line: the first of them, and ``upto`` which line they are.
    """
    size = question.number("limit", 200, most=1000)
    newest = reading.row("SELECT coalesce(max(id), 0) FROM log")[0]
    asked = _Asked(reading, question)
    if question.text("after"):
        return {"newest": newest, **asked.since(question.number("after", 0), size, newest)}
    return {"newest": newest, **asked.back(size)}


class _Asked:
    """What is asked for, as SQL; and the index to walk: SQLite does not know how many rows each condition leaves."""

    def __init__(self, reading: Reading, question: Question) -> None:
        self._reading = reading
        self._question = question
        self._inner: list[tuple[str, tuple[Any, ...]]] = []  # conditions that the index knows
        self._outer: list[tuple[str, tuple[Any, ...]]] = []
        self._by_own = True  # the index has our own events apart
        self._text = question.text("q").strip()
        self._is_empty = bool(self._text) and not words_of(self._text)  # nothing can be found
        self.index = self._choose()
        if event := question.text("event"):
            self._outer.append(("event = ?", (reading.number(event),)))
        if question.is_bounded:
            self._inner.append(("time BETWEEN ? AND ?", question.times))

    def _choose(self) -> str:
        """Put each condition where it belongs."""
        reading, question = self._reading, self._question
        service = ("service = ?", (reading.number(question.text("service")),)) if question.text("service") else None
        level = question.number("severity", 0)
        severity = ("severity >= ?", (level,)) if level else None
        narrow = self._narrow()
        if narrow:
            self._by_own = False
            self._outer += [one for one in (service, severity) if one]
            return narrow
        if severity and level >= _SEVERE:
            self._inner += [(f"severity >= {_SEVERE}", ()), severity]  # a partial index knows this number alone
            self._outer += [service] if service else []
            return "log_severe"
        self._outer += [severity] if severity else []
        self._inner += [service] if service else []
        return "log_service" if service else "log_time"

    def _narrow(self) -> str:
        """The index of a trace or of templates, if one is asked for, or if a logger has few lines."""
        reading, question, narrow = self._reading, self._question, ""
        if template := question.number("template", 0):
            self._inner.append(("template = ?", (template,)))
            narrow = "log_template"
        if logger := question.text("logger"):
            number = reading.number(logger)
            self._outer.append(("scope = ?", (number,)))
            query = "SELECT coalesce(sum(count), 0) FROM template WHERE scope = ?"
            if not template and reading.row(query, (number,))[0] < RARE and not question.text("own"):
                self._inner.append(("template IN (SELECT id FROM template WHERE scope = ?)", (number,)))
                narrow = "log_template"
        if trace := question.text("trace"):
            tid = bytes.fromhex(trace) if re.fullmatch("[0-9a-f]{32}", trace) else b""
            self._outer += self._inner
            self._inner = [("trace > 0 AND trace = (SELECT id FROM trace WHERE tid = ?)", (tid,))]
            narrow = "log_trace"
        return narrow

    def _own(self) -> list[tuple[str, tuple[Any, ...]]]:
        return [] if self._question.text("own") else [("own = 0", ())]

    def back(self, size: int) -> dict[str, Any]:
        """Back in time from the newest, or from a cursor."""
        before = self._question.text("before")
        if before:
            found = re.fullmatch(r"([0-9]{1,18}|[0-8][0-9]{18})-([0-9]{1,18})", before)
            if found is None:
                self._is_empty = True
            else:
                self._inner.append(("(time, id) < (?, ?)", (int(found[1]), int(found[2]))))
        if self._is_empty:
            return {"lines": [], "more": False, "cut": False, "cursor": before}
        rows, looked = self._walk(size, FEW if self._text else LOOKED)
        if self._text and looked:
            rows, looked = (self._by_words(size), None) if self._are_rare() else self._walk(size, LOOKED)
        shown = [_line(self._reading, row) for row in rows[:size]]
        is_cut = looked is not None and len(rows) <= size
        cursor = f"{looked[0]}-{looked[1]}" if looked and is_cut else shown[-1]["cursor"] if shown else before
        return {"lines": shown, "more": is_cut or len(rows) > size, "cut": is_cut, "cursor": cursor}

    def _are_rare(self) -> bool:
        if not self._reading.row("SELECT 1 FROM sqlite_schema WHERE name = 'log_words'"):
            return False
        query = f"SELECT count(*) FROM (SELECT 1 FROM log_words WHERE log_words MATCH ? LIMIT {MATCHES})"
        return bool(self._reading.row(query, (words_of(self._text),))[0] < MATCHES)

    def _by_words(self, size: int) -> list[tuple[Any, ...]]:
        """All lines with the words, filtered and put in order."""
        where, values = _all([*self._own(), *self._inner, *self._outer])
        return self._reading.rows(
            f"SELECT {_COLUMNS} FROM (SELECT rowid AS number FROM log_words WHERE log_words MATCH ?)"
            f" CROSS JOIN log ON log.id = number WHERE {where} ORDER BY time DESC, id DESC LIMIT ?",
            (words_of(self._text), *values, size + 1),
        )

    def _walk(self, size: int, most: int) -> tuple[list[tuple[Any, ...]], tuple[int, int] | None]:
        """One line after the other, the newest first; and the time and number of the last one, if there may be more."""
        own = [] if self._by_own else self._own()
        where, values = _all(self._inner)
        apart = [""]
        if self._by_own:  # two walks that are merged: SQLite would sort everything
            apart = [" AND own = 0", " AND own = 1"] if self._question.text("own") else [" AND own = 0"]
        walked = " UNION ALL ".join(
            f"SELECT {{columns}} FROM log INDEXED BY {self.index} WHERE {where}{one}" for one in apart
        )  # fmt: skip
        walked += " ORDER BY time DESC, id DESC LIMIT ?"
        inside = tuple(value for _ in apart for value in values)
        tests, tested = _all([*own, *self._outer])
        rows = self._some(
            f"SELECT {_COLUMNS} FROM ({walked.format(columns='*')}) WHERE {tests}", (*inside, most, *tested), size + 1
        )
        if len(rows) > size:
            return rows, None
        last = self._reading.row(f"{walked.format(columns='time, id')} OFFSET {most - 1}", (*inside, 1))
        return rows, (last[0], last[1]) if last else None

    def _some(self, query: str, values: Iterable[Any], most: int) -> list[tuple[Any, ...]]:
        words = Words(self._text) if self._text else None
        rows: list[tuple[Any, ...]] = []
        for row in self._reading.each(query, tuple(values)):
            if words is None or words.are_in(row[-1]):
                rows.append(row)
                if len(rows) == most:
                    break
        return rows

    def since(self, after: int, size: int, newest: int) -> dict[str, Any]:
        """What came after a line, in the order in which it came."""
        tests, tested = _all([*self._own(), *self._inner, *self._outer])
        rows = [] if self._is_empty else self._some(
            f"SELECT {_COLUMNS} FROM (SELECT * FROM log NOT INDEXED WHERE id > ? ORDER BY id LIMIT ?) WHERE {tests}",
            (after, LOOKED, *tested), size,
        )  # fmt: skip
        upto = rows[-1][0] if rows else after
        if len(rows) < size:
            upto = max(upto, min(newest, after + LOOKED))
        rows.sort(key=lambda row: (row[1], row[0]), reverse=True)
        return {"lines": [_line(self._reading, row) for row in rows], "more": upto < newest, "upto": upto}


def _all(conditions: list[tuple[str, tuple[Any, ...]]]) -> tuple[str, list[Any]]:
    """All of them, as SQL with its values."""
    return " AND ".join(text for text, _ in conditions) or "1", [value for _, values in conditions for value in values]


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
        "SELECT service, kind, spot, max(cost), culprit FROM finding WHERE kind LIKE ? ESCAPE '\\' OR spot LIKE ?"
        " ESCAPE '\\' OR culprit LIKE ? ESCAPE '\\' GROUP BY service, kind, spot ORDER BY sum(cost) DESC LIMIT 8",
        (like, like, like),
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
