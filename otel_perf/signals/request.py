"""What somebody waits for, whether it is there, and what to say when it does not come."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Final

from otel_perf.core.errors import SettingError, SignalFailedError, SignalTimeoutError
from otel_perf.core.records import record
from otel_perf.signals.signal import Signal, checked_key, checked_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from otel_perf.core.errors import SignalAwayError
    from otel_perf.signals.board import Heard, Wait


LONGEST: Final = 10 * 365 * 86_400.0  # seconds: ten years


@record
class Request:
    """Names, all of them or any; ``then``: what whoever waits will emit afterwards, by which a cycle is found."""

    names: tuple[str, ...]
    any_of: bool
    key: str
    scope: str
    then: tuple[str, ...]
    accept_failed: bool

    def answer(self, current: Iterable[Signal]) -> dict[str, Signal] | None:
        """The signals, by name, if that is enough. Raises ``SignalFailedError``."""
        found = {s.name: s for s in current if s.name in self.names and s.key == self.key and s.scope == self.scope}
        failed = [s for s in found.values() if not s.ready]
        if failed and not self.accept_failed and (not self.any_of or len(failed) == len(self.names)):
            raise SignalFailedError(failed)
        good = {name: found[name] for name in self.names if name in found and (self.accept_failed or found[name].ready)}
        enough = bool(good) if self.any_of else len(good) == len(self.names)
        return good if enough else None

    def missing(self, current: Iterable[Signal]) -> tuple[str, ...]:
        """The names that are not there."""
        there = {s.name for s in current if s.key == self.key and s.scope == self.scope}
        return tuple(name for name in self.names if name not in there)


def request(
    names: Sequence[object], *, any_of: bool, key: object, scope: str, then: Iterable[object], accept_failed: bool
) -> Request:
    """A checked one. Raises ``SettingError``."""
    if not names:
        raise SettingError("signals.wait() without a name: give one or more")
    wanted = tuple(dict.fromkeys(map(checked_name, names)))
    return Request(wanted, any_of, checked_key(key), scope, tuple(map(checked_name, then)), accept_failed)


def checked_timeout(timeout: float | None) -> float | None:
    """Seconds, or ``None`` for no bound. Raises ``SettingError``."""
    if timeout is None or timeout == inf:
        return None
    if isinstance(timeout, int | float) and timeout >= 0:
        return min(float(timeout), LONGEST)
    raise SettingError(f"timeout {timeout!r}: it must be 0 or more seconds, or None to wait without a bound")


def timed_out(
    wanted: Request, timeout: float, current: Sequence[Signal], history: Sequence[Signal], heard: Sequence[Heard],
    waits: Sequence[Wait],
) -> SignalTimeoutError:  # fmt: skip
    """The error that names what is missing, who was last heard of, and who waits for whom."""
    missing = wanted.missing(current)
    lines = [f"{name} ({_last(name, wanted, history, heard)})" for name in missing]
    text = f"after {timeout:g} s still missing: {'; '.join(lines)}"
    ring = cycle(waits)
    if ring:
        text += f". A cycle of waiters: {' → '.join(ring)}"
    return SignalTimeoutError(text, missing, tuple(current), ring)


def too_late(timeout: float, error: SignalAwayError, names: tuple[str, ...]) -> SignalTimeoutError:
    """The error of a wait whose board nobody can ask: nothing is known but that it did not come."""
    return SignalTimeoutError(f"after {timeout:g} s: {error}", names)


def _last(name: str, wanted: Request, history: Sequence[Signal], heard: Sequence[Heard]) -> str:
    said = [s for s in history if s.name == name and s.scope == wanted.scope and s.key == wanted.key]
    if not said:
        keys = dict.fromkeys(s.key for s in history if s.name == name and s.scope == wanted.scope)
        if not keys:
            return "never emitted here"
        shown = ", ".join(map(_with_key, list(keys)[:3]))
        return f"emitted {shown}{' and others' if len(keys) > 3 else ''}, not {_with_key(wanted.key)}"
    last = said[-1]
    state = next((h.state for h in heard if h.producer.uid == last.producer.uid), "unknown")
    why = {"lost": "which was killed", "left": "which has ended", "here": "which is there"}.get(state, "not known here")
    ago = max(0.0, (time.time_ns() - last.made_ns) / 1e9)
    return f"last heard of {last.producer}, {why}, {ago:.1f} s ago"


def cycle(waits: Sequence[Wait]) -> tuple[str, ...]:
    """Producers that wait for each other in a ring, and for what: ``("a waits for X", "b waits for Y")``; else empty.

    Who emits what is known from what waiters say that they emit next.
    """
    emitters: dict[tuple[str, str], list[Wait]] = {}
    for wait in waits:
        for name in wait.then:
            emitters.setdefault((wait.scope, name), []).append(wait)

    def steps(wait: Wait) -> Iterator[tuple[str, Wait]]:
        return ((name, other) for name in wait.names for other in emitters.get((wait.scope, name), ()))

    seen: set[str] = set()
    for start in waits:
        if start.uid in seen:
            continue
        seen.add(start.uid)
        path, names, todo = [start], [""], [steps(start)]  # names[n]: what path[n - 1] waits for from path[n]
        while path:
            step = next(todo[-1], None)
            if step is None:
                path.pop(), names.pop(), todo.pop()
            elif step[1] in path:
                first = path.index(step[1])
                wanted = [*names[first + 1 :], step[0]]
                return tuple(f"{w.producer} waits for {n}" for w, n in zip(path[first:], wanted, strict=True))
            elif step[1].uid not in seen:
                seen.add(step[1].uid)
                path.append(step[1])
                names.append(step[0])
                todo.append(steps(step[1]))
    return ()


def _with_key(key: str) -> str:
    return f"with the key {key!r}" if key else "without a key"
