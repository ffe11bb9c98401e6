"""Fingerprints of SQL: the statement without its literals, short enough to be read."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

STATEMENTS: Final = 1_000  # remembered
LONGEST_STATEMENT: Final = 20_000  # characters; a longer one is looked at up to there
LONGEST: Final = 160  # characters of a fingerprint
COLUMNS: Final = 3  # commas in a list of columns, from which on it is "…"
_NO_SPACE_BEFORE: Final = frozenset({",", ")", ".", ";", "::"})
_NO_SPACE_AFTER: Final = frozenset({"(", ".", "::"})
_STRINGS_IN_DOUBLE_QUOTES: Final = frozenset({"mysql", "mariadb"})


@lru_cache(maxsize=STATEMENTS)
def fingerprint(statement: str, system: str = "") -> str:
    """``statement`` with every literal, parameter and list of them as ``?``, comments gone, columns cut to ``…``.

    Tokenised by sqlparse; what that cannot read is told by its first word only, so that no literal gets through.
    ``system`` is the convention's name of the database: MySQL has strings in double quotes. About 20 µs a token,
    once for each statement. Thread-safe.
    """
    from sqlparse import lexer

    tokens: Any = lexer.tokenize(statement[:LONGEST_STATEMENT])  # type: ignore[no-untyped-call]
    words = _words(list(tokens), system in _STRINGS_IN_DOUBLE_QUOTES)
    if words is None:
        return f"{(statement.split() or ['?'])[0][:20].upper()} …"
    text, before = "", "("
    for word in _folded(words):
        call = word == "(" and before.isidentifier() and not before.isupper()
        glued = word in _NO_SPACE_BEFORE or before in _NO_SPACE_AFTER or call
        text += word if glued else f" {word}"
        before = word
    return _short(text)


def _words(tokens: list[tuple[Any, str]], quoted_strings: bool) -> list[str] | None:
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
        if kind in kinds.Literal.String.Symbol:  # in double quotes, where careless SQL has values too
            compared = index > 0 and meant[index - 1][0] in kinds.Operator and following != "."
            words.append("?" if quoted_strings or compared else text)
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
