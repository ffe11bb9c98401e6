"""Parses TraceQL, as far as the dashboards use it, refuses everything else, and says which spans a query selects.

Tempo's own parser cannot be had as a module (tools/logql.py), so this is a grammar written after Tempo's documentation of
the language: spansets, their combinations, pipelines of aggregates, ``select`` and the metrics functions. Scopes,
intrinsics, units and functions are closed lists, so that a name with a slip in it is an error here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Selects = Callable[[Mapping[str, Any]], bool]  # a span as tests.e2e.backends has it

SCOPES: Final = {"span", "resource", "event", "link", "instrumentation", "parent"}
INTRINSICS: Final = {
    "name", "status", "statusMessage", "duration", "kind", "rootName", "rootServiceName", "traceDuration",
    "span:name", "span:status", "span:statusMessage", "span:duration", "span:kind", "span:id", "span:parentID",
    "trace:id", "trace:duration", "trace:rootName", "trace:rootService", "event:name", "event:timeSinceStart",
    "link:spanID", "link:traceID", "instrumentation:name", "instrumentation:version",
}  # fmt: skip
# What an intrinsic may be compared with, where that is a word.
WORDS: Final = {
    "status": {"error", "ok", "unset"},
    "kind": {"server", "client", "producer", "consumer", "internal", "unspecified"},
}
AGGREGATES: Final = {"count", "avg", "max", "min", "sum"}
METRICS: Final = {"rate", "count_over_time"}  # of spans
METRICS_OF: Final = {"sum_over_time", "min_over_time", "max_over_time", "avg_over_time", "histogram_over_time"}
COMPARISONS: Final = {"=", "!=", "<", "<=", ">", ">=", "=~", "!~"}
STRUCTURE: Final = {"&&", "||", ">>", ">", "<<", "<", "~", "!>>", "!>", "!<<", "!<", "!~"}
_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
      | (?P<duration>\d+(?:\.\d+)?(?:ns|us|µs|ms|s|m|h)\b)
      | (?P<number>-?\d+(?:\.\d+)?)
      | (?P<name>\.?[A-Za-z_][\w.]*(?::[A-Za-z]+)?)
      | (?P<sign>!>>|!<<|&&|\|\||>>|<<|=~|!~|!=|<=|>=|!>|!<|[{}()|,=<>~+*/%^!-])
    )""",
    re.VERBOSE,
)


class TraceQLError(Exception):
    """A query that is none, and where it stops being one."""


