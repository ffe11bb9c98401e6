"""The start of the distribution as signals: who is ready, and what waits for it. One a process.

A feature that is off, or that fails, answers as well: what waits for it goes on without it.
"""

from __future__ import annotations

from threading import RLock
from typing import TYPE_CHECKING, Final

from otel_perf.core.records import record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ERROR_HANDLING: Final = "ERROR_HANDLING_READY"
MEMORY_MANAGEMENT: Final = "MEMORY_MANAGEMENT_READY"
ENHANCED_LOGGING: Final = "ENHANCED_LOGGING_READY"
HEALTH_MONITORING: Final = "HEALTH_MONITORING_READY"
PERFORMANCE_OPTIMIZATION: Final = "PERFORMANCE_OPTIMIZATION_COMPLETE"
NAMES: Final = (
    ERROR_HANDLING, MEMORY_MANAGEMENT, ENHANCED_LOGGING, HEALTH_MONITORING, PERFORMANCE_OPTIMIZATION,
)  # fmt: skip
OFF: Final = "off"
_OUTSIDE: Final = "outside"


@record
class Answer:
    """What a signal says: ready without a reason, else failed."""

    name: str
    reason: str

    @property
    def ready(self) -> bool:
        """Whether it says ready."""
        return not self.reason


class Sequence:
    """Thread-safe; listeners are called in the thread that answers, under no lock."""

    def __init__(self) -> None:
        self.external: frozenset[str] = frozenset()
        self.listeners: list[Callable[[Answer], None]] = []
        self._lock = RLock()
        self._reasons: dict[str, dict[str, str | None]] = {}  # by name, of each emitter; None: it has not answered

    def expect(self, name: str, emitter: str) -> None:
        """``emitter`` is going to answer for ``name``, which is settled when all of its emitters have."""
        if name and name not in self.external:
            self._reasons.setdefault(name, {})[emitter] = None

    def leave_to_others(self, names: Iterable[str]) -> None:
        """These come from outside."""
        self.external = frozenset(names)
        for name in self.external:
            self._reasons[name] = {_OUTSIDE: None}

    def answer(self, name: str, emitter: str, reason: str = "") -> None:
        """``emitter`` is ready or, with a ``reason``, has failed; a later answer takes the place of an earlier one."""
        if name and name not in self.external:
            self._answer(name, emitter, reason)

    def answer_from_outside(self, name: str, reason: str = "") -> None:
        """Somebody else is."""
        self._answer(name, _OUTSIDE, reason)

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those that have not been answered; one that nobody emits is not waited for."""
        with self._lock:
            return [name for name in names if None in self._reasons.get(name, {}).values()]

    def answers(self) -> dict[str, Answer]:
        """All that are settled."""
        with self._lock:
            return {
                name: Answer(name, _joined(self._reasons[name])) for name in self._reasons if self._is_settled(name)
            }

    def after_fork_in_child(self) -> None:
        """Nobody holds its lock."""
        self._lock = RLock()

    def _answer(self, name: str, emitter: str, reason: str) -> None:
        with self._lock:
            before = self.answers().get(name)
            self._reasons.setdefault(name, {})[emitter] = reason
            after = self.answers().get(name)
        if after is not None and after != before:
            for listener in tuple(self.listeners):
                listener(after)

    def _is_settled(self, name: str) -> bool:
        return None not in self._reasons[name].values()


def _joined(reasons: dict[str, str | None]) -> str:
    """Why it has failed: one that broke is a reason for all; those that are off are one if there is no other."""
    broken = [f"{emitter}: {reason}" for emitter, reason in reasons.items() if reason and not reason.startswith(OFF)]
    off = [reason for reason in reasons.values() if reason and reason.startswith(OFF)]
    if broken:
        return "; ".join(broken) if len(reasons) > 1 else next(reason for reason in reasons.values() if reason)
    return off[0] if len(off) == len(reasons) else ""
