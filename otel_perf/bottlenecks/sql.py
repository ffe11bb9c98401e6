"""Fingerprints of SQL: the statement without its literals, short enough to be read."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STATEMENTS: Final = 1_000  # remembered
LONGEST_STATEMENT: Final = 5_000  # characters; of a longer one only the first word is told
LONGEST: Final = 160  # characters of a fingerprint
_ESCAPED: Final = re.compile(r"\b[eE]'[^']*\\")  # PostgreSQL's strings with escapes
LONGEST_WORD: Final = 20
_NAMING: Final = frozenset({"FROM", "JOIN", "INTO", "UPDATE", "TABLE", "AS", "INDEX", "VIEW"})
COLUMNS: Final = 3  # commas in a list of columns, from which on it is "…"
_NO_SPACE_BEFORE: Final = frozenset({",", ")", ".", ";", "::"})
_NO_SPACE_AFTER: Final = frozenset({"(", ".", "::"})
_STRINGS_IN_DOUBLE_QUOTES: Final = frozenset({"mysql", "mariadb"})
# Where double quotes are names and nothing else; elsewhere, SQLite among them, careless SQL has values in them.
_NAMES_IN_DOUBLE_QUOTES: Final = frozenset(
    {
        "postgresql",
        "oracle",
        "oracle.db",
        "mssql",
        "microsoft.sql_server",
        "cockroachdb",
        "redshift",
        "aws.redshift",
        "snowflake",
    }
)


def fingerprint(statement: str, system: str = "") -> str:
    """``statement`` with every literal, parameter and list of them as ``?``, comments gone, columns cut to ``…``.

    Tokenised by sqlparse; what that cannot read is told by its first word only, so that no literal gets through.
    ``system`` is the convention's name of the database: MySQL has strings in double quotes. About 20 µs a token,
    once for each statement. Thread-safe.
    """
    if len(statement) > LONGEST_STATEMENT or _ESCAPED.search(statement):
        return _first_word(statement)
    if system not in _STRINGS_IN_DOUBLE_QUOTES:
        statement = statement.replace("\\", "\\\\")  # only MySQL escapes by it, and so does the tokenizer
    return _fingerprint(statement, system)


def _first_word(statement: str) -> str:
    word = (statement[:200].split() or ["?"])[0]
    return f"{word.upper() if word.isalpha() and len(word) <= LONGEST_WORD else '?'} …"


@lru_cache(maxsize=STATEMENTS)
def _fingerprint(statement: str, system: str) -> str:
    from sqlparse import lexer

    tokens: Any = lexer.tokenize(statement)  # type: ignore[no-untyped-call]
    words = _words(list(tokens), system)
    if words is None:
        return _first_word(statement)
    text, before = "", "("
    for word in _folded(words):
        call = word == "(" and before.isidentifier() and not before.isupper()
        glued = word in _NO_SPACE_BEFORE or before in _NO_SPACE_AFTER or call
        text += word if glued else f" {word}"
        before = word
    return _short(text)


def _words(tokens: list[tuple[Any, str]], system: str) -> list[str] | None:
    """The words of a statement, or ``None`` if it cannot be read."""
    from sqlparse import tokens as kinds

    meant = [
        (kind, text.strip()) for kind, text in tokens if kind not in kinds.Whitespace and kind not in kinds.Comment
    ]
    words: list[str] = []
    for index, (kind, text) in enumerate(meant):
        following = meant[index + 1][1] if index + 1 < len(meant) else ""
        if kind in kinds.Error:
            return None
        if kind in kinds.Literal.String.Symbol:  # in double quotes
            before = meant[index - 1] if index else (kinds.Keyword, "")
            named = (
                before[1] == "." or following == "." or (before[0] in kinds.Keyword and before[1].upper() in _NAMING)
            )
            sure = system in _NAMES_IN_DOUBLE_QUOTES
            words.append(text if system not in _STRINGS_IN_DOUBLE_QUOTES and (named or sure) else "?")
        elif kind in kinds.Literal or kind in kinds.Name.Placeholder or (kind in kinds.Name and text.startswith("@")):
            words.append("?")
        elif kind in kinds.Keyword:
            words.append(" ".join(text.upper().split()))
        else:
            words.append(text)
    return words


def _folded(words: Iterable[str]) -> Iterator[str]:
    """``?, ?, ?`` is one ``?``, and so is ``(?), (?)``: a batch is the same statement, whatever its size."""
    made: list[str] = []
    for word in words:
        made.append(word)
        if made[-3:] == ["?", ",", "?"]:
            del made[-2:]
        elif made[-7:] == ["(", "?", ")", ",", "(", "?", ")"]:
            del made[-4:]
    return iter(made)


def _short(text: str) -> str:
    text = text.strip()
    start, found, rest = text.partition(" FROM ")
    if found and start.startswith("SELECT ") and start.count(",") >= COLUMNS:
        text = f"SELECT … FROM {rest}"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
