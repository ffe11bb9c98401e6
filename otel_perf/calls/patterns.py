"""Which functions ``OTEL_PERF_CALLS_WATCH`` names: ``shop.*,db.repo:Repo,!shop.hot:*``.

An entry is a module, or a module and a qualified name within it, either with ``*``. ``shop.*`` is the package ``shop``
and all below it, ``db.repo:Repo`` a function or all of a class. One that begins with ``!`` leaves out what the others
name. A ``*`` in the first part does not mean the standard library, whose packages have to be named.
"""

from __future__ import annotations

import re
import sys
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

VARIABLE: Final = "OTEL_PERF_CALLS_WATCH"
_PART: Final = r"[\w*?\[\]-]+"
_WILD: Final = re.compile(r"[^.]*[*?\[]")
_NAME: Final = re.compile(rf"{_PART}(\.{_PART})*")


class Pattern(NamedTuple):
    """One entry."""

    module: str
    function: str  # empty: all of them
    excludes: bool

    def is_for_module(self, name: str) -> bool:
        """Whether functions of the module may be meant."""
        if not self.excludes and _WILD.match(self.module) and name.partition(".")[0] in sys.stdlib_module_names:
            return False
        package = self.module.removesuffix(".*")
        return fnmatchcase(name, self.module) or (self.module != package and fnmatchcase(name, package))

    def is_for(self, module: str, function: str) -> bool:
        """Whether the function is meant."""
        if not self.is_for_module(module):
            return False
        return not self.function or _is_within(function, self.function)


def _is_within(name: str, pattern: str) -> bool:
    """Whether ``name`` or a class that it is part of matches."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


class Patterns:
    """All entries of the variable. ``problems`` has a line about each that cannot be one."""

    def __init__(self, text: str) -> None:
        self.problems: list[str] = []
        self._all = [pattern for part in text.split(",") if (pattern := self._parse(part.strip())) is not None]
        if self._all and not self:
            self.problems.append(f"{VARIABLE}: {text!r} says only what to leave out; nothing is watched")

    def is_for_module(self, name: str) -> bool:
        """Whether the module may hold a function that is meant."""
        return any(not pattern.excludes and pattern.is_for_module(name) for pattern in self._all) and not any(
            pattern.excludes and not pattern.function and pattern.is_for_module(name) for pattern in self._all
        )

    def is_for(self, module: str, function: str) -> bool:
        """Whether the function is meant."""
        found = [pattern.excludes for pattern in self._all if pattern.is_for(module, function)]
        return bool(found) and not any(found)

    def __bool__(self) -> bool:
        return any(not pattern.excludes for pattern in self._all)

    def _parse(self, part: str) -> Pattern | None:
        if not part:
            return None
        module, colon, function = part.removeprefix("!").partition(":")
        if not _NAME.fullmatch(module) or (colon and not _NAME.fullmatch(function)):
            self.problems.append(
                f"{VARIABLE}: {part!r} names no functions;"
                " allowed: module, module:name, both with *, and ! before what to leave out; left out"
            )
            return None
        return Pattern(module, function, part.startswith("!"))
