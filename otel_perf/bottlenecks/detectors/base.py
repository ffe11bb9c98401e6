"""What the detectors share."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

from otel_perf.core.settings import Parsed, count

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_perf.bottlenecks.place import Place
    from otel_perf.bottlenecks.stacks import Stack
    from otel_perf.bottlenecks.trace import Trace

FIRST: Final = 3  # times of an operation that may be cold


def _share(value: object) -> float:
    text = str(value).strip()
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _number(value: object) -> float:
    return float(str(value).strip())


Share = Annotated[float, Parsed(_share, "a share from 0 to 1, or a percentage like 25%", 0.0, 1.0)]
Times = Annotated[float, Parsed(_number, "a number of at least 1", 1.0)]
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
    if nanoseconds >= 1e9:
        return f"{nanoseconds / 1e9:.2f} s"
    return f"{nanoseconds / 1e6:.0f} ms" if nanoseconds >= 1e7 else f"{nanoseconds / 1e6:.2g} ms"


def called_from(place: Place | None) -> str:
    """Where a call is made, for a sentence."""
    return "" if place is None else f" from {place}"


def inside(place: Place | None) -> str:
    """Where time was spent, for a sentence."""
    return "" if place is None else f" in {place.function} at {place}"


def most_common(places: Iterable[Place | None]) -> tuple[Place | None, float]:
    """The function seen most, at the line seen most in it, and its share of all."""
    seen = [place for place in places if place is not None]
    if not seen:
        return None, 0.0
    function, number = Counter(place.code for place in seen).most_common(1)[0]
    inside = [place for place in seen if place.code is function]
    line = Counter(place.line for place in inside).most_common(1)[0][0]
    return next(place for place in inside if place.line == line), number / len(seen)


def is_cold(trace: Trace, stacks: Sequence[Stack]) -> bool:
    """Whether it is the start of something and not its usual course.

    That is when half of the stacks import modules; or, the first times of an operation, when half of them are in
    libraries, which fill caches and make connections.
    """
    if sum(stack.importing for stack in stacks) * 2 >= len(stacks):
        return True
    baseline = trace.baselines.of_root(trace.top)
    first = baseline is not None and baseline.seen <= FIRST
    return first and sum(stack.in_library for stack in stacks) * 2 >= len(stacks)


def places(stacks: Iterable[Stack]) -> list[Place | None]:
    """Of the app, of each stack."""
    return [stack.place for stack in stacks]
