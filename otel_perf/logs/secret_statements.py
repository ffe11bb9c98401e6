"""Hides secrets in SQL whose values stand apart from their names: an INSERT's, and parameters told beside it."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = 100_000  # characters of a text in which names are looked for
_SINGLE = r"'(?:[^'\\]++|\\.|'')*+(?:'|$)"
_DOUBLE = r"\"(?:[^\"\\]++|\\.|\"\")*+(?:\"|$)"  # MySQL's texts


@cache
def _insert() -> re.Pattern[str]:
    return re.compile(
        r"(?:insert|replace)(?:\s{1,4}\w{1,12}){0,2}\s{1,4}into\s[^()]{1,200}\(([^()]{1,4000})\)\s{0,8}values\s{0,8}"
        rf"((?:\((?:[^()'\"]++|{_SINGLE}|{_DOUBLE}|\([^()]{{0,400}}\))*+\)?\s{{0,4}},?\s{{0,4}})++)",
        re.IGNORECASE | re.DOTALL,
    )


@cache
def _literals() -> re.Pattern[str]:
    return re.compile(rf"{_SINGLE}|{_DOUBLE}|(?<![\w$:%.@])\d[\w.]*+", re.DOTALL)


@cache
def _parameters() -> re.Pattern[str]:
    return re.compile(r"\[parameters: [^\n]*+")


@cache
def _arguments() -> re.Pattern[str]:
    return re.compile(r"; args=[(\[{][^\n]*?(?=; alias=|\n|\Z)")


def without_values(text: str, is_secret: Callable[[str], bool], mark: str) -> str:
    """``text`` with ``mark`` for values of an INSERT, and for parameters, where a column's name is one of secrets.

    Parameters are those that SQLAlchemy tells in its errors and Django in its log of queries.
    """
    if "nsert" in text or "NSERT" in text or "eplace" in text or "EPLACE" in text:

        def hidden(found: re.Match[str]) -> str:
            if not any(map(is_secret, re.findall(r"\w+", found[1]))):
                return found[0]
            return found[0][: found.start(2) - found.start()] + _literals().sub(marked, found[2])

        def marked(found: re.Match[str]) -> str:
            quote = found[0][0] if found[0][0] in "\"'" else ""
            return f"{quote}{mark}{quote}"

        text = _insert().sub(hidden, text)
    of_sqlalchemy, of_django = "[parameters: " in text and "[SQL: " in text, "; args=" in text
    if (of_sqlalchemy or of_django) and any(map(is_secret, re.findall(r"\w+", text[:_LONGEST]))):
        if of_sqlalchemy:
            text = _parameters().sub(f"[parameters: {mark}]", text)
        if of_django:
            text = _arguments().sub(f"; args={mark}", text)
    return text
