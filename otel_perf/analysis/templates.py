"""Finds the templates of log lines from their texts: which words stay, and which change from line to line.

After Drain (He, Zhu, Zheng and Lyu, ICWS 2017): lines with as many words and the same first word are compared with the
templates known so far; one that is alike enough takes the line, and words in which they differ become a wildcard. What
is a number, an id or an address is a wildcard from the start.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

G = TypeVar("G")
T = TypeVar("T")

ANY: Final = "<*>"
ALIKE: Final = 0.6  # share of the words that a line has in common with its template
WIDTH: Final = 300  # characters of a line that are looked at
NEIGHBOURS: Final = 100  # templates of one length and beginning, among which the most alike is looked for
LIMIT: Final = 2_000  # templates
KNOWN: Final = 20_000  # texts whose template is remembered

_VARIABLE: Final = re.compile(
    r"""(?<![A-Za-z_0-9])(?:                                    # utf8 and sha256 are words
        \d{4}-\d\d-\d\d[T ]\d\d:\d\d[:.,0-9]*(?:Z|[+-]\d\d:?\d\d)?
      | [0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}  # a UUID
      | 0[xX][0-9a-fA-F]+
      | (?=[a-fA-F]*[0-9])[0-9a-fA-F]{8,}(?![A-Za-z_])        # a hash or an id
      | [0-9][0-9.,:]*(?:[0-9]|(?=\s|$))                      # a number, a time, an address
      | [0-9]
    )""",
    re.VERBOSE,
)


class Found(Generic[G, T]):
    """A template, its group, and what was gathered of its lines."""

    __slots__ = ("group", "value", "words")

    def __init__(self, group: G, words: list[str], value: T) -> None:
        self.group = group
        self.words = words
        self.value = value

    def __str__(self) -> str:
        return " ".join(self.words)


class Templates(Generic[G, T]):
    """Templates of the lines of each group (a logger and level); ``make`` begins what is gathered of one.

    About 10 µs a line that is new, 0.5 µs for a text that was seen. Memory: at most 2,000 templates; lines beyond them
    are of the group ``rest``.
    """

    def __init__(self, make: Callable[[], T], rest: G) -> None:
        self._make = make
        self._near: dict[tuple[G, int, str], list[Found[G, T]]] = {}
        self._known: dict[tuple[G, str], Found[G, T]] = {}
        self._rest = rest
        self.all: list[Found[G, T]] = []

    def of(self, group: G, text: str) -> T:
        """What is gathered of the template of ``text``."""
        line = text.lstrip()[:WIDTH].partition("\n")[0]
        known = self._known.get((group, line))
        if known is None:
            known = self._find(group, _VARIABLE.sub(ANY, line).split() or [""])
            if len(self._known) < KNOWN:
                self._known[group, line] = known
        return known.value

    def _find(self, group: G, words: list[str]) -> Found[G, T]:
        key = group, len(words), "" if ANY in words[0] else words[0]
        near = self._near.get(key, [])
        best, most = None, 0.0
        for found in near:
            same = sum(map(str.__eq__, found.words, words)) / len(words)
            if same > most:
                best, most = found, same
        full = len(self.all) >= LIMIT
        if best is not None and (most >= ALIKE or full or len(near) >= NEIGHBOURS):
            best.words = [a if a == b else ANY for a, b in zip(best.words, words, strict=True)]
            return best
        if full and group != self._rest:
            return self._find(self._rest, ["(others)"])
        found = Found(group, words, self._make())
        self._near.setdefault(key, []).append(found)
        self.all.append(found)
        return found
