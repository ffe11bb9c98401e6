"""Settings: frozen dataclasses whose environment names are derived, checked when they are set.

``OTEL_PERF_<FEATURE>_<FIELD>`` sets a field of a feature's settings. Values are validated by
Pydantic, which is imported only when a variable is set (it costs more than half of a plain start).
A value that cannot be used is a :class:`Problem`: one line that names the variable, the value, what is
allowed and what is used instead; the application still starts.
"""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, get_args, get_origin, get_type_hints

from otel_perf.core.records import record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PREFIX: Final = "OTEL_PERF"
S = TypeVar("S")


@cache
def _duration() -> re.Pattern[str]:
    return re.compile(r"\s*([0-9]*\.?[0-9]+)\s*(us|µs|ms|s|m|min|h|d)?\s*", re.ASCII | re.IGNORECASE)


_DURATION_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@cache
def _size() -> re.Pattern[str]:
    return re.compile(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]i?b?|b)?\s*", re.ASCII | re.IGNORECASE)


_SIZE_UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZE_UNITS_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_duration(value: object) -> float:
    """Seconds from ``"250ms"``, ``"1.5s"``, ``"5m"``, ``"2h"`` or a bare number of seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    match = _duration().fullmatch(str(value))
    if match is None:
        raise ValueError("is not a duration")
    return float(match[1]) * _DURATION_UNITS[(match[2] or "s").lower()]


def parse_size(value: object) -> int:
    """Bytes from ``"512MB"`` (10⁶), ``"1GiB"`` (2³⁰) or a bare number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _size().fullmatch(str(value))
    if match is None:
        raise ValueError("is not a size")
    unit = (match[2] or "").lower().removesuffix("b")
    return int(float(match[1]) * (_SIZE_UNITS_BINARY.get(unit) or _SIZE_UNITS[unit]))


def parse_switch(value: object) -> float:
    """Share of roll-out, 0.0 to 1.0, from ``on``, ``off``, ``true``, ``false`` or ``"25%"``."""
    if isinstance(value, bool):
        return float(value)
    text = str(value).strip().lower()
    if text in {"on", "true", "yes", "1"}:
        return 1.0
    if text in {"off", "false", "no", "0"}:
        return 0.0
    if text.endswith("%"):
        share = float(text[:-1]) / 100.0
        if 0.0 <= share <= 1.0:
            return share
    raise ValueError("is not on, off or a percentage")


class Parsed:
    """Annotation that reads a unit or keyword before Pydantic checks the type and bounds."""

    __slots__ = ("allowed", "least", "most", "parse")

    def __init__(
        self, parse: Callable[[object], Any], allowed: str, least: float | None = None, most: float | None = None
    ) -> None:
        self.parse = parse
        self.allowed = allowed
        self.least = least
        self.most = most

    def _read(self, value: object) -> Any:
        parsed = self.parse(value)
        if isinstance(parsed, float) and math.isnan(parsed):  # which no bound would catch
            raise ValueError("is not a number")
        if (self.least is not None and parsed < self.least) or (self.most is not None and parsed > self.most):
            raise ValueError("is out of range")
        return parsed

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self._read, handler(source))


def _number(value: object) -> int:
    return int(str(value).strip())


def count(least: int = 0, most: int | None = None) -> Parsed:
    """A whole number from ``least`` to ``most``."""
    text = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    return Parsed(_number, text, least, most)


def parse_url(value: object) -> str:
    """A URL that can be posted to."""
    from urllib.parse import urlsplit

    text = str(value).strip()
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("is not a URL")
    return text


Duration = Annotated[float, Parsed(parse_duration, "a number with us, ms, s, m or h, like 250ms", 0.0)]
Size = Annotated[int, Parsed(parse_size, "bytes, or a number with kB, MB, GB, KiB, MiB or GiB", 0)]
Url = Annotated[str, Parsed(parse_url, "a URL like https://host/path")]
Switch = Annotated[float, Parsed(parse_switch, "on, off or a percentage like 25%", 0.0, 1.0)]


@record
class Problem:
    """A setting that could not be used."""

    variable: str
    value: str
    reason: str
    allowed: str
    used: str

    def __str__(self) -> str:
        return f"{self.variable}={self.value!r} {self.reason}; allowed: {self.allowed}; using {self.used}"


def variable(feature: str, field: str) -> str:
    """The environment variable of a field, e.g. ``OTEL_PERF_STORE_LIMIT``."""
    return f"{PREFIX}_{feature}_{field}".upper()


def allowed_values(hint: Any) -> str:
    """What a field takes, in words for a user."""
    if get_origin(hint) is Annotated:
        for mark in get_args(hint)[1:]:
            if isinstance(mark, Parsed):
                return mark.allowed
        hint = get_args(hint)[0]
    if hint is bool:
        return "on, off, true or false"
    return {int: "a whole number", float: "a number", str: "text"}.get(hint, str(hint))


def read(hint: Any, name: str, raw: str, default: object) -> tuple[Any, Problem | None]:
    """Validate one raw value against ``hint``; on failure return ``default`` and the problem."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(hint).validate_python(raw), None
    except ValidationError as error:
        reason = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        if not reason.startswith("is "):
            reason = "cannot be used"
        if parse_url in _parsers(hint):
            raw = _without_path(raw)
        return default, Problem(name, raw, reason, allowed_values(hint), f"{default}" or "none")


def _parsers(hint: Any) -> list[object]:
    """What reads a field: ``Url``, or ``Url | None``."""
    inner = [found for part in get_args(hint) if get_origin(part) is Annotated for found in _parsers(part)]
    return [mark.parse for mark in get_args(hint) if isinstance(mark, Parsed)] + inner


def _without_path(url: str) -> str:
    """A URL as far as it may be shown: who has a webhook's path may post to it."""
    scheme, host, rest = re.match(r"(\w*:?//)?([^/?#]*)(.*)", url, re.DOTALL).groups("")  # type: ignore[union-attr]
    return f"{scheme}{host.rpartition('@')[2]}{rest and '/…'}"


def load(kind: type[S], feature: str, environ: Mapping[str, str]) -> tuple[S, list[Problem]]:
    """Build ``kind`` from the environment. Never raises for a wrong value: it is a :class:`Problem`."""
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    hints: dict[str, Any] | None = None
    for item in fields(kind):  # type: ignore[arg-type]
        name = variable(feature, item.name)
        raw = environ.get(name, "").strip()
        if not raw:
            continue
        if hints is None:
            hints = get_type_hints(kind, include_extras=True)
        default = item.default if item.default is not MISSING else None
        value, problem = read(hints[item.name], name, raw, default)
        if problem is None:
            values[item.name] = value
        else:
            problems.append(problem)
    return kind(**values), problems
