"""The body of a record: one JSON text for one value, made when the event is, so that later changes do not reach it.

Canonical: keys sorted, no spaces, ASCII only, numbers as Python prints them. What JSON cannot carry exactly is refused,
with the name of the field; nothing becomes its ``repr``.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from otel_perf.core.errors import SettingError
from otel_perf.logs.secret_keys import VALUES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Items = Iterable[tuple[Any, Any]]

LONGEST: Final = 1_000_000  # bytes of a body
LONGEST_NAME: Final = 1_000  # characters of a name, an actor, a target, an outcome
DEPTH: Final = 16  # lists and dicts within each other
_ALLOWED: Final = (
    "text, a whole number of 64 bits, a finite number, True, False, None, a list, or a dict with text keys"
)
_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False)


def canonical(value: Any) -> bytes:
    """The one encoding of a value that :class:`Fields` let pass, or that we made."""
    return _encoder.encode(value).encode("ascii")


def text(event: str, argument: str, value: object) -> str:
    """``value`` if it can name something; raises ``SettingError`` else."""
    if not isinstance(value, str):
        raise SettingError(f"audit_event({event}): {argument} is of type {type(value).__name__}; it must be text")
    if not 0 < len(value) <= LONGEST_NAME:
        raise SettingError(
            f"audit_event({event}): {argument} has {len(value):,} characters; it must have 1 to {LONGEST_NAME:,}"
        )
    return value


class Fields:
    """Copies the fields of one event, and hides those whose key names a secret.

    A record cannot be taken back out of the chain, and a call must not fail for the name of a field: so the value is
    replaced, in lists and dicts as well, and the key stays. What a text holds is not looked at: an audit record says
    exactly what it was given.
    """

    __slots__ = ("_event", "_is_secret", "_labels", "_left", "_mark")

    def __init__(
        self, event: str, is_secret: Callable[[str], bool], labels: Callable[[Items], bool], mark: str
    ) -> None:
        """``labels`` tells of the items of a mapping whether they name the secret that is its value."""
        self._event = event
        self._is_secret = is_secret
        self._labels = labels
        self._mark = mark
        self._left = LONGEST

    def copy(self, fields: Mapping[str, object]) -> dict[str, Any]:
        """The fields as they are stored. Raises ``SettingError`` for what cannot be."""
        labelled = self._labels(fields.items())
        return {key: self._value(f"field {key!r}", key, value, DEPTH, labelled) for key, value in fields.items()}

    def _value(self, path: str, key: str, value: object, depth: int, labelled: bool) -> Any:
        hidden = key and (self._is_secret(key) or (labelled and key in VALUES))
        return self._mark if hidden else self._plain(path, value, depth)

    def _plain(self, path: str, value: object, depth: int) -> Any:
        self._left -= 1 + (len(value) if isinstance(value, str) else 0)
        if self._left < 0:
            raise self._refused(path, f"makes the record larger than {LONGEST:,} bytes; store the rest elsewhere")
        if value is None or isinstance(value, str | bool):
            return value
        if isinstance(value, int):
            if -(2**63) <= value < 2**63:
                return int(value)
            raise self._refused(path, "is a whole number of more than 64 bits; write it as text")
        if isinstance(value, float):
            if math.isfinite(value):
                return float(value)
            raise self._refused(path, "is not a finite number; write it as text")
        if isinstance(value, dict | list | tuple):
            if not depth:
                raise self._refused(path, f"is nested deeper than {DEPTH}, perhaps within itself")
            return self._dict(path, value, depth) if isinstance(value, dict) else self._list(path, value, depth)
        raise self._refused(path, f"is of type {type(value).__name__}; it must be {_ALLOWED}")

    def _dict(self, path: str, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        made = {}
        items = list(dict.items(value))  # a copy in one step: another thread may change it
        labelled = self._labels(items)
        for key, item in items:
            if not isinstance(key, str):
                raise self._refused(path, f"has a key of type {type(key).__name__}; keys must be text")
            self._left -= len(key)
            made[key] = self._value(f"{path}[{key[:100]!r}]", key, item, depth - 1, labelled)
        return made

    def _list(self, path: str, value: list[Any] | tuple[Any, ...], depth: int) -> list[Any]:
        if len(value) > self._left:
            raise self._refused(path, f"has {len(value):,} items; a record holds {LONGEST:,} bytes")
        return [self._plain(f"{path}[{place}]", item, depth - 1) for place, item in enumerate(tuple(value))]

    def _refused(self, path: str, why: str) -> SettingError:
        return SettingError(f"audit_event({self._event}): {path} {why}")
