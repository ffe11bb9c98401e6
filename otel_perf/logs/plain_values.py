"""Makes of any value one that JSON can carry, without secrets and within a budget; never raises for what it is given.

An application logs what it likes: texts of 10 MB, lists that hold themselves, objects whose ``repr`` fails. Nothing
here calls a method that a subclass of a built-in type may have overridden; of other objects it calls ``repr`` or, for
dates, numbers, paths and identifiers, ``str``.
"""

from __future__ import annotations

import datetime as dt
import enum
import pathlib
import sys
import uuid
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from otel_perf.logs.secret_keys import VALUES
from otel_perf.logs.secret_texts import MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_perf.logs.redaction import Redactor

DEPTH: Final = 8  # levels of nested containers
MARGIN: Final = 8192  # characters: no secret that is cut in two by a limit is longer than that, so that none is missed
DEEPER: Final = "…[deeper]"
LARGEST: Final = 2**63  # integers beyond are texts: Elasticsearch refuses a document that has one
_BY_STR: Final = (dt.date, dt.time, dt.timedelta, uuid.UUID, pathlib.PurePath)
_NAME: Final = 256  # characters of a key
SUSPECT: Final = 12  # characters of a key that may hold a secret: things are kept by their token or address


def cut_mark(size: int) -> str:
    """What stands where a text of ``size`` characters was cut."""
    return f"…[cut, {size} characters]"


def fit(text: str, limit: int, scrub: Callable[[str], str] | None) -> str:
    """``text`` without secrets, and cut to ``limit`` characters and a mark that says so if it is longer."""
    size = len(text)
    if size <= limit:
        return text if scrub is None else scrub(text)
    window = text[: limit + MARGIN]
    if scrub is not None:
        window = scrub(window)
    end = limit if size <= limit + MARGIN else min(limit, max(0, len(window) - MARGIN))
    return window[:end] + cut_mark(size)