class Parser:
    """A recursive descent. ``fields`` are those that the query names; ``selects`` says whether a span is one it wants.

    Of several spansets, which may be anywhere in a trace, ``selects`` is that of the first.
    """

    def __init__(self, query: str) -> None:
        self.query = query
        self.fields: set[str] = set()
        self.selects: Selects = lambda _span: True
        self._tokens: list[tuple[str, str, int]] = []
        place = 0
        while place < len(query.rstrip()):
            found = _TOKEN.match(query, place)
            if found is None:
                raise TraceQLError(f"{query}: not a token at {query[place : place + 20]!r}")
            kind = str(found.lastgroup)
            self._tokens.append((kind, found[kind], found.start(kind)))
            place = found.end()
        self._at = 0

    def parse(self) -> Parser:
        """Take all of it."""
        self.selects = self._spansets()
        metrics = False
        while self._takes("|"):
            metrics = self._stage(metrics)
        if self._at < len(self._tokens):
            self._fail("an end or a pipe")
        return self

    # --- spansets ----------------------------------------------------------------------------------

    def _spansets(self) -> Selects:
        first = self._spanset()
        while self._peek()[1] in STRUCTURE:
            self._at += 1
            self._spanset()
        return first

    def _spanset(self) -> Selects:
        if self._takes("("):
            inner = self._spansets()
            self._needs(")")
            return inner
        self._needs("{")
        if self._takes("}"):
            return lambda _span: True
        inner = self._condition()
        self._needs("}")
        return inner

    def _condition(self) -> Selects:
        """``&&`` binds closer than ``||``."""
        either = [self._both()]
        while self._takes("||"):
            either.append(self._both())
        return lambda span: any(each(span) for each in either)

    def _both(self) -> Selects:
        both = [self._comparison()]
        while self._takes("&&"):
            both.append(self._comparison())
        return lambda span: all(each(span) for each in both)

    def _comparison(self) -> Selects:
        if self._takes("("):
            inner = self._condition()
            self._needs(")")
            return inner
        if self._peek()[1] in {"true", "false"}:
            wanted = self._next()[1] == "true"
            return lambda _span: wanted
        field = self._field()
        operator = self._next()
        if operator[1] not in COMPARISONS:
            self._fail(f"a comparison after {field}", operator)
        return _compares(field, operator[1], self._value(field, operator[1]))

    def _field(self) -> str:
        token = self._next()
        name = token[1]
        if token[0] != "name":
            self._fail("a field", token)
        scope, dot, rest = name.partition(".")
        if name in INTRINSICS:
            self.fields.add(name)
            return name
        if dot and rest and (scope in SCOPES or scope == "") and not rest.endswith("."):
            self.fields.add(name)
            return name
        return self._fail("an intrinsic or an attribute with its scope", token)

    def _value(self, field: str, operator: str) -> Any:
        token = self._next()
        kind, text, _ = token
        words = WORDS.get(field.rpartition(":")[2])
        if operator in {"=~", "!~"}:
            if kind != "string":
                self._fail("a string to match with", token)
            try:
                re.compile(text[1:-1])
            except re.error as error:
                raise TraceQLError(f"{self.query}: {text} is no regular expression: {error}") from error
        elif words is not None:
            if text not in words:
                self._fail(f"one of {sorted(words)}", token)
        elif field.rpartition(":")[2].lower().endswith("duration"):
            if kind != "duration":
                self._fail("a duration with its unit", token)
        elif kind not in {"string", "number", "duration"} and text not in {"true", "false", "nil"}:
            self._fail("a value", token)
        return _meant(kind, text)

    # --- what follows a pipe -----------------------------------------------------------------------

    def _stage(self, metrics: bool) -> bool:
        token = self._next()
        name = token[1]
        if name in {"topk", "bottomk"} and metrics:
            self._needs("(")
            if self._next()[0] != "number":
                self._fail("how many")
            self._needs(")")
            return True
        if metrics:
            self._fail("topk or bottomk after a metrics function", token)
        if name == "select":
            self._fields()
            return False
        if name == "by":
            self._fields()
            return False
        if name in AGGREGATES:
            self._aggregate(name)
            return False
        if name in METRICS | METRICS_OF | {"quantile_over_time"}:
            self._needs("(")
            if name not in METRICS:
                self._field()
            while name == "quantile_over_time" and self._takes(","):
                if self._next()[0] != "number":
                    self._fail("a quantile")
            self._needs(")")
            if self._peek()[1] == "by":
                self._at += 1
                self._fields()
            return True
        return bool(self._fail("a function", token))

    def _aggregate(self, name: str) -> None:
        self._needs("(")
        if name != "count":
            self._field()
        self._needs(")")
        operator = self._next()
        if operator[1] not in COMPARISONS - {"=~", "!~"}:
            self._fail("a comparison", operator)
        if self._next()[0] not in {"number", "duration"}:
            self._fail("a number or a duration")

    def _fields(self) -> None:
        self._needs("(")
        self._field()
        while self._takes(","):
            self._field()
        self._needs(")")

    # --- tokens ------------------------------------------------------------------------------------

    def _peek(self) -> tuple[str, str, int]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "the end", len(self.query))

    def _next(self) -> tuple[str, str, int]:
        token = self._peek()
        self._at += 1
        return token

    def _takes(self, text: str) -> bool:
        if self._peek()[1] != text:
            return False
        self._at += 1
        return True

    def _needs(self, text: str) -> None:
        if not self._takes(text):
            self._fail(repr(text))

    def _fail(self, wanted: str, token: tuple[str, str, int] | None = None) -> str:
        _, text, place = token or self._peek()
        raise TraceQLError(f"{self.query}: at {place} there is {text}, and not {wanted}")


def _meant(kind: str, text: str) -> Any:
    """The value that a token stands for; durations in seconds."""
    if kind == "string":
        return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] == '"' else text[1:-1]
    if kind == "duration":
        number, unit = re.fullmatch(r"([\d.]+)(\D+)", text).groups()  # type: ignore[union-attr]
        return float(number) * {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}[unit]
    if kind == "number":
        return float(text)
    return {"true": True, "false": False, "nil": None}.get(text, text)


def _compares(field: str, operator: str, value: Any) -> Selects:
    def selects(span: Mapping[str, Any]) -> bool:
        found = span.get(field)
        if operator in {"=", "!="} and value is None:
            return (found is None) == (operator == "=")
        if found is None:
            return False
        if operator in {"=~", "!~"}:
            return bool(re.fullmatch(value, str(found))) == (operator == "=~")
        if operator in {"=", "!="}:
            return bool(found == value) == (operator == "=")
        if isinstance(found, str) or isinstance(value, str):
            return False
        return {"<": found < value, "<=": found <= value, ">": found > value, ">=": found >= value}[operator]

    return selects
