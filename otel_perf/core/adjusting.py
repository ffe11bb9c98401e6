"""Settings that the flag file changes while the program runs: flag ``perf.logs.rate`` is ``OTEL_PERF_LOGS_RATE``.

The environment comes first, as it does for features; a value that cannot be used is one line and no change.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final, get_type_hints

from otel_perf.core.records import entity
from otel_perf.core.rollout import FLAG_PREFIX, Rollout
from otel_perf.core.settings import Problem, read, variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Apply = Callable[[Any], None]
    Tell = Callable[[str, str, str], None]  # the flag's key, its value, where it comes from

DEFAULT: Final = "default"


@entity
class _Watched:
    """One feature's settings, and who wants to know when they change."""

    feature: str
    given: Any  # as the environment has them
    now: Any
    flags: tuple[str, ...]  # the fields that flags may change: the environment does not say them
    apply: Apply


class Adjustments:
    """All that may change. Not thread-safe: the pipeline calls it under its lock."""

    def __init__(self, rollout: Rollout, environ: Mapping[str, str], tell: Tell) -> None:
        self._rollout = rollout
        self._environ = environ
        self._tell = tell
        self._watched: list[_Watched] = []

    def add(self, feature: str, settings: Any, names: Sequence[str], apply: Apply) -> Callable[[], None]:
        """Call ``apply`` with the settings now, and again whenever flags change one of the fields ``names``.

        The returned function ends it.
        """
        flags = tuple(name for name in names if not self._is_given(feature, settings, name))
        watched = _Watched(feature, settings, settings, flags, apply)
        watched.now = self._resolve(watched, {})
        apply(watched.now)
        self._watched.append(watched)

        def remove() -> None:
            if watched in self._watched:
                self._watched.remove(watched)

        return remove

    def look(self) -> None:
        """The flags were read again: have what changed applied, and tell of it."""
        for watched in tuple(self._watched):
            sources: dict[str, tuple[str, str]] = {}
            before, after = watched.now, self._resolve(watched, sources)
            if after == before:
                continue
            watched.now = after
            watched.apply(after)
            for name in watched.flags:
                if getattr(after, name) != getattr(before, name):
                    value, source = sources.get(name, (f"{getattr(after, name)}", DEFAULT))
                    self._tell(f"{FLAG_PREFIX}{watched.feature}.{name}", value, source)

    def _is_given(self, feature: str, settings: Any, name: str) -> bool:
        """Whether the environment says it. One whose value was wrong does not, so that a flag still may."""
        raw = self._environ.get(variable(feature, name), "").strip()
        if not raw:
            return False
        value, problem = read(_hint(settings, name), name, raw, None)
        return problem is None and value == getattr(settings, name)

    def _resolve(self, watched: _Watched, sources: dict[str, tuple[str, str]]) -> Any:
        values: dict[str, Any] = {}
        for name in watched.flags:
            answer = self._rollout.text(f"{watched.feature}.{name}")
            if answer is None:
                values[name] = getattr(watched.given, name)
                continue
            key = f"{FLAG_PREFIX}{watched.feature}.{name}"
            value, problem = read(_hint(watched.given, name), key, answer[0], None)
            if problem is None:
                values[name], sources[name] = value, answer
            else:
                values[name] = getattr(watched.now, name)
                self._rollout.complain(Problem(key, answer[0], problem.reason, problem.allowed, "what it was"))
        return replace(watched.given, **values)


def _hint(settings: Any, name: str) -> Any:
    known = {item.name for item in fields(settings)}
    if name not in known:
        raise ValueError(f"{type(settings).__name__} has no field {name!r}; it has {', '.join(sorted(known))}")
    return get_type_hints(type(settings), include_extras=True)[name]