def fit_ends(text: str, limit: int, scrub: Callable[[str], str] | None) -> str:
    """As :func:`fit`, but keeps the end as well, where a traceback has what matters."""
    size = len(text)
    if size <= limit + 2 * MARGIN:
        clean = text if scrub is None else scrub(text)
        if len(clean) <= limit:
            return clean
        return clean[: limit // 4] + cut_mark(size) + clean[len(clean) - (limit - limit // 4) :]
    head, tail = text[: limit // 4 + MARGIN], text[size - (limit - limit // 4) - MARGIN :]
    if scrub is not None:
        head, tail = scrub(head), scrub(tail)
    return head[: max(0, len(head) - MARGIN)] + cut_mark(size) + tail[MARGIN:]


def type_name(value: object) -> str:
    """The name of a value's type, whatever its metaclass makes of names."""
    try:
        return str.__str__(type.__dict__["__name__"].__get__(type(value)))
    except Exception:
        return "object"


def text_of(value: object, by: Callable[[object], object] = str) -> str:
    """``str(value)`` (or ``repr``) as a plain ``str``, whatever that raises or returns."""
    kind = type(value)
    if kind is str and by is str:
        return value  # type: ignore[return-value]
    try:
        made = by(value)
        return made if type(made) is str else str.__str__(made)
    except Exception:
        if issubclass(kind, str):
            return str.__str__(value)
        if kind is int:  # more digits than Python writes
            return f"<int of {value.bit_length()} bits>"  # type: ignore[attr-defined]
        return f"<{type_name(value)} whose {by.__name__}() fails>"


class PlainValues:
    """The values of one record. ``left``: what they may still take, in characters; ``cut``: something was left out."""

    __slots__ = ("_redactor", "_scrub", "cut", "left")

    def __init__(self, redactor: Redactor | None, left: int) -> None:
        self._redactor = redactor
        self._scrub = None if redactor is None else redactor.text
        self.left = left
        self.cut = False

    def mapping(self, items: Iterable[tuple[object, object]], depth: int = DEPTH) -> dict[str, Any]:
        """Keys as texts, values as plain ones, until the budget is spent."""
        made: dict[str, Any] = {}
        pairs = list(items)
        labelled = self._redactor is not None and self._redactor.labels(pairs)
        for key, value in pairs:
            if self.left <= 0:
                self.cut = True
                break
            name = shown = text_of(key)
            if len(name) >= SUSPECT:
                shown = fit(name, _NAME, self._scrub)
                self.cut = self.cut or len(name) > _NAME
            self.left -= len(shown) + 6
            made[shown] = self._field(name, value, depth, labelled=labelled)
        return made

    def _field(self, name: str, value: object, depth: int, *, labelled: bool = False) -> Any:
        redactor = self._redactor
        hides = redactor is not None and value is not None and type(value) is not bool
        if hides and (redactor.is_secret(name) or (labelled and name in VALUES)):  # type: ignore[union-attr]
            return MARK
        return self.value(value, depth)

    def value(self, value: Any, depth: int = DEPTH) -> Any:
        """``value`` as something that JSON can carry."""
        try:
            return self._value(value, depth)
        except Exception:  # RecursionError, a container that changes meanwhile, a __class__ that fails
            return f"<{type_name(value)} that cannot be read>"

    def _value(self, value: Any, depth: int) -> Any:  # noqa: C901, PLR0911  one branch a kind
        kind = type(value)
        if kind is str:
            return self._text(value)
        if value is None or kind is bool:
            self.left -= 4
            return value
        if kind is int:
            self.left -= 8
            return value if -LARGEST <= value < LARGEST else self._text(text_of(value))
        if kind is float:
            self.left -= 8
            return value if value - value == 0.0 else None  # as msgspec has it: JSON knows no NaN and no infinity
        if issubclass(kind, enum.Enum) and not issubclass(kind, str | int | float):
            return self._value(value.value, depth - 1) if depth > 0 else DEEPER
        if issubclass(kind, str):
            return self._text(str.__str__(value))
        if issubclass(kind, int):
            return self._value(int.__pos__(value), depth)
        if issubclass(kind, float):
            return self._value(float.__pos__(value), depth)
        if issubclass(kind, bytes | bytearray):
            return self._text(bytes(value[: self.left + MARGIN]).decode("utf-8", "backslashreplace"))
        if issubclass(kind, _BY_STR) or issubclass(kind, getattr(sys.modules.get("decimal"), "Decimal", ())):
            return self._text(text_of(value))
        if issubclass(kind, dict | list | tuple | set | frozenset | Mapping):
            if depth <= 0:
                self.cut = True
                return DEEPER
            return self._container(value, kind, depth)
        return self._text(text_of(value, repr))

    def _text(self, text: str) -> str:
        room = max(self.left, 0)
        if len(text) > room:
            self.cut = True
        made = fit(text, room, self._scrub)
        self.left -= len(made) + 3
        return made

    def _container(self, value: Any, kind: type, depth: int) -> Any:
        most = max(self.left, 0) // 2 + 1  # no item takes less
        if issubclass(kind, Mapping):
            pairs = list(islice(dict.items(value) if issubclass(kind, dict) else value.items(), most))
            made = self.mapping(pairs, depth - 1)
            return self._counted(made, dict.__len__(value)) if issubclass(kind, dict) else made
        base = next(base for base in (list, tuple, set, frozenset) if issubclass(kind, base))
        items: list[Any] = []
        before: Any = None
        for item in list(islice(base.__iter__(value), most)):
            if self.left <= 0:
                break
            self.left -= 2
            hidden = None
            if type(before) is str and before[:1] == "-" and self._redactor is not None:
                hidden = self._redactor.argument(before, item)
            items.append(self._item(item, depth - 1) if hidden is None else self._text(hidden))
            before = item
        return self._counted(items, base.__len__(value))

    def _item(self, item: Any, depth: int) -> Any:
        # Headers and the like: a list of pairs.
        if type(item) in {list, tuple} and len(item) == 2 and type(item[0]) in {str, bytes} and depth > 0:
            first = self.value(item[0], depth - 1)
            return [first, self._field(first, item[1], depth - 1)]
        return self.value(item, depth)

    def _counted(self, made: Any, size: int) -> Any:
        if len(made) < size:
            self.cut = True
        return made
