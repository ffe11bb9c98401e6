"""What the detectors share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

from otel_perf.core.settings import Parsed, count

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_perf.bottlenecks.place import Place
    from otel_perf.bottlenecks.record import Record
    from otel_perf.bottlenecks.stacks import Stack

LEAST: Final = 0.005  # seconds: a finding that would save less is none


def _share(value: object) -> float:
    text = str(value).strip()
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


Share = Annotated[float, Parsed(_share, "a share from 0 to 1, or a percentage like 25%", 0.0, 1.0)]
Count = Annotated[int, count(2)]


def setting(default: Any, doc: str) -> Any:
    """A field of a detector's settings."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class Switched:
    """A detector that can be turned off."""

    enabled: bool = setting(True, "Look for it.")


def ms(nanoseconds: float) -> str:
    """For a sentence."""
    return f"{nanoseconds / 1e9:.2f} s" if nanoseconds >= 1e9 else f"{nanoseconds / 1e6:.0f} ms"


def at(place: Place | None) -> str:
    """The end of a sentence."""
    return "" if place is None else f" from {place}"


def most_common(places: Iterable[Place | None]) -> tuple[Place | None, float]:
    """The function seen most, at the line seen most in it, and its share of all."""
    seen = [place for place in places if place is not None]
    if not seen:
        return None, 0.0
    function, number = Counter(place.code for place in seen).most_common(1)[0]
    inside = [place for place in seen if place.code is function]
    line = Counter(place.line for place in inside).most_common(1)[0][0]
    return next(place for place in inside if place.line == line), number / len(seen)


def places(stacks: Iterable[Stack]) -> list[Place | None]:
    """Of the app, of each stack."""
    return [stack.place for stack in stacks]


def name(record: Record) -> str:
    """Of a span, for a sentence."""
    return record.name
