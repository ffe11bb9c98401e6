"""Which functions ``OTEL_PERF_CALLS_WATCH`` names: ``shop.*,db.repo:Repo.*,!shop.hot:*``.

An entry is a module, or a module and a qualified name within it, either with ``*``. ``shop.*`` is the package ``shop``
and all below it. One that begins with ``!`` leaves out what the others name.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import NamedTuple

_NAME = re.compile(r"[\w.*?\[\]-]+")


class Pattern(NamedTuple):
    """One entry."""

    module: str
    function: str  # empty: all of them
    excludes: bool

    def is_for_module(self, name: str) -> bool:
        """Whether functions of the module may be meant."""
        package = self.module.removesuffix(".*")
        return fnmatchcase(name, self.module) or (self.module != package and fnmatchcase(name, package))

    def is_for(self, module: str, function: str) -> bool:
        """Whether the function is meant."""
        return self.is_for_module(module) and (not self.function or fnmatchcase(function, self.function))


class Patterns:
    """All entries of the variable. ``problems`` has a line about each that cannot be one."""

    def __init__(self, text: str) -> None:
        self.problems: list[str] = []
        self._all = [pattern for part in text.split(",") if (pattern := self._parse(part.strip())) is not None]

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
        module, _, function = part.removeprefix("!").partition(":")
        if not _NAME.fullmatch(module) or (function and not _NAME.fullmatch(function)):
            self.problems.append(
                f"OTEL_PERF_CALLS_WATCH: {part!r} names no functions;"
                " allowed: module, module:name, both with *, and ! before what to leave out; left out"
            )
            return None
        return Pattern(module, function, part.startswith("!"))
